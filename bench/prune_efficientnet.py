"""EfficientNet-Lite0 (ImageNet weights) pruned to measured speed-ups, by planish.torch.prune and by Torch-Pruning.

    pip install torch-pruning
    python bench/prune_efficientnet.py [--speedups 1.1 1.25 1.5 2] [--steps 200]

Both get the same crops of the same photographs, one batch order, one schedule: pruned, statistics of the batch
normalisations taken anew where that helps, distilled from the original without labels. Printed is how often the largest
output is the original's on crops of other photographs, against the speed-up of the plan, batch 1, one thread, by turns.
"""

import argparse
import copy
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
import model_zoo

import planish
from planish.torch import prune

TRAIN = ("astronaut.png", "ihc.png", "retina.jpg", "color.png", "moon.png", "gravel.png", "brick.png", "cell.png")
VALIDATE = ("chelsea.png", "camera.png", "page.png")
TEST = ("coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg", "coins.png", "grass.png")
SIDE, BATCH = 224, 8


def photographs(names):
    import skimage.data
    import skimage.io

    folder = Path(skimage.data.__file__).parent
    for name in names:
        image = skimage.io.imread(folder / name)
        yield image[..., :3] if image.ndim == 3 else np.stack([image] * 3, -1)


def crops(images, count, seed):
    """Random squares, half of them mirrored, N x 3 x 224 x 224."""
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(np.ascontiguousarray(i)).permute(2, 0, 1)[None].float() for i in images]
    result = []
    for k in range(count):
        image = images[k * len(images) // count]  # one photograph after the other
        side = int(min(image.shape[2:]) * rng.uniform(0.4, 1))
        y, x = (int(rng.integers(0, n - side + 1)) for n in image.shape[2:])
        crop = image[..., y : y + side, x : x + side]
        crop = nn.functional.interpolate(crop, (SIDE, SIDE), mode="bilinear", antialias=True)
        result.append(crop.flip(3) if rng.random() < 0.5 else crop)
    return ((torch.cat(result) - 127) / 128).to(memory_format=torch.channels_last)


def engine_of(network, example):
    plan = planish.build(network, example_inputs=example, optimization_level=1, verify=False, progress=False)
    return planish.load(plan, "cpu", 1)


def outputs(network, images):
    engine = engine_of(network, images[:1])
    name = engine.inputs[0].name
    rows = [next(iter(engine.run({name: np.ascontiguousarray(x)}).values())) for x in images.split(1)]
    return torch.from_numpy(np.concatenate(rows))


def agreement(network, images, reference):
    return (outputs(network, images).argmax(1) == reference.argmax(1)).float().mean().item()


def recalibrated(network, images, reference):
    """Statistics of the batch normalisations as they are with what is left, where that brings the outputs nearer."""
    before = copy.deepcopy(network.state_dict())
    error = nn.functional.mse_loss(outputs(network, images), reference)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # the mean over all batches
        m.train()
    with torch.no_grad():
        for x in images.split(16):
            network(x)
    for m, momentum in zip(norms, momenta):
        m.momentum = momentum
    network.eval()
    if nn.functional.mse_loss(outputs(network, images), reference) > error:
        network.load_state_dict(before)
    return network


def distance(network, images, reference):
    with torch.no_grad():
        y = torch.cat([network(x) for x in images.split(16)])
    return nn.functional.kl_div(y.log_softmax(1), reference.softmax(1), reduction="batchmean").item()


def distilled(network, data, held_out, steps, rate, seed=0):
    """Statistics stay, weights learn to give the original's outputs (Hinton et al., 2015). Of every tenth step the
    weights are kept that are nearest to the original on photographs that are neither trained nor tested with."""
    images, reference = data
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, max(steps, 2))
    network.eval().to(memory_format=torch.channels_last)
    best, weights = distance(network, *held_out), copy.deepcopy(network.state_dict())
    for step in range(1, steps + 1):
        batch = torch.randperm(len(images), generator=generator)[:BATCH]
        y, t = network(images[batch]), reference[batch]
        loss = nn.functional.cross_entropy(y, t.softmax(1)) + nn.functional.mse_loss(y, t)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 10 == 0 and (now := distance(network, *held_out)) < best:
            best, weights = now, copy.deepcopy(network.state_dict())
    network.load_state_dict(weights)
    return network


def times(engines, example, seconds=1.5):
    """Median of one run each, by turns."""
    feeds = {engines[0].inputs[0].name: example.numpy()}
    rows = [[] for _ in engines]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rows[0]) < 15:
        for engine, row in zip(engines, rows):
            start = time.perf_counter()
            engine.run(feeds)
            row.append(time.perf_counter() - start)
    return [statistics.median(row[2:]) for row in rows]


