"""planish.sparsify: zeros in the weights of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import _planish
from ._api import PathLike, Plan, _shape_ranges
from ._arrays import feeds_of
from ._calibration import samples_of
from ._optimised import Optimised, optimised


class Sparsified(Optimised):
    """A network with sparse weights.

    Its report: layers (rows: layer, op, weights, zeros before and after, error, bytes stored before and after, note),
    outputs (rows: name, sqnr, cosine, agreement, on the test samples), and for the whole network weights, zeros, bytes
    and seconds, pattern, criterion.
    """

    def build(self, output: PathLike | None = None, *, compress: bool = True, **options: Any) -> Plan:
        """Compiles the network; options are those of `planish.build`.

        compress: constants with many zeros are stored without them, and restored at load.
        """
        plan = super().build(**options)
        if compress:
            plan = Plan(_planish.compress_weights(plan._raw))
        if output is not None:
            plan.save(output)
        return plan

    def __repr__(self) -> str:
        report = self.report
        return f"<planish.Sparsified: {report['zeros']} of {report['weights']} weights are zeros>"


def sparsify(
    model: Any,
    output: PathLike | None = None,
    *,
    pattern: str = "2:4",
    sparsity: float = 0.5,
    calibration: Any = None,
    test: Any = None,
    criterion: str = "auto",
    damping: float = 0.1,
    keep: Sequence[str] = (),
    measure: bool = True,
    shapes: Any = None,
    threads: int | None = None,
    progress: bool | Callable[[str, str, float], Any] = True,
    example_inputs: Any = None,
) -> Sparsified:
    """Makes those weights zero that matter least.

    model: path of an ONNX file or of a plan, bytes of either, an onnx.ModelProto, a planish.Plan, or a torch.nn.Module
        (with example_inputs).
    output: where the result goes: ONNX when it ends in .onnx, else a plan, stored without zeros. None: only in memory.
    pattern: "2:4": two of four neighbouring input channels, as sparse tensor cores take them; "unstructured": anywhere.
    sparsity: of "unstructured": the share of each layer's weights that become zero.
    calibration: real inputs, in the forms that `planish.build` takes.
    test: inputs to measure the outputs' accuracy with; default: the last fifth of the calibration data, held out.
    criterion: "magnitude", "wanda" (with the inputs' norms), "sparsegpt" (the weights that are left make up for those
        that are not), or "auto": sparsegpt where there is calibration data.
    damping: of sparsegpt: how strongly weights hold on to their values.
    keep: names of layers that stay dense, '*' for anything.
    measure: time the network before and after.

    Other arguments and errors: those of `planish.build`; invalid_argument where no layer can be sparse.
    """
    options = {
        "pattern": pattern,
        "sparsity": float(sparsity),
        "criterion": criterion,
        "calibration": [f.rows for f in feeds_of(samples_of(calibration, model))],
        "test": [f.rows for f in feeds_of(samples_of(test, model))],
        "damping": float(damping),
        "keep": list(keep),
        "shapes": _shape_ranges(shapes),
        "measure": measure,
        "threads": threads or 0,
    }
    return optimised(
        "sparsify", Sparsified, model, output, options, progress=progress, shapes=shapes, example_inputs=example_inputs
    )
