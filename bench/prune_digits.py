"""A network trained on scanned digits, pruned and fine-tuned: accuracy against measured speed.

python bench/prune_digits.py [--batch 64] [--seeds 3]

For each seed: train, prune for a speed-up of the measured plan, fine-tune with the original as teacher, then time both
plans by turns.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from digits import Digits, accuracy, digits, fit

import planish
from planish.torch import prune


def engine_of(network, images):
    samples = [{"x": images.numpy()}]
    return planish.load(planish.build(network, example_inputs=images, samples=samples, progress=False), "cpu", 1)


def milliseconds(engines, images, runs=200):
    """Medians of one run each, by turns."""
    feeds = {"x": images.numpy()}
    times = [[] for _ in engines]
    for _ in range(runs):
        for engine, row in zip(engines, times):
            start = time.perf_counter()
            engine.run(feeds)
            row.append(time.perf_counter() - start)
    return [1e3 * statistics.median(row) for row in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--speedup", type=float, default=2.3)
    options = parser.parse_args()
    train, test = digits()
    images = train[0][: options.batch]
    print(f"batch {options.batch}, one thread; speed-up asked for: {options.speedup}")
    print("seed  accuracy  pruned  fine-tuned   ms  pruned ms  speed-up  parameters")
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        network = fit(Digits(), train, epochs=20, rate=2e-3, seed=seed)
        smaller = prune(network, images, speedup=options.speedup, calibration=[train[0][:512]], threads=1)
        raw = accuracy(smaller, test)
        smaller = fit(smaller, train, epochs=30, rate=2e-3, seed=seed, teacher=network)
        before, after = milliseconds([engine_of(network, images), engine_of(smaller, images)], images)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (network, smaller)]
        print(
            f"{seed:4}  {100 * accuracy(network, test):7.2f}%  {100 * raw:5.1f}%  {100 * accuracy(smaller, test):9.2f}%"
            f"  {before:.2f}  {after:9.2f}  {before / after:7.2f}x  {sizes[1] / sizes[0]:9.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
