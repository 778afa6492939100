"""Every kernel family on a GPU over odd shapes, against the CPU in float32: one region a case, in every precision, by
every tactic that the tuner would time. Prints a line a case; the exit code is the number of failures. Needs NumPy
alone, so that compute-sanitizer has little else to watch: `--first` runs the tactic of the cost model only."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx_bytes import Float8, model, node

import planish

UNIT = {"fp32": 2.0**-24, "tf32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}  # of what is stored
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def bfloat16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def held(x: np.ndarray, precision: str) -> np.ndarray:
    """Numbers that are stored and multiplied as they are: tf32 has the fraction bits of float16."""
    if precision == "fp32":
        return x.astype(np.float32)
    return bfloat16(x) if precision == "bf16" else x.astype(np.float16).astype(np.float32)


class Case:
    """A chain of nodes on inputs of fixed shapes; `terms`: how many products a sum has; `quantum`: what two results may
    differ by, because they are rounded to its multiples.

    What is rounded on the way: `between` names tensors of the output's shape, each of which reaches it with a factor of
    1.13 at most (GELU's slope) and is rounded where nothing is fused; `on_the_way` gives, for inputs, weights and the
    unit of rounding, a bound of the error of all else that is rounded, fused or not."""

    def __init__(
        self,
        name: str,
        nodes: list[bytes],
        inputs: dict,
        output: list[int],
        weights: dict,
        terms: int = 1,
        quantum: float = 0,
        between: tuple[str, ...] = (),
        on_the_way: Callable[[dict, dict, float], np.ndarray | float] = lambda feeds, weights, unit: 0.0,
    ):
        self.name, self.nodes, self.inputs, self.output, self.terms = name, nodes, inputs, output, terms
        self.quantum, self.between, self.on_the_way = quantum, between, on_the_way
        self.relative = 0.0  # likewise, in units of the result
        rng = np.random.default_rng(len(name))
        self.weights = {
            key: value if isinstance(value, np.ndarray) else rng.standard_normal(value)
            for key, value in weights.items()
        }
        self.feeds = {key: rng.standard_normal(shape) for key, shape in inputs.items()}

    def constants(self, precision: str) -> dict:
        return {k: held(v, precision) if v.dtype.kind == "f" else v for k, v in self.weights.items()}

    def bytes(self, precision: str, outputs: tuple[str, ...] = ("y",)) -> bytes:
        return model(self.nodes, self.inputs, dict.fromkeys(outputs, self.output), self.constants(precision))


def gemm(m: int, n: int, k: int, tail: str = "Relu") -> Case:
    nodes = [node("Gemm", ["x", "w", "b"], ["p"], transB=1), node(tail, ["p"], ["y"])]
    weights = {"w": (n, k), "b": (n,)}
    return Case(f"gemm {m}x{n}x{k} {tail}", nodes, {"x": [m, k]}, [m, n], weights, k, between=("p",))


def matmul(batch: int, m: int, n: int, k: int) -> Case:
    nodes = [node("MatMul", ["x", "z"], ["y"])]
    inputs = {"x": [batch, m, k], "z": [batch, k, n]}
    return Case(f"matmul {batch}x{m}x{n}x{k}", nodes, inputs, [batch, m, n], {}, k)


def conv(
    images: int,
    channels: int,
    size: tuple[int, int],
    out: int,
    kernel: int,
    stride: int = 1,
    group: int = 1,
    dilation: int = 1,
    residual: bool = False,
) -> Case:
    pad = kernel // 2 * dilation
    sizes = [(s + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1 for s in size]
    attributes = {"pads": [pad] * 4, "strides": [stride] * 2, "dilations": [dilation] * 2, "group": group}
    nodes = [node("Conv", ["x", "w", "b"], ["c"], **attributes)]
    inputs = {"x": [images, channels, *size]}
    output = [images, out, *sizes]
    if residual:
        inputs["r"] = output
        nodes.append(node("Add", ["c", "r"], ["s"]))
    nodes.append(node("Relu", ["s" if residual else "c"], ["y"]))
    name = f"conv {images}x{channels}x{size[0]}x{size[1]} to {out} {kernel}x{kernel}/{stride} g{group} d{dilation}"
    weights = {"w": (out, channels // group, kernel, kernel), "b": (out,)}
    between = ("c", "s") if residual else ("c",)
    terms = channels // group * kernel * kernel
    return Case(name + " +" * residual, nodes, inputs, output, weights, terms, between=between)


def excitation(images: int, channels: int, hidden: int, size: int) -> Case:
    """The pool, two 1x1 convolutions and the product of a squeeze-and-excitation block."""
    nodes = [
        node("GlobalAveragePool", ["x"], ["s"]),
        node("Conv", ["s", "w", "b"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "v", "d"], ["g"]),
        node("Sigmoid", ["g"], ["t"]),
        node("Mul", ["x", "t"], ["y"]),
    ]
    shape = [images, channels, size, size]
    rng = np.random.default_rng(hidden)
    weights = {
        "w": rng.standard_normal((hidden, channels, 1, 1)) / np.sqrt(channels),
        "b": (hidden,),
        "v": rng.standard_normal((channels, hidden, 1, 1)) / np.sqrt(hidden),
        "d": (channels,),
    }

    def on_the_way(feeds: dict, weights: dict, unit: float) -> np.ndarray:
        """Of the means, the hidden layer (whose values are below the sums of what they are made from) and the gates,
        whose slope is a quarter; float32 that is multiplied as tf32 loses what float16 would."""
        multiplied = 2.0**-10 if unit < 2.0**-11 else unit
        w, v = (np.abs(weights[n]).reshape(weights[n].shape[:2]) for n in "wv")
        means = np.abs(feeds["x"].mean(axis=(2, 3)))
        from_means = means @ w.T
        hidden_error = multiplied * (2 * from_means + np.abs(weights["b"]))
        before_gate = (from_means + np.abs(weights["b"])) @ v.T + np.abs(weights["d"])
        gate_error = (hidden_error @ v.T + unit * before_gate) / 4 + unit
        return np.abs(feeds["x"]) * gate_error[:, :, None, None]

    name = f"excitation {images}x{channels} {hidden} {size}"
    return Case(name, nodes, {"x": shape}, shape, weights, channels, on_the_way=on_the_way)


def borders(name: str, scale: str, zero: str) -> list[bytes]:
    """Q, DQ: %NAME to %NAMEd."""
    return [
        node("QuantizeLinear", [name, scale, zero], [f"{name}q"]),
        node("DequantizeLinear", [f"{name}q", scale, zero], [f"{name}d"]),
    ]


def quantised(
    name: str,
    product: bytes,
    inputs: dict,
    output: list[int],
    dims: tuple,
    zero: int | None,
    residual=False,
    floats=False,
) -> Case:
    """%y of a product %c of %xd, %w (of `dims`, columns first) and %b between borders of 8 bits: a sum with decoded %rd
    (residual), Relu, and borders again, unless the result stays in floats. Zero None: float8, else integers."""
    rng = np.random.default_rng(7)
    terms = int(np.prod(dims[1:]))
    if zero is None:
        codes = rng.integers(0x20, 0x40, dims) | rng.integers(0, 2, dims) << 7  # 1/8 to 2, of both signs
        stored, numbers = codes.astype(np.uint8).view(Float8), 2.0 ** ((codes >> 3 & 15) - 7) * (1 + codes % 8 / 8)
        zeros = {"z": np.zeros((), np.uint8).view(Float8), "o": np.zeros((), np.uint8).view(Float8)}
    else:
        stored = numbers = rng.integers(-127, 128, dims).astype(np.int8)
        zeros = {"z": np.array(zero, np.uint8), "o": np.array(101, np.uint8)}
    scales = 0.01 * (1 + np.arange(dims[0]) % 3)
    # Of a result, whose terms are a normal number by a weight.
    spread = float(np.sqrt(np.mean((numbers.astype(np.float64).reshape(dims[0], -1) * scales[:, None]) ** 2) * terms))
    step = spread / 32
    weights = {"q": stored, "u": scales, "b": (dims[0],), "s": np.array(0.02), "t": np.array(step), **zeros}
    nodes = [*borders("x", "s", "z"), node("DequantizeLinear", ["q", "u"], ["w"], axis=0), product]
    last = "c"
    if residual:
        inputs = {**inputs, "r": output}
        nodes += [*borders("r", "t", "z"), node("Add", ["c", "rd"], ["a"])]
        last = "a"
    nodes.append(node("Relu", [last], ["y" if floats else "f"]))
    if not floats:
        nodes += [*borders("f", "t", "o"), node("Identity", ["fd"], ["y"])]

    def on_the_way(_feeds: dict, _weights: dict, unit: float) -> float:
        """Where the region is dissolved, factors are rounded: six deviations of their sum. Tensor cores add up products
        of float8 with 13 fraction bits, 32 at a time and each of them rounded to the largest's last bit."""
        factors = max(unit, 2.0**-11) * np.sqrt(2)
        sums = np.sqrt(terms) * 2.0**-13 if zero is None else 0
        return 6 * max(factors, sums) * spread

    kind = "float8" if zero is None else "bytes"
    tags = ("" if zero is None else f" z{zero}") + " +" * residual + " floats" * floats
    quantum = 0 if floats or zero is None else step
    case = Case(f"{kind} {name}{tags}", nodes, inputs, output, weights, 1, quantum, on_the_way=on_the_way)
    # A number near the middle of two that are stored may become either: e4m3 has steps of an eighth, and of 2^-9 below.
    if zero is None and not floats:
        case.quantum, case.relative = step * 2.0**-9, 0.125
    return case


def quantised_conv(
    channels: int, size: int, out: int, kernel: int, zero: int | None, group: int = 1, stride: int = 1, **rest
) -> Case:
    pads = {"pads": [kernel // 2] * 4, "group": group, "strides": [stride] * 2}
    to = (size + 2 * (kernel // 2) - kernel) // stride + 1
    name = f"conv {channels}x{size} to {out} {kernel}x{kernel}/{stride} g{group}"
    product = node("Conv", ["xd", "w", "b"], ["c"], **pads)
    dims = (out, channels // group, kernel, kernel)
    return quantised(name, product, {"x": [2, channels, size, size]}, [2, out, to, to], dims, zero, **rest)


def quantised_gemm(m: int, n: int, k: int, zero: int | None, **rest) -> Case:
    product = node("Gemm", ["xd", "w", "b"], ["c"], transB=1)
    return quantised(f"gemm {m}x{n}x{k}", product, {"x": [m, k]}, [m, n], (n, k), zero, **rest)


def quantised_pool(zero: int | None) -> Case:
    """Maxima of what is stored in 8 bits."""
    nodes = [*borders("x", "s", "z"), node("MaxPool", ["xd"], ["y"], kernel_shape=[3, 3], strides=[2, 2])]
    zeros = np.zeros((), np.uint8).view(Float8) if zero is None else np.array(zero, np.uint8)
    weights = {"s": np.array(0.02), "z": zeros}
    kind = "float8" if zero is None else "bytes"
    return Case(f"{kind} max_pool", nodes, {"x": [2, 32, 13, 11]}, [2, 32, 6, 5], weights)


def conv_transpose(channels: int, size: int, out: int, kernel: int, stride: int) -> Case:
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=[stride] * 2, pads=[1] * 4)]
    to = (size - 1) * stride + kernel - 2
    name = f"conv_transpose {channels}x{size} to {out} {kernel}x{kernel}/{stride}"
    shapes = {"x": [2, channels, size, size]}
    return Case(
        name, nodes, shapes, [2, out, to, to], {"w": (channels, out, kernel, kernel)}, channels * kernel * kernel
    )


def of_probabilities(q: np.ndarray, k: np.ndarray, v: np.ndarray, unit: float, bias=0.0) -> np.ndarray:
    """What comes of probabilities, which are rounded to be multiplied: they sum to one."""
    scores = np.einsum("nhqd,nhkd->nhqk", q, k) / np.sqrt(q.shape[-1]) + bias
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return unit * np.einsum("nhqk,nhkd->nhqd", p / p.sum(axis=-1, keepdims=True), np.abs(v))


def attention(
    heads: int,
    queries: int,
    keys: int,
    dim: int,
    kv_heads: int = 0,
    mask: tuple[int, ...] = (),
    boolean: bool = False,
    causal: bool = False,
) -> Case:
    """Of two images; `mask`: its shape."""
    kv_heads = kv_heads or heads
    inputs = {"q": [2, heads, queries, dim], "k": [2, kv_heads, keys, dim], "v": [2, kv_heads, keys, dim]}
    weights = {"m": np.random.default_rng(keys).random(mask) < 0.7} if boolean else {}
    if mask and not boolean:
        inputs["m"] = list(mask)
    nodes = [node("Attention", ["q", "k", "v", *["m"] * bool(mask)], ["y"], is_causal=int(causal))]

    def on_the_way(feeds: dict, weights: dict, unit: float) -> np.ndarray:
        k, v = (np.repeat(feeds[name], heads // kv_heads, axis=1) for name in "kv")
        bias = np.where(np.tri(queries, keys, dtype=bool), 0, -np.inf) if causal else 0.0
        if mask:
            bias = bias + (np.where(weights["m"], 0, -np.inf) if boolean else feeds["m"])
        return of_probabilities(feeds["q"], k, v, unit, bias)

    name = f"attention {heads}x{queries}x{keys}x{dim}"
    name += f" of {kv_heads}" * (kv_heads < heads) + f" mask {mask}" * bool(mask) + " boolean" * boolean
    return Case(name + " causal" * causal, nodes, inputs, inputs["q"], weights, keys + dim, on_the_way=on_the_way)


def attention_of_columns(heads: int, tokens: int, dim: int) -> Case:
    """Queries, keys and values are columns of one tensor, as one product makes them."""
    width = heads * dim
    weights = {"axis": np.array([2], np.int64)}
    weights |= {f"at{i}": np.array([i * width], np.int64) for i in range(4)}
    nodes = [node("Slice", ["x", f"at{i}", f"at{i + 1}", "axis"], [name]) for i, name in enumerate("qkv")]
    nodes.append(node("Attention", ["q", "k", "v"], ["y"], q_num_heads=heads, kv_num_heads=heads))

    def on_the_way(feeds: dict, _: dict, unit: float) -> np.ndarray:
        parts = feeds["x"].reshape(2, tokens, 3, heads, dim).transpose(2, 0, 3, 1, 4)
        error = of_probabilities(*parts[:2], parts[2], unit)
        return error.transpose(0, 2, 1, 3).reshape(2, tokens, width)

    name = f"attention of columns {heads}x{tokens}x{dim}"
    return Case(
        name, nodes, {"x": [2, tokens, 3 * width]}, [2, tokens, width], weights, tokens + dim, on_the_way=on_the_way
    )


def row_op(op: str, rows: int, columns: int, **weights) -> Case:
    nodes = [node(op, ["x", *weights], ["y"])]
    return Case(f"{op} {rows}x{columns}", nodes, {"x": [rows, columns]}, [rows, columns], weights, columns)


def cases() -> list[Case]:
    axis = {"a": np.array([1], np.int64)}
    return [
        gemm(1, 1000, 512),
        gemm(37, 72, 200, "Gelu"),
        gemm(130, 264, 96, "Tanh"),
        gemm(300, 21, 37, "Sigmoid"),
        gemm(513, 520, 1032),
        matmul(3, 70, 72, 40),
        matmul(2, 21, 33, 19),
        conv(2, 40, (11, 9), 72, 3),
        conv(1, 64, (7, 7), 128, 1, residual=True),
        conv(2, 16, (23, 17), 24, 3, stride=2, dilation=2),
        conv(1, 256, (7, 7), 256, 3, residual=True),
        conv(2, 32, (9, 7), 48, 3, group=4, residual=True),
        conv(1, 15, (6, 7), 21, 3, group=3),
        conv(2, 3, (33, 41), 24, 7, stride=2),
        conv(3, 3, (64, 70), 32, 3, stride=2),
        conv(1, 3, (32, 48), 20, 4, stride=4),
        conv(2, 24, (15, 13), 24, 5, group=24),
        conv(3, 48, (37, 41), 48, 3, group=48, residual=True),
        conv(2, 32, (22, 31), 32, 3, stride=2, group=32),
        excitation(2, 96, 8, 11),
        excitation(2, 144, 6, 9),
        excitation(1, 1152, 48, 7),
        *(case for zero in (131, None) for case in [
            quantised_conv(64, 9, 72, 3, zero),
            quantised_conv(48, 14, 40, 1, zero),
            quantised_conv(3, 21, 24, 3, zero),
            quantised_conv(32, 9, 48, 3, zero, group=2),
            quantised_conv(144, 13, 64, 1, zero, stride=2),
            quantised_conv(64, 14, 144, 1, zero, residual=True),
            quantised_gemm(37, 96, 208, zero),
            quantised_gemm(300, 288, 528, zero, residual=True),
            quantised_gemm(513, 1000, 1040, zero, floats=True),
            quantised_pool(zero),
        ]),
        *(case for zero in (0, None) for case in [
            quantised_conv(64, 9, 80, 3, zero),
            quantised_conv(32, 15, 48, 3, zero, stride=2),
            quantised_conv(160, 7, 256, 3, zero, residual=True),
            quantised_conv(48, 9, 40, 3, zero, floats=True),
        ]),
        quantised_conv(24, 11, 24, 3, 131, group=24),
        conv_transpose(16, 9, 12, 4, 2),
        attention(3, 61, 130, 64),
        attention(2, 1, 300, 128),
        attention(12, 128, 128, 64, mask=(2, 1, 128, 128)),
        attention(3, 61, 131, 80, mask=(1, 3, 1, 131)),
        attention(4, 70, 98, 64, kv_heads=2, mask=(2, 1, 70, 98), boolean=True),
        attention(12, 197, 197, 64),
        attention(3, 130, 130, 128),
        attention(3, 300, 300, 64, causal=True),
        attention(4, 200, 330, 128, kv_heads=2, causal=True),
        attention(2, 100, 150, 256, mask=(2, 2, 100, 150)),
        attention(80, 140, 140, 64),
        attention_of_columns(12, 197, 64),
        row_op("Softmax", 13, 197),
        row_op("LayerNormalization", 13, 768, s=(768,), b=(768,)),
        Case("max_pool", [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2])], {"x": [2, 20, 13, 11]},
             [2, 20, 6, 5], {}),
        Case("mean", [node("ReduceMean", ["x", "a"], ["y"])], {"x": [7, 130, 24]}, [7, 1, 24], axis, 130),
        Case("transpose", [node("Transpose", ["x"], ["y"], perm=[0, 2, 1])], {"x": [2, 100, 70]}, [2, 70, 100], {}),
        Case("point-wise", [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "z"], ["y"])],
             {"x": [3, 65, 7], "z": [3, 65, 7]}, [3, 65, 7], {}, between=("y",)),
    ]  # fmt: skip


def tactics(case: Case, precision: str, target: str, folder: Path):
    """Yields (name, arguments of build): the cost model's choice, then everyone that the tuner times."""
    common = {"target": target, "precision": precision, "progress": False, "verify": False, "timing_cache": None}
    yield "default", common | {"optimization_level": 1}
    path = folder / "times.json"
    path.unlink(missing_ok=True)
    planish.build(case.bytes(precision), **(common | {"optimization_level": 3, "timing_cache": path}))
    if not path.exists():
        return
    cache = json.loads(path.read_text())
    names = {name for entry in cache["entries"].values() for name in entry["nanoseconds"]}
    for name in sorted(names - {"default", "tuned", "fused"}):
        # With these times everybody who can takes this one. What was said of the network as a whole is forgotten.
        chosen = folder / "chosen.json"
        entries = {}
        for key, entry in cache["entries"].items():
            if entry["region"] != "network":
                entries[key] = entry | {"noise": 0, "nanoseconds": {n: 10**6 for n in entry["nanoseconds"]}}
                if name in entry["nanoseconds"]:
                    entries[key]["nanoseconds"][name] = 10**3
        chosen.write_text(json.dumps(cache | {"entries": entries}))
        yield name, common | {"optimization_level": 2, "timing_cache": chosen}


def check(
    case: Case, precision: str, feeds: dict, expected: np.ndarray, between: np.ndarray, build: dict, device: str
) -> str:
    """What ran, and how far off it was. Sums of `terms` products in float32, in any order, each term below three times
    the largest result (or 1); a few functions of them; then rounded to what is stored, as is what lies `between`."""
    plan = planish.build(case.bytes(precision), **build)
    engine = planish.load(plan, device)
    actual = np.full(case.output, np.nan, np.float32)
    for _ in range(2):  # the second time semaphores must be as the first run found them
        actual.fill(np.nan)
        engine.run(feeds, {"y": actual})
        largest = max(1.0, float(np.abs(expected).max()))
        unit = UNIT[precision] if device != "cpu" else 2.0**-24
        # GELU, tanh and the exponentials of 16-bit plans are good to 2^-16 (kernels/math.cuh).
        functions = 2.0**-14 if unit > 2.0**-24 else 2.0**-20
        tolerance = (3 * case.terms * 2.0**-24 + functions) * largest + 1.01 * unit * np.abs(expected) + 2.0**-24
        tolerance += 1.001 * (case.quantum + case.relative * np.abs(expected)) + 1.13 * unit * between
        tolerance += 1.01 * case.on_the_way(feeds, case.constants(precision), unit)
        excess = np.abs(actual - expected) / tolerance
        worst = float(np.nanmax(excess)) if np.isfinite(actual).all() else float("nan")
        assert worst <= 1, f"error {worst:.3g} times the tolerance at {np.unravel_index(excess.argmax(), excess.shape)}"
    rows = engine.layers({key: value.shape for key, value in feeds.items()})
    where = "" if all(row["placement"] == "cuda" for row in rows) or device == "cpu" else " (CPU takes part)"
    kernels = ", ".join(row["implementation"] for row in rows if not row["name"].startswith("convert"))
    return f"{kernels}{where}: {worst:.2f} of the tolerance"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--first", action="store_true", help="the tactic of the cost model only")
    options = parser.parse_args()
    target = "cpu" if options.device == "cpu" else "cuda"
    failed = passed = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in (case for case in cases() if options.only in case.name):
            for precision in options.precision.split(","):
                feeds = {key: held(value, precision) for key, value in case.feeds.items()}
                wanted = ("y", *(name for name in case.between if name != "y"))
                plan = planish.build(case.bytes(precision, wanted), progress=False, verify=False, optimization_level=1)
                values = planish.load(plan, "cpu").run(feeds)
                expected, between = values["y"], sum(np.abs(values[name]) for name in case.between)
                stated = precision if target != "cpu" else "fp32"
                for name, build in tactics(case, stated, target, Path(folder)):
                    try:
                        stored = between if name == "dissolve" else np.float32(0)
                        note = check(case, precision, feeds, expected, stored, build, options.device)
                        passed += 1
                        print(f"PASS {case.name} {precision} {name}: {note}", flush=True)
                    except (planish.Error, AssertionError) as error:
                        failed += 1
                        print(f"FAIL {case.name} {precision} {name}: {error}", flush=True)
                    if options.first:
                        break
    print(f"{passed} passed, {failed} failed")
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