def by_planish(network, speedup, images, options):
    return prune(network, images[:1], speedup=speedup, calibration=[images[::5]], threads=1, **options)


def by_torch_pruning(network, ratio, images, importance, scope):
    """Taylor: of the entropy against the network's own decisions, as there are no labels."""
    import torch_pruning as tp

    smaller = copy.deepcopy(network)
    if importance == "taylor":
        score = tp.importance.GroupTaylorImportance()
    else:
        score = tp.importance.GroupMagnitudeImportance(p=2)
    head = [m for m in smaller.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.BasePruner(
        smaller,
        images[:1],
        importance=score,
        pruning_ratio=ratio,
        global_pruning=scope == "global",
        max_pruning_ratio=0.9,
        round_to=8,
        ignored_layers=head,
    )
    if importance == "taylor":
        for x in images[::5].split(16):
            y = smaller(x)
            nn.functional.cross_entropy(y, y.argmax(1)).backward()
    pruner.step()
    smaller.zero_grad()
    return smaller


def torch_pruning_at(network, speedup, images, importance, scope):
    """The smallest ratio, to 1/64, whose plan is fast enough."""
    example = images[:1]
    whole = engine_of(network, example)
    low, high = 0, 58
    found = None
    while high - low > 1:
        middle = (low + high) // 2
        smaller = by_torch_pruning(network, middle / 64, images, importance, scope)
        before, after = times([whole, engine_of(smaller, example)], example, 1)
        if before / after >= speedup:
            high, found = middle, smaller
        else:
            low = middle
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.1, 1.25, 1.5, 2])
    parser.add_argument("--steps", type=int, default=200, help="0: nothing is trained")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--crops", type=int, default=320)
    parser.add_argument("--importance", choices=("magnitude", "taylor"), default="taylor", help="Torch-Pruning's")
    parser.add_argument("--scope", choices=("global", "local"), default="global", help="Torch-Pruning's")
    parser.add_argument("--criterion", default="auto", help="Planish's")
    parser.add_argument("--only", choices=("planish", "torch-pruning"))
    parser.add_argument("--save", type=Path, help="folder that keeps the pruned networks: pruning and distilling apart")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    network = model_zoo.make(next(n for n in model_zoo.NETWORKS if n.name == "efficientnet_lite0")).eval()
    network.to(memory_format=torch.channels_last)
    images = crops(list(photographs(TRAIN)), options.crops, 1)
    from sklearn.datasets import load_sample_image

    samples = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    held_out, test = crops(list(photographs(VALIDATE)), 48, 3), crops([*photographs(TEST), *samples], 240, 2)
    example = images[:1]
    pruners = {
        "planish": lambda s: by_planish(network, s, images, {"criterion": options.criterion}),
        "torch-pruning": lambda s: torch_pruning_at(network, s, images, options.importance, options.scope),
    }
    references = []
    print(
        f"{len(images)} crops, {options.steps} steps of {BATCH}; Torch-Pruning: {options.importance}, {options.scope}"
    )
    print("asked  by              parameters  speed-up  pruned  recalibrated  distilled")
    for speedup in options.speedups:
        for name, pruner in pruners.items():
            if options.only not in (None, name):
                continue
            how = options.criterion if name == "planish" else options.importance
            kept = options.save and options.save / f"{name}-{how}-{speedup}.pt"
            if kept and kept.exists():
                smaller = torch.load(kept, weights_only=False)
            else:
                smaller = pruner(speedup)
                if kept:
                    torch.save(smaller, kept)
                    continue
            if not references:
                references = [outputs(network, part) for part in (images, held_out, test)]
            before, after = times([engine_of(network, example), engine_of(smaller, example)], example)
            sizes = [sum(p.numel() for p in m.parameters()) for m in (smaller, network)]
            row = [agreement(smaller, test, references[2])]
            recalibrated(smaller, images[::5], references[0][::5])
            row.append(agreement(smaller, test, references[2]))
            data = [(images, references[0]), (held_out, references[1])]
            row.append(agreement(distilled(smaller, *data, options.steps, options.rate), test, references[2]))
            print(
                f"{speedup:5}  {name:14}  {sizes[0] / sizes[1]:10.2f}  {before / after:7.2f}x  "
                + "  ".join(f"{100 * x:.1f}%" for x in row),
                flush=True,
            )


if __name__ == "__main__":
    main()
