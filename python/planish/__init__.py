"""Planish flattens trained networks onto the hardware: ONNX or PyTorch in, one plan out, fast on a CPU.

>>> import planish
>>> planish.build("model.onnx", "model.plan")
>>> engine = planish.load("model.plan")
>>> outputs = engine.run({"input": x})
"""

from ._api import Context, Engine, Plan, TensorInfo, build, export_onnx, load, quantize
from ._errors import Error
from ._images import images
from ._planish import __version__
from ._prune import Pruned, prune
from ._sparsify import Sparsified, sparsify

__all__ = [
    "Context",
    "Engine",
    "Error",
    "Plan",
    "Pruned",
    "Sparsified",
    "TensorInfo",
    "__version__",
    "build",
    "export_onnx",
    "images",
    "load",
    "prune",
    "quantize",
    "sparsify",
]
