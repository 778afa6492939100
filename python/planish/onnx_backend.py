"""Planish as a standard ONNX backend: `prepare`, `run_model`, `run_node`, `supports_device`
(onnx.backend.base.Backend)."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper, numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ._api import Engine, build, load
from ._errors import Error


class PlanishRep(BackendRep):
    """A loaded engine; `run` takes inputs by position (graph order) or by name and returns a named tuple."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._outputs = namedtupledict("Outputs", [o.name for o in engine.outputs])

    def run(self, inputs: Any, **kwargs: Any) -> tuple:
        if isinstance(inputs, dict):
            feeds = inputs
        else:
            rows = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            if len(rows) > len(self.engine.inputs):
                raise Error("invalid_argument", f"{len(rows)} arrays for {len(self.engine.inputs)} inputs")
            feeds = {info.name: value for info, value in zip(self.engine.inputs, rows)}
        return self._outputs(*self.engine.run(feeds).values())


class PlanishBackend(Backend):
    """The backend's class face, for onnx.backend.test and for tools that take one."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        try:
            cls.prepare(model, device, **kwargs)
        except Error:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PlanishRep:
        if not cls.supports_device(device):
            raise Error("unsupported", f"device '{device}' is not available", 'use device "CPU"')
        kwargs.setdefault("progress", False)
        kwargs.setdefault("verify", False)
        kwargs.setdefault("optimization_level", 1)  # a model that is run once does not earn its timing back
        return PlanishRep(load(build(model, **kwargs), device="cpu"))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple:
        arrays = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        names = [name for name in node.input if name]
        graph_inputs = [
            helper.make_tensor_value_info(name, numpy_helper.from_array(array).data_type, array.shape)
            for name, array in zip(names, arrays)
        ]
        graph_outputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(outputs_info[i][0]), outputs_info[i][1])
            if outputs_info
            else onnx.ValueInfoProto(name=name)
            for i, name in enumerate(node.output)
        ]
        graph = helper.make_graph([node], "node", graph_inputs, graph_outputs)
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, opset)])
        return cls.run_model(model, arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0].upper() == "CPU"


is_compatible = PlanishBackend.is_compatible
prepare = PlanishBackend.prepare
run_model = PlanishBackend.run_model
run_node = PlanishBackend.run_node
supports_device = PlanishBackend.supports_device
