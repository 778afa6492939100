"""precision="auto": the fastest mix of float32 and 8-bit integers within a budget of accuracy."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish

SENSITIVE = "b"
# Without these, convolutions of floats run in the interpreter: integers are faster on every machine.
FLOAT_KERNELS = ["conv_jit", "conv_winograd", "conv_strassen", "conv_chain"]


def network() -> onnx.ModelProto:
    """Three convolutions, large enough that integers pay. The first adds 1000 to one channel, which the second does
    not read: bytes that span it have no room for the others, so the second loses its signal in 8 bits."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(64, 64, 3, 3)).astype(np.float32) / 24 for name in "abc"}
    weights["b"][:, 0] = 0
    offset = np.zeros(64, np.float32)
    offset[0] = 1000
    nodes = [
        helper.make_node("Conv", ["x", "wa", "offset"], ["ya"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["ya"], ["ra"], "relu_a"),
        helper.make_node("Conv", ["ra", "wb"], ["yb"], "b", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["yb"], ["rb"], "relu_b"),
        helper.make_node("Conv", ["rb", "wc"], ["y"], "c", pads=[1, 1, 1, 1]),
    ]
    constants = [numpy_helper.from_array(value, "w" + name) for name, value in weights.items()]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 28, 28]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], [*constants, numpy_helper.from_array(offset, "offset")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 64, 28, 28)).astype(np.float32) for _ in range(count)]


def build(budget="sqnr>=20", **options):
    options = {"disabled_implementations": FLOAT_KERNELS, **options}
    options = {"calibration": samples(5), "progress": False, "precision": "auto", **options}
    return planish.build(network(), budget=budget, **options)


def chosen(plan) -> dict:
    (row,) = [row for row in plan.report["mixes"] if row["chosen"]]
    return row


def precisions(plan) -> dict:
    return {row["layer"]: row["after"] for row in plan.report["precision"]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "timing.json"


@pytest.fixture(scope="module")
def plan(cache):
    return build(timing_cache=cache)


def test_sensitive_layer_stays_float(plan):
    assert precisions(plan) == {"a": "int8", "b": "fp32", "c": "int8"}
    noise = {tuple(g["layers"]): g["choices"]["int8"]["noise"] for g in plan.report["groups"]}
    assert noise[(SENSITIVE,)] > 100 * max(v for k, v in noise.items() if k != (SENSITIVE,))
    rows = {row["name"]: row for row in plan.report["mixes"]}
    assert not rows["int8"]["met"], "the budget is what keeps the layer float"
    assert rows["fp32"]["layers"] == 0
    best = chosen(plan)
    assert best["met"]
    assert best["on_front"]
    assert best["held_out"] >= 20
    assert best["seconds"] < rows["fp32"]["seconds"]
    assert [row["seconds"] for row in plan.report["mixes"]] == sorted(row["seconds"] for row in rows.values())


def test_budget_holds_on_other_inputs(plan):
    floats = planish.load(planish.build(network(), progress=False, optimization_level=1), "cpu")
    engine = planish.load(plan, "cpu")
    pairs = [(floats(x), engine(x)) for x in samples(3, seed=9)]
    signal, noise = (sum((f(a, b) ** 2).sum() for a, b in pairs) for f in (lambda a, b: a, lambda a, b: a - b))
    assert 10 * np.log10(signal / noise) > 20
    assert engine.info["precision"] == "mixed"
    assert floats.info["precision"] == "fp32"


def test_equal_caches_give_equal_plans(plan, cache):
    again = build(timing_cache=cache, replay_only=True)
    assert again.bytes() == plan.bytes()
    with pytest.raises(planish.Error, match="timing cache"):
        build(timing_cache=cache.parent / "empty.json", replay_only=True)


def test_loose_budget_takes_integers_throughout():
    plan = build("sqnr>=-10", mixes=0)
    assert set(precisions(plan).values()) == {"int8"}
    assert planish.load(plan, "cpu").info["precision"] == "int8"


def test_slow_integers_are_not_taken():
    """Without kernels to quantise with, every border goes through the interpreter."""
    plan = build("sqnr>=-10", disabled_implementations=["quantize"])
    assert chosen(plan)["name"] == "fp32"
    assert set(precisions(plan).values()) == {"fp32"}
    assert planish.load(plan, "cpu").info["precision"] == "fp32"


def test_budget_out_of_reach_says_what_is():
    with pytest.raises(planish.Error, match=r"sqnr>=60 cannot be met: the best reachable is sqnr = ") as error:
        build("sqnr>=60", layer_precision={SENSITIVE: "int8"})
    assert error.value.code == "verification_failed"
    with pytest.raises(planish.Error, match=r"best reachable is metric = 0\.5"):
        build("metric>=0.9", metric=lambda engine: 0.5, mixes=0)


def test_metric_of_ones_own():
    expected = planish.load(planish.build(network(), progress=False, optimization_level=1), "cpu")
    inputs = samples(2, seed=5)
    asked = []

    def correlation(engine):
        value = float(np.mean([np.corrcoef(expected(x).ravel(), engine(x).ravel())[0, 1] for x in inputs]))
        asked.append((engine.info["precision"], value))
        return value

    plan = build("metric>=fp32-0.02", metric=correlation)
    assert precisions(plan)[SENSITIVE] == "fp32"
    assert chosen(plan)["accuracy"] in [value for _, value in asked]
    assert np.isnan(chosen(plan)["held_out"])
    assert {"fp32", "int8"} <= {precision for precision, _ in asked}

    def broken(engine):
        raise KeyError("labels")

    with pytest.raises(KeyError, match="labels"):
        build("metric>=0", metric=broken)


def test_metric_of_a_command(tmp_path):
    script = tmp_path / "metric.py"
    script.write_text(
        "import sys\n"
        "content = open(sys.argv[1], 'rb').read()\n"
        "print('dequantised weights:', content.count(b'wb_dequantize') > 0)\n"
        "print('accuracy', 0.25 if b'wb_dequantize' in content else 0.75)\n"
    )
    plan = build("metric>=0.5", metric=f"{sys.executable} {script} {{plan}}")
    assert precisions(plan)[SENSITIVE] == "fp32"
    assert chosen(plan)["accuracy"] == 0.75
    with pytest.raises(planish.Error, match="failed with status"):
        build("metric>=0.5", metric="false")
    with pytest.raises(planish.Error, match="no number"):
        build("metric>=0.5", metric="echo fine; true")


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("needs an accuracy budget", {"budget": ""}),
        ("needs calibration data", {"calibration": None}),
        ("one calibration sample cannot be shared", {"calibration": samples(1)}),
        ("unknown metric", {"budget": "f1>=0.9"}),
        ("wrong side", {"budget": "top1<=0.9"}),
        ("a metric that was not given", {"budget": "metric>=0.9"}),
        ("does not use it", {"budget": "top1>=0.9", "metric": lambda engine: 1}),
        ("timing is off", {"optimization_level": 1}),
        ("not available on GPUs", {"target": "cuda:sm_90a"}),
        ("of no use for precision", {"precision": "fp32", "calibration": None}),
    ],
)
def test_wrong_options(message, options):
    with pytest.raises(planish.Error, match=message):
        build(**options)


