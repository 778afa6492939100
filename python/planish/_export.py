"""torch.nn.Module and onnx.ModelProto to something that the compiler reads: a path or bytes."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ._errors import Error

_PROTOBUF_LIMIT = (1 << 31) - (1 << 20)


def is_torch_module(model: Any) -> bool:
    """True for a torch.nn.Module, without importing torch."""
    return any(t.__module__ == "torch.nn.modules.module" and t.__name__ == "Module" for t in type(model).__mro__)


def is_model_proto(model: Any) -> bool:
    """True for an onnx.ModelProto, without importing onnx."""
    return type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString")


def _input_names(module: Any, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds][:count]
    return names + [f"input_{i}" for i in range(len(names), count)]


def export_torch(
    module: Any,
    example_inputs: Any,
    shapes: Mapping[str, Any],
    folder: str,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> str:
    """Exports `module` to an ONNX file in `folder` and returns its path. An axis whose min and max in `shapes` differ
    is exported as a symbol; all others are fixed to the example's size."""
    import torch

    if example_inputs is None:
        raise Error(
            "invalid_argument",
            "a torch.nn.Module needs example_inputs",
            "planish.build(module, example_inputs=(torch.randn(1, 3, 224, 224),))",
        )
    keywords: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        keywords, positional = dict(example_inputs), ()
        names = list(keywords)
    else:
        is_list = isinstance(example_inputs, (tuple, list))
        positional = tuple(example_inputs) if is_list else (example_inputs,)
        names = list(input_names) if input_names else _input_names(module, len(positional))
    dynamic: dict[str, dict[int, str]] = {}
    for name, (low, _, high) in shapes.items():
        if name not in names:
            raise Error(
                "invalid_argument",
                f"shapes name an input '{name}' that the module does not have",
                "its inputs are: " + ", ".join(names),
            )
        axes = {axis: ("N" if axis == 0 else f"{name}_{axis}") for axis, (a, b) in enumerate(zip(low, high)) if a != b}
        if axes:
            dynamic[name] = axes
    path = os.path.join(folder, "model.onnx")
    training = module.training
    module.eval()
    options: dict[str, Any] = {"input_names": names, "dynamic_axes": dynamic or None, "dynamo": False}
    if output_names:
        options["output_names"] = list(output_names)
    try:
        with torch.no_grad():
            torch.onnx.export(module, (*positional, keywords) if keywords else positional, path, **options)
    except Exception as error:
        raise Error(
            "unsupported",
            f"PyTorch could not export {type(module).__name__} to ONNX: {error}",
            "export it yourself with torch.onnx.export and give the file",
        ) from error
    finally:
        module.train(training)
    return path


def serialise_proto(model: Any, folder: str) -> bytes | str:
    """A ModelProto as bytes, or, past protobuf's 2 GB, as a file with external data in `folder`."""
    if model.ByteSize() < _PROTOBUF_LIMIT:
        return model.SerializeToString()
    import onnx

    path = os.path.join(folder, "model.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location="model.bin")
    return path


def temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="planish-")


@contextmanager
def portable(
    model: Any,
    verb: str,
    example_inputs: Any,
    shapes: Mapping[str, Any],
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Iterator[bytes | str]:
    """`model` as bytes or as the path of a file, which may end with the context. `verb` says what is done to it."""
    with temporary_folder() as folder:
        if is_torch_module(model):
            model = export_torch(model, example_inputs, shapes, folder, input_names, output_names)
        elif is_model_proto(model):
            model = serialise_proto(model, folder)
        if isinstance(model, (bytes, bytearray, memoryview)):
            yield bytes(model)
        elif isinstance(model, (str, os.PathLike)):
            yield os.fspath(model)
        else:
            raise Error(
                "invalid_argument",
                f"cannot {verb} a {type(model).__name__}",
                "give a path, bytes, an onnx.ModelProto or a torch.nn.Module",
            )
