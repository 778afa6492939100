"""Whole networks on a GPU: build (with verification of every region), run, time. Models are *.onnx in --folder, whole
or stripped by strip_weights.py. Prints one line for each network, precision and batch; the exit code counts
failures. Precisions of 8 bits are calibrated with random inputs of batch 1."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from strip_weights import fill_weights

import planish

DEFAULT = "mobilenet_v2,resnet50,efficientnet_b0,vit_b_16,bert_base,convnext_tiny"


def shapes_of(path: Path, batch: int, length: int) -> dict:
    """Fixed shapes: the batch for the first axis, the sequence length for the others that are open."""
    probe = planish.load(planish.build(str(path), optimization_level=0, verify=False, progress=False), "cpu")
    result = {}
    for info in probe.inputs:
        dims = [d if isinstance(d, int) else (batch if i == 0 else length) for i, d in enumerate(info.shape)]
        result[info.name] = (info.dtype, tuple([batch, *dims[1:]]))
    return result


def feeds_of(shapes: dict, seed: int = 3) -> dict:
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, (dtype, shape) in shapes.items():
        if dtype == "float32":
            feeds[name] = rng.standard_normal(shape, dtype=np.float32)
        else:
            feeds[name] = (rng.integers(0, 1000, shape) if name == "input_ids" else np.ones(shape)).astype(str(dtype))
            if "type" in name:
                feeds[name][:] = 0
    return feeds


def milliseconds(context, feeds: dict, outputs: dict, runs: int) -> float:
    """Median time of one run, enqueued one behind the other."""
    stream = torch.cuda.Stream()
    handle = stream.cuda_stream
    for _ in range(5):
        context.run(feeds, outputs, stream=handle)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    stream.synchronize()
    for event in events[:-1]:
        event.record(stream)
        context.run(feeds, outputs, stream=handle)
    events[-1].record(stream)
    stream.synchronize()
    return float(np.median([a.elapsed_time(b) for a, b in zip(events, events[1:])]))


def decibels(expected: dict, actual: dict) -> float:
    """Signal to noise of the worst output."""
    noise = {n: np.square(actual[n].cpu().numpy().astype(np.float64) - e).sum() for n, e in expected.items()}
    signal = {n: np.square(e.astype(np.float64)).sum() for n, e in expected.items()}
    return min(float(10 * np.log10(signal[n] / max(noise[n], 1e-30))) for n in expected)


def run(path: Path, batch: int, precision: str, options: argparse.Namespace) -> None:
    shapes = shapes_of(path, batch, options.length)
    feeds = feeds_of(shapes)
    arguments = {
        "progress": False,
        "verify": not options.bench,
        "shapes": {name: shape for name, (_, shape) in shapes.items()},
    }
    calibrated = {}
    if precision in ("int8", "fp8"):
        single = shapes_of(path, 1, options.length)
        calibrated["calibration"] = [feeds_of(single, seed) for seed in range(100, 100 + options.samples)]
        calibrated["shapes"] = {name: (single[name][1], shape, shape) for name, (_, shape) in shapes.items()}
    reference = planish.build(str(path), target="cpu", optimization_level=1, **arguments)
    expected = planish.load(reference, "cpu").run(feeds)
    start = time.perf_counter()
    plan = planish.build(
        str(path),
        target="cuda",
        precision=precision,
        optimization_level=options.level,
        timing_cache=options.timing_cache,
        **(arguments | calibrated),
    )
    built = time.perf_counter() - start
    gpu = planish.load(plan, "cuda:0")
    on_gpu = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
    context = gpu.create_context()
    actual = context.run(on_gpu)
    worst = max(
        float(np.abs(actual[n].cpu().numpy() - e).max() / max(np.abs(e).max(), 1e-30)) for n, e in expected.items()
    )
    rows = gpu.layers({name: shape for name, (_, shape) in shapes.items()})
    fallback = [r for r in rows if r["placement"] == "cpu"]
    took = milliseconds(context, on_gpu, actual, options.runs)
    finite = all(np.isfinite(a.cpu().numpy()).all() for a in actual.values())
    layers = sum(row["after"] == precision for row in plan.report["precision"])
    if layers > 0:
        # A tensor is 40 dB (e4m3: 31.5) above its rounding errors, and those of each layer's two tensors add up.
        error = decibels(expected, actual)
        limit = {"int8": 40, "fp8": 31.5}[precision] - 10 * np.log10(2 * layers) - 6
        passed, said = error >= limit, f"{error:.1f} dB in {layers} layers of 8 bits"
    else:
        limit = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 1e-1}.get(precision, 2e-2)
        error, said = worst, f"error {worst:.2g} of the largest output"
        passed = error <= limit
    verdict = "PASS" if finite and passed else "FAIL"
    print(
        f"{verdict} {path.stem} {precision} batch {batch}: {took:.3f} ms, {said}, "
        f"{len(rows)} steps, {len(fallback)} on the CPU, built in {built:.1f} s",
        flush=True,
    )
    if fallback:
        print("     on the CPU:", ", ".join(sorted({r["op"] for r in fallback})), flush=True)
    for warning in plan.report["warnings"]:
        if "reference interpreter" not in warning:
            print("     warning:", warning, flush=True)
    if options.profile:
        profile = gpu.profile(feeds, runs=10)
        print(f"     {sum(r['seconds'] for r in profile['regions']) * 1e6:.0f} us by steps")
        alike = defaultdict(list)
        for r in profile["regions"]:
            alike[r["implementation"], r["op"]].append(r)
        rows = sorted(alike.items(), key=lambda item: -sum(r["seconds"] for r in item[1]))
        for (implementation, op), steps in rows[: options.profile]:
            seconds = [r["seconds"] for r in steps]
            share = np.mean([r["roofline"] for r in steps])
            print(
                f"     {sum(seconds) * 1e6:8.1f} us {share * 100:5.1f} %  {len(steps):3} x {implementation[:48]:48} "
                f"{op[:24]:24} {max(steps, key=lambda r: r['seconds'])['name'][-24:]}",
                flush=True,
            )
    if verdict == "FAIL":
        raise AssertionError(f"error {error}, limit {limit}, finite {finite}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(".gpu/models"))
    parser.add_argument("--models", default=DEFAULT)
    parser.add_argument("--batches", default="1")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--level", type=int, default=2, help="optimization level: from 3 on tactics are timed")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--samples", type=int, default=8, help="to calibrate int8 and fp8 with")
    parser.add_argument("--timing-cache")
    parser.add_argument("--profile", type=int, default=0, help="print so many kinds of the slowest steps")
    parser.add_argument("--bench", action="store_true", help="do not verify the regions")
    options = parser.parse_args()
    failed = 0
    for name in options.models.split(","):
        path = options.folder / f"{name}.onnx"
        if not path.exists():
            print(f"SKIP {name}: no {path}")
            continue
        if path.with_suffix(".json").exists():
            fill_weights(path)
        for precision in options.precision.split(","):
            for batch in options.batches.split(","):
                try:
                    run(path, int(batch), precision, options)
                except Exception as error:  # noqa: PERF203
                    failed += 1
                    print(f"FAIL {name} {precision} batch {batch}: {error}", flush=True)
                    if not isinstance(error, (planish.Error, AssertionError)):
                        traceback.print_exc()
    return failed


if __name__ == "__main__":
    sys.exit(main())
