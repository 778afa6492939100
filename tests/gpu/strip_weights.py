"""Makes an ONNX model small enough to carry: large float weights become external data, described by their mean and
deviation, and are drawn again where the model is used (fill_weights). Needs the onnx package.

Filters get the deviation that keeps the signal's size (He et al., 2015): freshly made networks let it fade below what
float16 holds.

usage: python strip_weights.py MODEL.onnx FOLDER"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

LARGE = 16 << 10  # bytes


def strip(path: Path, folder: Path) -> None:
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(str(path))
    rows, offset = [], 0
    for initializer in proto.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype != np.float32:
            continue
        mean, deviation = float(array.mean()), float(array.std())
        if array.ndim == 4 and deviation > 0:
            mean, kept = 0.0, float(np.sqrt(2 / np.prod(array.shape[1:])))
            initializer.CopyFrom(numpy_helper.from_array(array * np.float32(kept / deviation), initializer.name))
            deviation = kept
        if array.nbytes < LARGE:
            continue
        rows.append([offset, array.size, mean, deviation])
        initializer.ClearField("raw_data")
        initializer.ClearField("float_data")
        initializer.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", f"{path.stem}.bin"), ("offset", offset), ("length", array.nbytes)):
            initializer.external_data.add(key=key, value=str(value))
        offset += -(-array.nbytes // 4096) * 4096
    folder.mkdir(parents=True, exist_ok=True)
    (folder / path.name).write_bytes(proto.SerializeToString())
    (folder / f"{path.stem}.json").write_text(json.dumps(rows))


def fill_weights(path: Path) -> None:
    """Writes the file of weights beside a stripped model, once."""
    target = path.with_suffix(".bin")
    if target.exists():
        return
    rng = np.random.default_rng(7)
    with open(target.with_suffix(".tmp"), "wb") as file:
        for offset, count, mean, deviation in json.loads(path.with_suffix(".json").read_text()):
            file.seek(offset)
            file.write(
                (rng.standard_normal(count, dtype=np.float32) * np.float32(deviation) + np.float32(mean)).tobytes()
            )
    target.with_suffix(".tmp").rename(target)


if __name__ == "__main__":
    strip(Path(sys.argv[1]), Path(sys.argv[2]))
