"""planish.prune: whole channels and heads out of a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import _export, _planish
from ._api import PathLike, Plan, _shape_ranges, build
from ._arrays import feeds_of, to_user
from ._errors import Error
from ._progress import reported


class Pruned:
    """A pruned network: `report`, `save_onnx`, `build`."""

    def __init__(self, raw: _planish.Pruned) -> None:
        self._raw = raw

    @property
    def report(self) -> dict:
        """layers (rows: layer, op, inputs and channels before and after, error, seconds, bytes), and for the whole
        network channels, seconds and bytes before and after, criterion, warnings."""
        return self._raw.report()

    def onnx_bytes(self) -> bytes:
        """The pruned network as an ONNX model."""
        return self._raw.onnx_bytes()

    def save_onnx(self, path: PathLike) -> None:
        """Writes the pruned network as an ONNX model. Errors: io_error."""
        self._raw.save_onnx(os.fspath(path))

    def build(self, output: PathLike | None = None, **options: Any) -> Plan:
        """Compiles the pruned network; options are those of `planish.build`."""
        return build(self.onnx_bytes(), output, **options)

    def constants(self) -> dict:
        """Weights and other constants, as arrays by name."""
        return {name: to_user(value) for name, value in self._raw.constants().items()}

    def __repr__(self) -> str:
        report = self.report
        return f"<planish.Pruned: {report['channels']} of {report['channels_before']} channels>"


def prune(
    model: Any,
    output: PathLike | None = None,
    *,
    ratio: float | None = None,
    speedup: float | None = None,
    calibration: Iterable[Mapping[str, Any]] | None = None,
    criterion: str = "auto",
    scope: str = "global",
    multiple: int = 8,
    reconstruct: bool = True,
    ridge: float = 1e-3,
    rows: int = 4096,
    keep: Sequence[str] = (),
    keep_parameters: bool = False,
    measure: bool = True,
    shapes: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: bool | Callable[[str, str, float], Any] = True,
    example_inputs: Any = None,
) -> Pruned:
    """Removes the channels and attention heads that matter least, with everything that depends on them.

    model: path of an ONNX file or of a plan, bytes of either, an onnx.ModelProto, or a torch.nn.Module (with
        example_inputs; `planish.torch.prune` gives a module back).
    output: where the result goes: ONNX when it ends in .onnx, else a plan. None: only in memory.
    ratio: share of the channels that can go which does; default 0.5.
    speedup: in place of a ratio, how many times as fast the measured network shall be.
    calibration: inputs by name, some dozens as the network will see them.
    criterion: "l1", "l2", "bn", "activation" (the loss on calibration data), or "auto": activation where there is data.
    scope: "global": the ratio holds over all layers together; "layer": in each.
    multiple: what is left of a layer's channels is a multiple of this.
    reconstruct: with calibration data, adapt the weights that are left by least squares.
    ridge: how strongly they hold on to their values.
    rows: places of each layer's input, over all of the data, that the adaptation looks at.
    keep: layers whose channels all stay, '*' for anything.
    keep_parameters: weights keep their names; batch normalisation is not folded.
    measure: time the network before and after.
    shapes: to time with, where there is no calibration data.

    Errors: those of `build`; invalid_argument where nothing can be pruned or the speed-up is out of reach.
    """
    if ratio is not None and speedup is not None:
        raise Error("invalid_argument", "ratio and speedup are both given", "give one of them")
    if scope not in ("global", "layer"):
        raise Error("invalid_argument", f"unknown scope {scope!r}", "scopes are global, layer")
    ranges = _shape_ranges(shapes)
    if output is not None:
        _planish.check_writable(os.fspath(output))
    feeds = feeds_of(calibration if calibration is not None else ())
    options = {
        "ratio": 0.5 if ratio is None else float(ratio),
        "speedup": 0.0 if speedup is None else float(speedup),
        "global": scope == "global",
        "criterion": criterion,
        "multiple": int(multiple),
        "calibration": [f.rows for f in feeds],
        "reconstruct": reconstruct,
        "ridge": float(ridge),
        "rows": int(rows),
        "keep": list(keep),
        "keep_parameters": keep_parameters,
        "measure": measure,
        "shapes": ranges,
        "threads": threads or 0,
    }
    if isinstance(model, Plan):
        model = model.bytes()
    exported = _export.portable(model, "prune", example_inputs, ranges)
    with reported(progress) as options["progress"], exported as source:
        native = _planish.prune_bytes if isinstance(source, bytes) else _planish.prune_path
        pruned = Pruned(native(source, options))
    if output is not None and os.fspath(output).endswith(".onnx"):
        pruned.save_onnx(output)
    elif output is not None:
        pruned.build(output, progress=progress, shapes=shapes)
    return pruned
