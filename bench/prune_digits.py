"""A network trained on scanned digits, pruned and fine-tuned: accuracy against measured speed.

python bench/prune_digits.py [--batch 64] [--seeds 5]

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speedup", type=float, default=2.3, help="somewhat above the aim: plans are tuned afterwards")
    parser.add_argument("--epochs", type=int, default=60, help="of fine-tuning")
    options = parser.parse_args()
    train, test = digits()
    images = train[0][: options.batch]
    print(f"batch {options.batch}, one thread; speed-up asked for: {options.speedup}")
    print("seed  accuracy  pruned  fine-tuned   ms  pruned ms  speed-up  parameters")
    lost = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        network = fit(Digits(), train, epochs=20, rate=2e-3, seed=seed)
        smaller = prune(network, images, speedup=options.speedup, calibration=[train[0][:512]], threads=1)
        raw = accuracy(smaller, test)
        smaller = fit(smaller, train, epochs=options.epochs, rate=2e-3, seed=seed, teacher=network)
        before, after = milliseconds([engine_of(network, images), engine_of(smaller, images)], images)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (network, smaller)]
        scores = accuracy(network, test), accuracy(smaller, test)
        lost.append(100 * (scores[0] - scores[1]))
        print(
            f"{seed:4}  {100 * scores[0]:7.2f}%  {100 * raw:5.1f}%  {100 * scores[1]:9.2f}%"
            f"  {before:.2f}  {after:9.2f}  {before / after:7.2f}x  {sizes[1] / sizes[0]:9.2f}",
            flush=True,
        )
    spread = statistics.stdev(lost) if len(lost) > 1 else 0
    print(f"lost: {statistics.mean(lost):.2f} points on average, standard deviation {spread:.2f}, one image is 0.28")


if __name__ == "__main__":
    main()
