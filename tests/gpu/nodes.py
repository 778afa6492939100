"""ONNX's backend cases on a GPU: every case that passes on the CPU has to pass there; what has no kernel runs on the
CPU and is counted. Reads .gpu/nodes.zip, which collect_nodes.py makes. Prints a table by operator; the exit code is 1
when a case fails.

A case runs in one of several processes: an error that takes the driver down costs the case that made it, no other.
`--device none` builds for `--target` only, `--device cpu` checks this script where there is no GPU."""

from __future__ import annotations

import argparse
import io
import json
import os
import queue
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

import planish

SECONDS = 120  # for one case


class Skip(Exception):
    """The case cannot be expressed here."""


class Cases:
    """The archive."""

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        self.index = json.loads(self.archive.read("index.json"))

    def model(self, name: str) -> bytes:
        return self.archive.read(f"{name}/model.onnx")

    def value(self, entry):
        if entry is None or isinstance(entry, list):
            return entry if entry is None else [self.value(item) for item in entry]
        array = np.load(io.BytesIO(self.archive.read(entry["file"])), allow_pickle=False)
        dtype = entry.get("dtype")
        if dtype == "string":
            return array.astype(object)
        if dtype is None:
            return array
        try:
            import ml_dtypes
        except ImportError:
            raise Skip(f"{dtype} without ml_dtypes") from None
        return array.view(getattr(ml_dtypes, dtype))


def compare(actual, expected, rtol: float, atol: float) -> None:
    """As ONNX's own runner does."""
    if isinstance(expected, list):
        assert len(actual) == len(expected), f"{len(actual)} values, not {len(expected)}"
        for a, e in zip(actual, expected):
            compare(a, e, rtol, atol)
        return
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, f"shape {actual.shape}, not {expected.shape}"
    if expected.dtype == object:
        np.testing.assert_array_equal(actual, expected)
        return
    assert actual.dtype == expected.dtype, f"type {actual.dtype}, not {expected.dtype}"
    if actual.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)
        actual, expected = actual.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def run_case(cases: Cases, name: str, options: argparse.Namespace) -> dict:
    """{"status": pass | fail | skip, "note": why, "steps": [[op, placement, implementation], ...]}"""
    case = cases.index[name]
    result: dict = {"case": name, "status": "pass", "note": "", "steps": []}
    try:
        arguments = {"progress": False, "verify": False, "optimization_level": 1}
        if options.device != "cpu":
            arguments |= {"target": options.target, "precision": options.precision}
        plan = planish.build(cases.model(name), **arguments)
        if options.device == "none":
            rows = plan.report["layers"]
        else:
            engine = planish.load(plan, options.device)
            rows = []
            for data in case["sets"]:
                feeds = {info.name: value for info, value in zip(engine.inputs, cases.value(data["inputs"]))}
                outputs = list(engine.run(feeds).values())
                compare(outputs, cases.value(data["outputs"]), case["rtol"], case["atol"])
                if not rows and all(isinstance(value, np.ndarray) for value in feeds.values()):
                    rows = engine.layers({key: value.shape for key, value in feeds.items()})
        result["steps"] = [[row["op"], row["placement"], row["implementation"]] for row in rows]
    except Skip as error:
        result.update(status="skip", note=str(error))
    except Exception as error:
        result.update(status="fail", note=f"{type(error).__name__}: {str(error).strip()}"[:600])
    return result


def work(options: argparse.Namespace) -> None:
    """A worker: names of cases come in, results go out, a line each."""
    cases = Cases(options.archive)
    for line in sys.stdin:
        print("\0" + json.dumps(run_case(cases, line.strip(), options)), flush=True)


class Worker:
    """A process that runs cases, started again when one takes it down."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.process: subprocess.Popen | None = None

    def run(self, name: str) -> dict:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--worker", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self.process
        alarm = threading.Timer(SECONDS, process.kill)
        alarm.start()
        try:
            process.stdin.write(name + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("\0"):
                    result = json.loads(line[1:])
                    # After a fault on the device its context is lost.
                    if result["status"] == "fail" and "CUDA" in result["note"]:
                        self.stop()
                    return result
        except BrokenPipeError:
            pass
        finally:
            alarm.cancel()
        code = process.wait()
        self.process = None
        return {"case": name, "status": "fail", "note": f"its process ended with {code}", "steps": []}

    def stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


def run_all(names: list[str], options: argparse.Namespace, arguments: list[str]) -> list[dict]:
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    results = []

    def serve() -> None:
        worker = Worker(arguments)
        try:
            while True:
                results.append(worker.run(waiting.get_nowait()))
        except queue.Empty:
            worker.stop()

    threads = [threading.Thread(target=serve) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(results, key=lambda result: result["case"])


def print_table(results: list[dict]) -> None:
    """Steps by operator: on the GPU, and on the CPU because no kernel takes them."""
    placed: dict[str, Counter] = defaultdict(Counter)
    for result in results:
        for op, placement, implementation in result["steps"]:
            interpreted = implementation.startswith("reference")
            placed[op]["interpreter" if interpreted else placement] += 1
    print(f"{'operator':44} {'GPU':>6} {'CPU':>6} {'interpreter':>12}")
    total: Counter = Counter()
    for op in sorted(placed):
        row = placed[op]
        total.update(row)
        print(f"{op[:44]:44} {row['cuda']:6} {row['cpu']:6} {row['interpreter']:12}")
    print(f"{'all steps':44} {total['cuda']:6} {total['cpu']:6} {total['interpreter']:12}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, default=Path(".gpu/nodes.zip"))
    parser.add_argument("--device", default="cuda:0", help="cuda:N, cpu, or none: build only")
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return 0
    if not options.archive.exists():
        print(f"no {options.archive}: make it with tests/gpu/collect_nodes.py where the onnx package is")
        return 1
    names = [name for name in Cases(options.archive).index if options.only in name]
    start = time.perf_counter()
    results = run_all(names, options, sys.argv[1:])
    print_table(results)
    count = Counter(result["status"] for result in results)
    whole = sum(
        1
        for result in results
        if result["status"] == "pass"
        and result["steps"]
        and all(placement == "cuda" for _, placement, _ in result["steps"])
    )
    for result in results:
        if result["status"] == "fail":
            print(f"FAIL {result['case']}: {result['note']}")
    notes = Counter(result["note"] for result in results if result["status"] == "skip")
    for note, times in notes.items():
        print(f"skipped {times}: {note}")
    print(
        f"{len(results)} cases on {options.device}: {count['pass']} passed ({whole} without the CPU), "
        f"{count['fail']} failed, {count['skip']} skipped, {time.perf_counter() - start:.0f} s"
    )
    return 1 if count["fail"] or not results else 0


if __name__ == "__main__":
    sys.exit(main())
