"""Whole networks through Planish and its peers: latency on the CPU, all in one process, taking turns.

    scripts/bench.sh                          # all networks, one thread; installs what it needs
    scripts/bench.sh --threads 2 resnet50     # one of them, two threads

Prints a Markdown table: medians in milliseconds, and Planish's time over the best peer's. The networks are those of the
end-to-end tests (tests/python/model_zoo.py), at batch 1.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
import model_zoo

import planish

NAMES = ("mobilenet_v2", "efficientnet_lite0", "resnet50", "vit_b_16", "bert_base", "minilm")
PEERS = ("onnxruntime", "openvino", "pytorch")
TOKENS = 128


@dataclass
class Row:
    """Milliseconds, but for build_s. `ratio`: Planish over the best peer; `error`: relative, in the Euclidean norm,
    against the first peer."""

    name: str
    threads: int
    ms: dict
    ratio: float
    build_s: float
    first_ms: float
    error: float


def onnxruntime(network, path, feeds, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def openvino(network, path, feeds, threads):
    import openvino as ov

    model = ov.Core().read_model(str(path))
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    values = [feeds[i.get_any_name()] for i in compiled.inputs]
    return lambda: list(request.infer(values, share_inputs=True).values())


def pytorch(network, path, feeds, threads):
    """Eager mode."""
    import torch

    torch.set_num_threads(threads)
    module = model_zoo.make(network).eval()
    tensors = [torch.from_numpy(array) for array in feeds.values()]

    def run():
        with torch.inference_mode():
            return [module(*tensors).numpy()]

    return run


def prepare(name):
    """The network, its ONNX file and inputs of batch 1: 224 x 224 pixels or 128 tokens."""
    network = next(n for n in model_zoo.NETWORKS if n.name == name)
    case = {key: (1, TOKENS) if len(shape) == 2 else (1, *shape[1:]) for key, shape in network.cases[0].items()}
    feeds = network.feeds(case)
    if "attention_mask" in feeds:
        feeds["attention_mask"][:] = 1
    return network, model_zoo.onnx_path(network), feeds


def take_turns(runs, seconds, threads):
    """Median milliseconds of each, each turn being two runs in a row."""
    # Time for the workers of the one before to stop spinning.
    pause = 0 if threads == 1 else 0.01
    times = {key: [] for key in runs}
    for run in runs.values():
        for _ in range(5):
            run()
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or len(times["planish"]) < 5:
        for key, run in runs.items():
            time.sleep(pause)
            begin = time.perf_counter()
            run()
            run()
            times[key].append((time.perf_counter() - begin) / 2 * 1e3)
    return {key: statistics.median(samples) for key, samples in times.items()}


def measure(name, peers, threads, seconds):
    network, path, feeds = prepare(name)
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "model.plan"
        begin = time.perf_counter()
        shapes = {key: array.shape for key, array in feeds.items()}
        planish.build(path, output=plan, shapes=shapes, progress=False)
        build_s = time.perf_counter() - begin
        begin = time.perf_counter()
        engine = planish.load(plan, threads=threads)
        ours = list(engine.run(feeds).values())
        first_ms = (time.perf_counter() - begin) * 1e3
        runs = {peer: globals()[peer](network, path, feeds, threads) for peer in peers}
        error = 0.0
        for peer in list(runs)[:1]:
            for a, b in zip(ours, runs[peer]()):
                error = max(error, float(np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel())))
        runs["planish"] = lambda: engine.run(feeds)
        ms = take_turns(runs, seconds, threads)
    best = min((ms[peer] for peer in peers), default=float("nan"))
    return Row(name, threads, ms, ms["planish"] / best, build_s, first_ms, error)


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def table(rows, peers):
    titles = [*peers, "planish", "ours / best", "build s", "load + first run ms"]
    yield f"| float32, batch 1, {rows[0].threads} thread{'s' * (rows[0].threads > 1)} | " + " | ".join(titles) + " |"
    yield "|---" * (len(titles) + 1) + "|"
    for row in rows:
        cells = [f"{row.ms[key]:.3g}" for key in (*peers, "planish")]
        cells += [f"{row.ratio:.2f}", f"{row.build_s:.1f}", f"{row.first_ms:.0f}"]
        yield f"| {row.name} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="default: " + " ".join(NAMES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3, help="for each network and contender (default: 3)")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"default: {','.join(PEERS)}")
    parser.add_argument("--json", action="store_true", help="one object a line instead of the table")
    args = parser.parse_args()
    peers = [peer for peer in args.peers.split(",") if peer]
    for kind, given, known in (("network", args.names, NAMES), ("peer", peers, PEERS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {kind} {unknown[0]!r}; choose from {', '.join(known)}")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for name in args.names or NAMES:
        rows.append(measure(name, peers, args.threads, args.seconds))
        if args.json:
            print(json.dumps(asdict(rows[-1])), flush=True)
        else:
            print(f"{name}: {json.dumps(rows[-1].ms)}", file=sys.stderr, flush=True)
    if not args.json:
        print(f"\n{processor()}, Planish {planish.__version__}\n")
        print("\n".join(table(rows, peers)))


if __name__ == "__main__":
    main()
