"""Products with weights in 4 and 8 bits beside ONNX Runtime's MatMulNBits, on the lines of problems/weights.txt.

    python bench/weights.py [NAME ...]

Columns: the float32 product, com.microsoft.MatMulNBits as it stands (float32 arithmetic) and with accuracy_level 4
(ONNX Runtime quantises the rows of x, too), and ours, on one thread. Medians of interleaved runs.
"""

import pathlib
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import planish


def problems(names):
    for line in (pathlib.Path(__file__).parent / "problems" / "weights.txt").read_text().splitlines():
        name, *numbers = line.split()
        if name != "#" and (not names or name in names):
            yield name, *map(int, numbers)


def model(m, n, k, bits, block, level=None):
    """level None: the float32 product of the decoded weights."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (n, k // block, block * bits // 8), dtype=np.uint8)
    scales = rng.uniform(0.01, 0.02, (n, k // block)).astype(np.float32)
    if level is None:
        values = np.stack([codes & 15, codes >> 4], -1).reshape(n, -1, block) if bits == 4 else codes
        real = (values.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
        weights = [numpy_helper.from_array(np.ascontiguousarray(real.reshape(n, k).T), "w")]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    else:
        weights = [numpy_helper.from_array(codes, "w"), numpy_helper.from_array(scales.reshape(-1), "s")]
        attributes = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": level}
        node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
        weights,
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def ort_session(proto: onnx.ModelProto):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return lambda x: session.run(None, {"x": x})[0]


def engine(proto: onnx.ModelProto):
    plan = planish.build(proto, progress=False, optimization_level=1, verify=False)
    return planish.load(plan, "cpu", threads=1)


def main():
    print(f"{'problem':30}{'ORT float32':>13}{'ORT':>9}{'ORT level 4':>13}{'Planish':>9}{'ours / ORT':>12}  ms")
    for name, m, n, k, bits, block in problems(sys.argv[1:]):
        coded = model(m, n, k, bits, block, 0)
        runs = [
            ort_session(model(m, n, k, bits, block)),
            ort_session(coded),
            ort_session(model(m, n, k, bits, block, 4)),
            engine(coded),
        ]
        x = np.random.default_rng(1).normal(size=(m, k)).astype(np.float32)
        expected = runs[0](x)
        # k sums of float32 roundings, on the magnitude of what is summed.
        np.testing.assert_allclose(runs[3](x), expected, atol=k * 2**-24 * np.abs(expected).max() * 8)
        times = [[] for _ in runs]
        until = time.perf_counter() + 3
        while time.perf_counter() < until or len(times[0]) < 5:
            for run, seconds in zip(runs, times, strict=True):
                begin = time.perf_counter()
                run(x)
                seconds.append(time.perf_counter() - begin)
        ms = [1e3 * statistics.median(seconds) for seconds in times]
        print(f"{name:30}{ms[0]:13.3f}{ms[1]:9.3f}{ms[2]:13.3f}{ms[3]:9.3f}{ms[3] / min(ms[1:3]):12.2f}", flush=True)


if __name__ == "__main__":
    main()
