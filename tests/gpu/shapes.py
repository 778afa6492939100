"""Thousands of runs with random shapes: what the process holds, on the device and on the host, must not grow. Shapes
outnumber the programs that an engine keeps, so programs, graphs and arenas come and go all the time, in two contexts by
turns. The exit code is 1 when memory grows or a result is wrong. `--device cpu` checks the host's part anywhere."""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from pathlib import Path

import numpy as np
from onnx_bytes import model, node

import planish

MOST = {"images": 6, "size": 40}


def network() -> bytes:
    """A first layer, a residual block, attention over the pixels of a small map, a classifier."""
    rng = np.random.default_rng(1)
    c = 16
    shapes = {
        "w1": (c, 3, 3, 3),
        "b1": (c,),
        "w2": (c, c, 3, 3),
        "b2": (c,),
        "w3": (c, c, 3, 3),
        "b3": (c,),
        "w4": (c, 10),
    }
    weights = {k: (rng.standard_normal(s) * (0.2 if len(s) > 1 else 1)).astype(np.float32) for k, s in shapes.items()}
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], strides=[2, 2], pads=[1] * 4),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w2", "b2"], ["p"], pads=[1] * 4),
        node("Relu", ["p"], ["q"]),
        node("Conv", ["q", "w3", "b3"], ["t"], pads=[1] * 4),
        node("Add", ["t", "r"], ["u"]),
        node("GlobalAveragePool", ["u"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w4"], ["z"]),
        node("Softmax", ["z"], ["y"]),
    ]
    return model(nodes, {"x": ["N", 3, "H", "W"]}, {"y": ["N", 10]}, weights)


def host_bytes() -> int:
    """Private memory of the process."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * 4096


def device_bytes(driver: ctypes.CDLL | None) -> int:
    """Memory in use on the device, by everybody. Needs a current context: retains the device's own."""
    if driver is None:
        return 0
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return total.value - free.value


def open_driver(device: str) -> ctypes.CDLL | None:
    if device == "cpu":
        return None
    driver = ctypes.CDLL("libcuda.so.1")
    context, handle = ctypes.c_void_p(), ctypes.c_int()
    assert driver.cuInit(0) == 0
    assert driver.cuDeviceGet(ctypes.byref(handle), int(device.partition(":")[2] or 0)) == 0
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle) == 0
    assert driver.cuCtxSetCurrent(context) == 0
    return driver


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--shapes", type=int, default=40, help="different ones")
    parser.add_argument("--cached", type=int, default=16, help="programs that the engine keeps")
    options = parser.parse_args()
    common = {"progress": False, "verify": False, "optimization_level": 1}
    least, most = (1, 3, 9, 9), (MOST["images"], 3, MOST["size"], MOST["size"])
    ranges = {"x": (least, least, most)}
    reference = planish.load(planish.build(network(), shapes=ranges, **common), "cpu", cached_shapes=options.shapes)
    target = {} if options.device == "cpu" else {"target": "cuda", "precision": options.precision}
    engine = planish.load(
        planish.build(network(), shapes=ranges, **common, **target), options.device, cached_shapes=options.cached
    )
    rng = np.random.default_rng(2)
    sizes = {most}
    while len(sizes) < options.shapes:
        n, h, w = (int(rng.integers(a, b + 1)) for a, b in zip((1, 9, 9), (most[0], most[2], most[3])))
        sizes.add((n, 3, h, w))
    feeds = {size: rng.standard_normal(size, dtype=np.float32) for size in sorted(sizes)}
    expected = {size: reference.run({"x": x})["y"] for size, x in feeds.items()}
    driver = open_driver(options.device)
    contexts = [engine.create_context(), engine.create_context()]
    # Softmax moves by at most half of what its ten inputs, of magnitude 4, move by.
    tolerance = {"fp32": 1e-5, "tf32": 5e-3, "fp16": 5e-3, "bf16": 4e-2}[
        "fp32" if driver is None else options.precision
    ]

    samples = []
    start, worst = time.perf_counter(), 0.0
    order = list(feeds)
    for run in range(options.runs):
        # First every shape, so that arenas are as large as they get.
        size = order[run % len(order)] if run < 2 * len(order) else order[rng.integers(len(order))]
        actual = contexts[run % 2 if run >= 2 * len(order) else run // len(order)].run({"x": feeds[size]})["y"]
        worst = max(worst, float(np.abs(actual - expected[size]).max()))
        if run >= options.runs // 5 and run % max(1, options.runs // 200) == 0:
            samples.append((device_bytes(driver), host_bytes()))
    half = len(samples) // 2
    took = time.perf_counter() - start
    grown = [max(s[i] for s in samples[half:]) - max(s[i] for s in samples[:half]) for i in range(2)]
    # The device's allocator has granules of 2 MiB; the host's keeps what programs of other shapes have left.
    flat = grown[0] <= 4 << 20 and grown[1] <= 16 << 20
    good = worst <= tolerance
    print(
        f"{'PASS' if flat and good else 'FAIL'} {options.runs} runs of {len(order)} shapes on {options.device}, "
        f"{took / options.runs * 1e3:.2f} ms each: device {grown[0] / 1024:+.0f} KiB of {samples[-1][0] >> 20} MiB, "
        f"host {grown[1] / 1024:+.0f} KiB of {samples[-1][1] >> 20} MiB, error {worst:.2g}"
    )
    return 0 if flat and good else 1


if __name__ == "__main__":
    sys.exit(main())
