"""Whole networks against ONNX Runtime: one plan for all batch sizes and lengths, from Python, command line, C++, C."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from model_zoo import NETWORKS, onnx_path

import planish

BUILD = Path(planish._planish.__file__).parents[2]
ROUNDOFF = 2.0**-24
LAMBDA = 6  # sums of rounding errors stay below lambda sqrt(K) roundoffs but for 2 exp(-lambda^2 / 2) = 3e-8 of them


def products(graph):
    """K for each convolution and matrix product: how many terms each of its outputs sums."""
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = list(node.attribute[0].t.dims)
    for node in graph.node:
        weight = shapes.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type == "Conv":
            yield int(np.prod(weight[1:]))
        elif node.op_type == "ConvTranspose":
            yield int(weight[0] * np.prod(weight[2:]))
        elif node.op_type in ("MatMul", "Gemm"):
            yield min(weight) if weight and node.op_type == "Gemm" else weight[-2] if weight else 64  # a head's width


class Case:
    """One set of inputs with what ONNX Runtime makes of them."""

    def __init__(self, shapes, feeds, expected):
        self.shapes, self.feeds, self.expected = shapes, feeds, expected

    def __str__(self):
        return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())


class Subject:
    """A network with its plans, one with all the model's open dimensions and one built for given shapes."""

    def __init__(self, network, folder):
        self.network, self.folder = network, Path(folder)
        path = onnx_path(network)
        graph = onnx.load(path).graph
        self.terms = sum(products(graph))
        self.last = {output: node.op_type for node in graph.node for output in node.output}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in session.get_outputs()]
        self.cases = []
        for shapes in network.cases:
            feeds = network.feeds(shapes)
            self.cases.append(Case(shapes, feeds, dict(zip(self.outputs, session.run(None, feeds)))))
        del session
        self.plans = {"dynamic": self.folder / "dynamic.plan", "shaped": self.folder / "shaped.plan"}
        self.report = planish.build(path, self.plans["dynamic"], progress=False).report
        # The first build has compared every region with the reference; this one is compared with ONNX Runtime only.
        planish.build(path, self.plans["shaped"], shapes=network.shape_ranges(), verify=False, progress=False)

    def magnitude(self, name, expected):
        """Of the values that an output is made of. A probability is made of logits as large as -log p, and moves by at
        most half of what they move (sigmoid: p (1 - p) <= 1/4; softmax: 2 p (1 - p) <= 1/2)."""
        if self.last[name] in ("Sigmoid", "Softmax"):
            return max(1, -np.log(max(expected.min(), np.finfo(np.float32).tiny)) / 2)
        return np.abs(expected).max()

    def check(self, case, results, how):
        """A layer adds an error of some sqrt(K) roundoffs to values of the network's own scale. The roundings of
        different layers, and of the two sides, are independent: their squares add."""
        assert list(results) == self.outputs
        for name, expected in case.expected.items():
            actual = results[name]
            assert actual.dtype == expected.dtype
            assert actual.shape == expected.shape, f"{self.network.name} {how}, {case}"
            tolerance = LAMBDA * np.sqrt(2 * self.terms) * ROUNDOFF * self.magnitude(name, expected)
            error = np.abs(actual.astype(np.float64) - expected).max()
            assert error <= tolerance, f"{self.network.name} {how}, {case}: {error:.2e} > {tolerance:.2e}"


@pytest.fixture(scope="module", params=NETWORKS, ids=[network.name for network in NETWORKS])
def subject(request):
    folder = tempfile.mkdtemp(prefix="planish-models-")  # plans of up to 440 MB each: removed before the next network
    yield Subject(request.param, folder)
    shutil.rmtree(folder)


def test_build_verified_every_region(subject):
    assert subject.report["warnings"] == []
    rows = {row["name"]: row for row in subject.report["verification"]}
    assert {f"output:{name}" for name in subject.outputs} <= set(rows)
    assert all(row["passed"] for row in rows.values())


@pytest.mark.parametrize("plan", ["dynamic", "shaped"])
def test_python(subject, plan):
    engine = planish.load(subject.plans[plan])
    context = engine.create_context()
    for case in subject.cases:
        subject.check(case, context.run(case.feeds), f"{plan} plan")
    assert engine.info["interpreted"] == ""


def test_thread_count_changes_no_bit(subject):
    case = subject.cases[1]
    one, two = (planish.load(subject.plans["dynamic"], threads=threads).run(case.feeds) for threads in (1, 2))
    for name in subject.outputs:
        np.testing.assert_array_equal(one[name], two[name])


def test_command_line(subject):
    command = [str(BUILD / "planish")] if (BUILD / "planish").exists() else [sys.executable, "-m", "planish"]
    for case in subject.cases:
        np.savez(subject.folder / "in.npz", **case.feeds)
        arguments = ["run", subject.plans["dynamic"], "--input", subject.folder / "in.npz"]
        subprocess.run([*command, *arguments, "--output", subject.folder / "out.npz"], check=True, capture_output=True)
        with np.load(subject.folder / "out.npz") as results:
            subject.check(case, {name: results[name] for name in subject.outputs}, "command line")


def example(name):
    path = BUILD / "examples" / name
    if not path.exists():
        pytest.skip("the C++ examples are not built")
    return str(path)


def test_cpp(subject):
    for case in subject.cases:
        arguments = []
        for name, array in case.feeds.items():
            array.tofile(subject.folder / f"{name}.bin")
            dims = "x".join(map(str, array.shape))
            arguments.append(f"{name}={dims}:{subject.folder / name}.bin")
        targets = {name: subject.folder / f"out{i}.bin" for i, name in enumerate(subject.outputs)}
        arguments += [f"{name}={target}" for name, target in targets.items()]
        command = [example("run_files"), subject.plans["dynamic"], *arguments]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        shapes = [line.rsplit(" ", 1) for line in run.stdout.splitlines()]
        results = {
            name: np.fromfile(targets[name], case.expected[name].dtype).reshape([int(d) for d in dims.split("x")])
            for name, dims in shapes
        }
        subject.check(case, results, "C++")


def test_c(subject):
    """The runtime-only library loads and runs the plan; zeros in, numbers out."""
    shapes = ["x".join(map(str, shape)) for shape in subject.cases[-1].shapes.values()]
    command = [example("describe"), subject.plans["dynamic"], *shapes]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    for name in subject.outputs:
        values = next(line for line in run.stdout.splitlines() if line.startswith(f"{name}:"))
        assert np.isfinite([float(text) for text in values.split(":")[1].split()]).all()
