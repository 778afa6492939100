"""Photographs as calibration data, fed as to image classifiers: resized, cropped, normalised, in the model's layout."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import Error

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Of ImageNet, in RGB, on a scale of 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The crop's share of the resized image's shorter side, as ImageNet models are evaluated: 224 of 256.
CROP = 0.875


def image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def images(
    folder: str | os.PathLike,
    shape: Sequence[Any],
    *,
    dtype: Any = np.float32,
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    scale: float = 1 / 255,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: str = "rgb",
) -> Iterator[np.ndarray]:
    """The images of a folder as arrays of batch 1, for ``planish.build(..., calibration=planish.images(...))``.

    shape: the model's input: [N, C, H, W] or [N, H, W, C], told apart by where C = 1 or 3 stands.
    dtype: uint8 gets pixels as they are; anything else (pixel * scale - mean) / std.
    size: (height, width), where the shape leaves them open.
    fit: "crop" resizes the shorter side to 8/7 of the size and takes the middle, "stretch" resizes both sides.
    mean, std: one for each channel in the order of `channels`, or one for all. Default: ImageNet's for three channels,
        0 and 1 for one.
    channels: "rgb" or "bgr".

    Errors: not_found, invalid_argument; unsupported without Pillow.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise Error("unsupported", "images are read with Pillow", "pip install pillow") from error
    if fit not in ("crop", "stretch") or channels not in ("rgb", "bgr"):
        raise Error("invalid_argument", f"no images of fit={fit!r}, channels={channels!r}", "crop, stretch; rgb, bgr")
    first, count, (height, width) = _layout(shape, size)
    order = slice(None, None, -1) if channels == "bgr" else slice(None)
    if mean is None:
        mean = MEAN[order] if count == 3 else 0.0
    if std is None:
        std = STD[order] if count == 3 else 1.0
    files = image_files(Path(folder)) if os.path.isdir(folder) else []
    if not files:
        raise Error("not_found", f"no images in '{folder}'", f"images end in {', '.join(SUFFIXES)}")
    for file in files:
        try:
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB" if count == 3 else "L")
        except OSError as error:
            raise Error("invalid_argument", f"cannot read '{file}': {error}") from error
        if fit == "crop":
            target = (round(width / CROP), round(height / CROP))
            image = ImageOps.fit(image, target, Image.Resampling.BILINEAR)
            left, top = (target[0] - width) // 2, (target[1] - height) // 2
            image = image.crop((left, top, left + width, top + height))
        else:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image).reshape(height, width, count)[..., order]
        if np.dtype(dtype) != np.uint8:
            pixels = ((pixels * np.float32(scale) - np.float32(mean)) / np.float32(std)).astype(dtype)
        yield np.ascontiguousarray((pixels.transpose(2, 0, 1) if first else pixels)[None])


def _layout(shape: Sequence[Any], size: tuple[int, int] | None) -> tuple[bool, int, tuple[int, int]]:
    """Whether channels come first, how many, and (height, width)."""
    dims = [int(d) if str(d).isdigit() else None for d in shape]
    if len(dims) != 4 or not {dims[1], dims[3]} & {1, 3}:
        raise Error(
            "invalid_argument",
            f"an input of shape {list(shape)} takes no images",
            "it needs four axes, the second or the last one of 1 or 3 channels; give .npy or .npz files",
        )
    first = dims[1] in (1, 3)
    height, width = size or (dims[2:] if first else dims[1:3])
    if not height or not width:
        raise Error("invalid_argument", f"the shape {list(shape)} leaves the images' size open", "say size=224x224")
    return first, dims[1] if first else dims[3], (height, width)


def input_of(model: Any) -> tuple[str, list[Any], np.dtype]:
    """Name, shape and dtype of the only input of an ONNX model (path, bytes, ModelProto) or a plan."""
    if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".plan"):
        from ._api import load

        inputs = load(model, "cpu").inputs
        found = [(i.name, list(i.shape), np.dtype(i.dtype)) for i in inputs]
    else:
        try:
            import onnx
        except ImportError as error:
            raise Error("unsupported", "a model's input is read with the package onnx", "pip install onnx") from error
        if isinstance(model, (str, os.PathLike)):
            model = onnx.load(os.fspath(model), load_external_data=False)
        elif isinstance(model, (bytes, bytearray, memoryview)):
            model = onnx.load_from_string(bytes(model))
        if not hasattr(model, "graph"):
            raise Error(
                "invalid_argument",
                f"the input of a {type(model).__name__} is not known",
                "give calibration=planish.images(folder, shape)",
            )
        known = {tensor.name for tensor in model.graph.initializer}
        found = []
        for value in model.graph.input:
            kind = value.type.tensor_type
            dims = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
            if value.name not in known:
                found.append((value.name, dims, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    if len(found) != 1:
        names = ", ".join(name for name, *_ in found)
        raise Error("invalid_argument", f"images are for models of one input, not of {names}", "give .npz files")
    return found[0]


def _value(key: str, text: str) -> Any:
    if key == "size":
        height, _, width = text.partition("x")
        return int(height), int(width or height)
    if key in ("mean", "std"):
        numbers = [float(part) for part in text.split(",")]
        return numbers if len(numbers) > 1 else numbers[0]
    if key == "scale":
        return float(text)
    if key in ("fit", "channels"):
        return text
    raise Error("invalid_argument", f"unknown image option '{key}'", "size, fit, scale, mean, std, channels")


@contextlib.contextmanager
def replace_folder(arguments: Sequence[str]) -> Iterator[list[str]]:
    """A command line whose --calib, where that is a folder of images, is an .npz of them, --image read and left out."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--calib")
    parser.add_argument("--image", action="append", default=[])
    known, rest = parser.parse_known_args(list(arguments))
    if not known.calib or not os.path.isdir(known.calib) or not image_files(Path(known.calib)):
        yield list(arguments)
        return
    pairs = [word.partition("=")[::2] for word in known.image]
    options = {key: _value(key, text) for key, text in pairs}
    model = next((word for word in rest[1:] if word.endswith((".onnx", ".plan")) and os.path.exists(word)), "")
    name, shape, dtype = input_of(model)
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        file = os.path.join(folder, "images.npz")
        np.savez(file, **{name: np.concatenate(list(images(known.calib, shape, dtype=dtype, **options)))})
        yield [*rest, "--calib", file]
