"""Puts ONNX's own backend cases into one archive for nodes.py: the machines with a GPU need not have the onnx package.

A case is NAME/model.onnx and NAME/I.npy for each array; index.json tells which arrays are inputs and outputs. Sequences
are lists of arrays, absent optionals null; types that NumPy lacks are kept as their bits, beside their name.
usage: collect_nodes.py [ARCHIVE]   (default: .gpu/nodes.zip)"""

from __future__ import annotations

import glob
import io
import json
import re
import runpy
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")


def excluded() -> list[re.Pattern]:
    """What the CPU's run of these cases leaves out, for the reasons given there."""
    module = runpy.run_path(str(ROOT / "tests/python/test_onnx_backend.py"))
    return [re.compile(pattern) for patterns in module["EXCLUDED"].values() for pattern in patterns]


class Writer:
    """The arrays of one case."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.archive, self.name, self.count = archive, name, 0

    def add(self, value):
        """What index.json says of `value`."""
        if value is None:
            return None
        if isinstance(value, (list, tuple)):
            return [self.add(item) for item in value]
        array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
        entry = {"file": f"{self.name}/{self.count}.npy"}
        self.count += 1
        if array.dtype.kind in "OSU":
            array, entry["dtype"] = array.astype(str), "string"
        elif array.dtype.type.__module__ != "numpy":
            entry["dtype"] = array.dtype.name
            array = array.view(f"u{array.dtype.itemsize}")
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self.archive.writestr(entry["file"], buffer.getvalue())
        return entry


def data_sets(case, model: onnx.ModelProto):
    """Pairs of inputs and expected outputs."""
    if case.data_sets is not None:
        yield from case.data_sets
        return
    for folder in sorted(glob.glob(f"{case.model_dir}/test_data_set*")):
        pair = []
        for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
            loaded: list = []
            for i in range(len(glob.glob(f"{folder}/{kind}_*.pb"))):
                Runner._load_proto(None, f"{folder}/{kind}_{i}.pb", loaded, values[i].type)
            pair.append(loaded)
        yield tuple(pair)


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".gpu/nodes.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    skip = excluded()
    index = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for case in (case for kind in KINDS for case in load_model_tests(kind=kind)):
            if any(pattern.search(case.name) for pattern in skip) or case.name in index:
                continue
            model = case.model if case.model is not None else onnx.load(f"{case.model_dir}/model.onnx")
            archive.writestr(f"{case.name}/model.onnx", model.SerializeToString())
            writer = Writer(archive, case.name)
            sets = [{"inputs": writer.add(i), "outputs": writer.add(o)} for i, o in data_sets(case, model)]
            index[case.name] = {"rtol": case.rtol, "atol": case.atol, "sets": sets}
        archive.writestr("index.json", json.dumps(index))
    print(f"{len(index)} cases, {path.stat().st_size >> 10} KiB in {path}")


if __name__ == "__main__":
    main()