def test_quantize_function():
    plan = planish.quantize(network(), calibration=samples(4), progress=False, optimization_level=1)
    assert set(precisions(plan).values()) == {"int8"}
    assert plan.report["mixes"] == []
    plan = planish.quantize(network(), calibration=samples(4), budget="error<=0.1", mixes=3, progress=False)
    assert precisions(plan)[SENSITIVE] == "fp32"


def test_command_line(tmp_path, capfd):
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", x=np.concatenate(samples(5)))
    plan, plot = tmp_path / "m.plan", tmp_path / "front.svg"
    words = ["planish", "quantize", tmp_path / "m.onnx", "--calib", tmp_path / "calib.npz", "--budget", "cosine>=0.99"]
    words += ["-o", plan, "--timing-cache", "none", "--mixes", "2"]
    for name in FLOAT_KERNELS:
        words += ["--disable", name]
    assert planish._planish.cli_main([str(w) for w in [*words, "--plot", plot]]) == 0
    text = capfd.readouterr().out
    assert "budget cosine>=0.99" in text
    assert "taken" in text
    assert "#: taken" in text
    assert plot.read_text().count("<circle") >= 3
    assert planish._planish.cli_main(["planish", "inspect", str(plan), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["precision"] == "mixed"
    rows = {row["layer"]: row["after"] for row in report["provenance"]["precision"]}
    assert rows == {"a": "int8", "b": "fp32", "c": "int8"}
    assert [row["chosen"] for row in report["provenance"]["mixes"]].count(True) == 1
    assert planish._planish.cli_main(["planish", "inspect", str(plan)]) == 0
    assert "fastest mix" in capfd.readouterr().out
    assert planish._planish.cli_main([str(w) for w in [*words, "--plot", tmp_path / "front.png"]]) == 1
    assert ".svg" in capfd.readouterr().err
