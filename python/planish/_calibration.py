"""Calibration data in the forms that users have it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import Error
from ._images import image_files, images, input_of

# Stands for the only input of a model, whose name the caller need not say.
ONLY_INPUT = ""


def samples_of(calibration: Any, model: Any) -> Iterator[Mapping[str, Any]]:
    """One dict by input name for each sample; `model` says how images are read. Errors: not_found, invalid_argument."""
    if calibration is None:
        return
    if isinstance(calibration, (str, os.PathLike)):
        yield from _read(Path(calibration), model)
        return
    if isinstance(calibration, Mapping) or not isinstance(calibration, Iterable):
        raise Error(
            "invalid_argument",
            f"calibration is a {type(calibration).__name__}",
            "give a list (or any iterable) of dicts by input name, a folder of .npy, .npz or images, or an .npz file",
        )
    for sample in calibration:
        yield sample if isinstance(sample, Mapping) else {ONLY_INPUT: sample}


def _read(path: Path, model: Any) -> Iterator[Mapping[str, Any]]:
    if path.is_dir():
        if image_files(path):
            name, shape, dtype = input_of(model)
            yield from ({name: image} for image in images(path, shape, dtype=dtype))
            return
        files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))
        if not files:
            raise Error("invalid_argument", f"'{path}' holds no .npy, .npz or image files", "one file is one sample")
        for file in files:
            yield _load(file)
        return
    if not path.exists():
        raise Error("not_found", f"no calibration data at '{path}'")
    arrays = _load(path)
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not counts or len(set(counts.values())) != 1 or 0 in counts.values():
        raise Error(
            "invalid_argument",
            f"the arrays in '{path}' hold different numbers of samples: {counts}",
            "samples lie along the first axis of every array",
        )
    for i in range(next(iter(counts.values()))):
        yield {name: np.ascontiguousarray(array[i : i + 1]) for name, array in arrays.items()}


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Error("invalid_argument", f"cannot read '{path}': {error}") from error
    return {ONLY_INPUT: loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
