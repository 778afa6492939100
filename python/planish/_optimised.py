"""What planish.prune and planish.sparsify take and give back alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from . import _export, _planish
from ._api import PathLike, Plan, build
from ._arrays import to_user
from ._progress import reported


class Optimised:
    """A network that was optimised: `report`, `save_onnx`, `build`."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def report(self) -> dict:
        """What was done, layer by layer and for the whole network."""
        return self._raw.report()

    def onnx_bytes(self) -> bytes:
        """The network as an ONNX model."""
        return self._raw.onnx_bytes()

    def save_onnx(self, path: PathLike) -> None:
        """Writes the network as an ONNX model. Errors: io_error."""
        self._raw.save_onnx(os.fspath(path))

    def build(self, output: PathLike | None = None, **options: Any) -> Plan:
        """Compiles the network; options are those of `planish.build`."""
        return build(self.onnx_bytes(), output, **options)

    def constants(self) -> dict:
        """Weights and other constants, as arrays by name."""
        return {name: to_user(value) for name, value in self._raw.constants().items()}


def optimised(
    verb: str,
    kind: Callable[[Any], Optimised],
    model: Any,
    output: PathLike | None,
    options: dict,
    *,
    progress: Any,
    shapes: Any,
    example_inputs: Any,
) -> Any:
    """Runs a native verb on any form of a model and writes the result where it was asked for."""
    if output is not None:
        _planish.check_writable(os.fspath(output))
    if isinstance(model, Plan):
        model = model.bytes()
    exported = _export.portable(model, verb, example_inputs, options["shapes"])
    with reported(progress) as options["progress"], exported as source:
        native = getattr(_planish, f"{verb}_bytes" if isinstance(source, bytes) else f"{verb}_path")
        result = kind(native(source, options))
    if output is not None and os.fspath(output).endswith(".onnx"):
        result.save_onnx(output)
    elif output is not None:
        result.build(output, progress=progress, shapes=shapes)
    return result
