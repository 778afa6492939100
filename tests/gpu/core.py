"""What runs on a GPU apart from kernels: graphs, pointers, streams, contexts, memory. Prints one line a check; the exit
code is the number of failures. Needs PyTorch with CUDA and nothing else."""

from __future__ import annotations

import sys
import threading
import traceback

import numpy as np
import torch
from onnx_bytes import model, node

import planish

FAILED: list[str] = []


def check(function):
    """Runs `function`, prints its name and what it returns."""
    try:
        note = function() or ""
        print(f"PASS {function.__name__} {note}", flush=True)
    except Exception:
        FAILED.append(function.__name__)
        print(f"FAIL {function.__name__}\n{traceback.format_exc()}", flush=True)
    return function


def small_network(channels: int = 16) -> bytes:
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.normal(size=(channels, 3, 3, 3)).astype(np.float32) * 0.2,
        "b1": rng.normal(size=channels).astype(np.float32),
        "w2": rng.normal(size=(10, channels)).astype(np.float32) * 0.3,
        "b2": rng.normal(size=10).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w2", "b2"], ["z"], transB=1),
        node("Softmax", ["z"], ["y"]),
    ]
    return model(nodes, {"x": ["N", 3, 32, 32]}, {"y": ["N", 10]}, weights)


NETWORK = small_network()
CPU = planish.load(planish.build(NETWORK, progress=False, shapes={"x": (1, 3, 32, 32)}), "cpu")
X = np.random.default_rng(2).normal(size=(4, 3, 32, 32)).astype(np.float32)
SHAPES = {"x": ((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))}
CPU = planish.load(planish.build(NETWORK, progress=False, shapes=SHAPES), "cpu")
EXPECTED = CPU.run({"x": X})["y"]
PLANS = {}
# Softmax of ten classes: a probability moves by at most half of what the logits move by.
TOLERANCE = {"fp32": 2e-6, "tf32": 5e-3, "fp16": 5e-3, "bf16": 4e-2}


def engine(precision: str = "fp16", **options):
    if precision not in PLANS:
        PLANS[precision] = planish.build(
            NETWORK, target="cuda", precision=precision, progress=False, shapes=SHAPES, timing_cache=None
        )
    return planish.load(PLANS[precision], "cuda:0", **options)


def close(actual, precision: str = "fp16", expected=None) -> str:
    actual = np.asarray(actual.cpu() if isinstance(actual, torch.Tensor) else actual)
    error = np.abs(actual - (EXPECTED if expected is None else expected)).max()
    assert error <= TOLERANCE[precision], f"error {error:.3g} over {TOLERANCE[precision]}"
    return f"error {error:.2g}"


for _precision in TOLERANCE:

    def build_and_run(precision=_precision):
        eng = engine(precision)
        note = close(eng.run({"x": X})["y"], precision)
        rows = eng.layers({"x": (4, 3, 32, 32)})
        return f"{precision}: {note}; " + ", ".join(f"{r['implementation']}@{r['placement']}" for r in rows)

    check(build_and_run)


@check
def host_arrays_again():
    eng = engine()
    context = eng.create_context()
    for _ in range(3):
        close(context.run({"x": X})["y"])
    return close(context.run({"x": X[::-1].copy()})["y"], expected=EXPECTED[::-1])


@check
def torch_tensors():
    eng = engine()
    x = torch.from_numpy(X).cuda()
    y = eng.run({"x": x})["y"]
    assert isinstance(y, torch.Tensor)
    assert y.is_cuda
    return close(y)


@check
def pointers_change():
    context = engine().create_context()
    outputs = [torch.full((4, 10), float("nan"), device="cuda") for _ in range(4)]
    inputs = [torch.from_numpy(np.roll(X, i, axis=0)).cuda() for i in range(4)]
    for i in range(4):
        context.run({"x": inputs[i]}, {"y": outputs[i]})
    for i in range(4):
        close(outputs[i], expected=np.roll(EXPECTED, i, axis=0))


@check
def caller_stream():
    context = engine().create_context()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.from_numpy(X).pin_memory().cuda(non_blocking=True)
        y = torch.full((4, 10), float("nan"), device="cuda")
        for _ in range(20):
            context.run({"x": x}, {"y": y}, stream=stream.cuda_stream)
        z = y * 1
    stream.synchronize()
    return close(z)


@check
def unaligned_memory():
    raw = torch.zeros(4 * 3 * 32 * 32 + 1, device="cuda")
    raw[1:] = torch.from_numpy(X).cuda().ravel()
    return close(engine().run({"x": raw[1:].view(4, 3, 32, 32)})["y"])


@check
def shapes_change():
    context = engine().create_context()
    for n in (1, 4, 3, 8, 1, 4):
        x = np.random.default_rng(n).normal(size=(n, 3, 32, 32)).astype(np.float32)
        close(context.run({"x": x})["y"], expected=CPU.run({"x": x})["y"])


@check
def threads_share_an_engine():
    eng, errors = engine(), []

    def work(seed: int) -> None:
        try:
            context = eng.create_context()
            x = np.random.default_rng(seed).normal(size=(4, 3, 32, 32)).astype(np.float32)
            expected = CPU.run({"x": x})["y"]
            for _ in range(50):
                close(context.run({"x": x})["y"], expected=expected)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@check
def memory_stays_flat():
    eng = engine(cached_shapes=2)
    context = eng.create_context()
    rng = np.random.default_rng(0)

    def run(times: int) -> int:
        for _ in range(times):
            n = int(rng.integers(1, 7))
            context.run({"x": X[:1].repeat(n, axis=0)})
        torch.cuda.synchronize()
        return torch.cuda.mem_get_info()[0]

    before = run(30)
    after = run(200)
    assert abs(before - after) <= 4 << 20, f"{(before - after) >> 20} MiB"
    return f"{(before - after) >> 10} KiB; {eng.info['arena_bytes']} bytes of arena"


@check
def profile():
    rows = engine().profile({"x": X}, runs=5)["regions"]
    return ", ".join(f"{r['implementation']} {r['seconds'] * 1e6:.1f} us" for r in rows)


@check
def device_errors():
    for device, code in (("cuda:99", "invalid_argument"), ("cuda:x", "invalid_argument")):
        try:
            planish.load(PLANS["fp16"], device)
        except planish.Error as error:  # noqa: PERF203
            assert error.code == code, error  # noqa: PT017
        else:
            raise AssertionError(f"{device} is accepted")


print(f"{len(FAILED)} failed: {FAILED}" if FAILED else "all passed", flush=True)
sys.exit(len(FAILED))
