"""planish.prune: whole channels and heads out of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._api import PathLike, _shape_ranges
from ._arrays import feeds_of
from ._calibration import samples_of
from ._errors import Error
from ._optimised import Optimised, optimised


class Pruned(Optimised):
    """A pruned network.

    Its report: layers (rows: layer, op, inputs and channels before and after, error, seconds, bytes), and for the whole
    network channels, seconds and bytes before and after, criterion, warnings.
    """

    def __repr__(self) -> str:
        report = self.report
        return f"<planish.Pruned: {report['channels']} of {report['channels_before']} channels>"


def prune(
    model: Any,
    output: PathLike | None = None,
    *,
    ratio: float | None = None,
    speedup: float | None = None,
    calibration: Any = None,
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
    gradients: Mapping[str, Any] | None = None,
) -> Pruned:
    """Removes the channels and attention heads that matter least, with everything that depends on them.

    model: path of an ONNX file or of a plan, bytes of either, an onnx.ModelProto, or a torch.nn.Module (with
        example_inputs; `planish.torch.prune` gives a module back).
    output: where the result goes: ONNX when it ends in .onnx, else a plan. None: only in memory.
    ratio: share of the channels that can go which does; default 0.5.
    speedup: in place of a ratio, how many times as fast the measured network shall be.
    calibration: inputs as the network will see them, some dozens, in the forms that `planish.build` takes.
    criterion: "l1", "l2", "bn", "activation" (the loss on calibration data), "taylor" (with gradients), or "auto":
        activation where there is data.
    scope: "global": the ratio holds over all layers together; "layer": in each.
    multiple: what is left of a layer's channels is a multiple of this.
    reconstruct: with calibration data, adapt the weights that are left by least squares.
    ridge: how strongly they hold on to their values.
    gradients: of "taylor": by name of a layer's weights, samples x input channels, the first-order change of some
        function of the outputs when the layer no longer reads the channel; `planish.torch.prune` finds them.
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
    feeds = feeds_of(samples_of(calibration, model))
    gradient_feeds = feeds_of([gradients] if gradients else ())
    options = {
        "ratio": 0.5 if ratio is None else float(ratio),
        "speedup": 0.0 if speedup is None else float(speedup),
        "global": scope == "global",
        "criterion": criterion,
        "multiple": int(multiple),
        "calibration": [f.rows for f in feeds],
        "gradients": [f.rows for f in gradient_feeds],
        "reconstruct": reconstruct,
        "ridge": float(ridge),
        "rows": int(rows),
        "keep": list(keep),
        "keep_parameters": keep_parameters,
        "measure": measure,
        "shapes": _shape_ranges(shapes),
        "threads": threads or 0,
    }
    return optimised(
        "prune", Pruned, model, output, options, progress=progress, shapes=shapes, example_inputs=example_inputs
    )
