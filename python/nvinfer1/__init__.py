"""The classic walk from a network to its deployment (convert, optimise, enqueue) on top of Planish.

Convert, on the command line: ``nvinfer --input_file mobilenet_v2.onnx --output_file mobilenet_v2.plan``. Optimise:

>>> import nvinfer1
>>> network = nvinfer1.Network().read_bin_file(open("mobilenet_v2.plan", "rb").read())
>>> builder = nvinfer1.Builder()
>>> builder.set_calibration(samples)
>>> optimized = builder.build_optimized_network(network, 8)
>>> open("mobilenet_v2_int8.plan", "wb").write(optimized.serialize())

Deploy:

>>> engine = nvinfer1.ICudaEngine_Create_t()
>>> engine.set_network(optimized)
>>> context = engine.create_execution_context()
>>> context.set_device("0")
>>> context.enqueue([context.get_input_blob_name(0)], [image])
>>> context.synchronize()
>>> scores = context.get_output(0)

Everything here is a thin face of `planish.build` and `planish.load`, whose errors (`planish.Error`) pass through.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import planish

__all__ = ["Builder", "ExecutionContext", "ICudaEngine_Create_t", "Network"]

_PRECISIONS = {32: "fp32", 16: "fp16", 8: "int8"}
_SYNTHETIC_SAMPLES = 8


class Network:
    """A network as the bytes of a plan or of an ONNX model."""

    def __init__(self) -> None:
        self._data: bytes | None = None

    def read_bin_file(self, data: bytes) -> Network:
        """Takes the content of a .plan or .onnx file. Returns itself."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise planish.Error(
                "invalid_argument",
                f"read_bin_file got a {type(data).__name__}",
                'give the content of the file: read_bin_file(open("model.plan", "rb").read())',
            )
        self._data = bytes(data)
        return self

    def serialize(self) -> bytes:
        """The bytes that were read or built: the content of a .plan file after `build_optimized_network`."""
        if self._data is None:
            raise planish.Error("invalid_argument", "the network is empty", "call read_bin_file first")
        return self._data


class Builder:
    """Optimises networks. `target` and `calibration` may be set before."""

    def __init__(self) -> None:
        self._target: str | Sequence[str] = "cpu"
        self._calibration: Any = None

    def set_target(self, target: str | Sequence[str]) -> None:
        """As `target` of `planish.build`: "cpu", "cuda:sm_90a", or a list of them."""
        self._target = target

    def set_calibration(self, calibration: Iterable[Mapping[str, Any]] | str) -> None:
        """As `calibration` of `planish.build`: real inputs, from which the ranges of 8-bit numbers are taken."""
        self._calibration = calibration

    def build_optimized_network(self, network: Network, bits: int = 32) -> Network:
        """Fuses, tunes and, with fewer bits, quantises.

        bits: 32 (float32), 16 (float16, on GPUs) or 8 (integers). Without calibration data the ranges of 8-bit numbers
            come from noise, with a warning: accuracy on real inputs is then left to chance.

        Errors: those of `planish.build`.
        """
        if bits not in _PRECISIONS:
            raise planish.Error("invalid_argument", f"{bits} bits", "give 32, 16 or 8")
        calibration = self._calibration
        if bits == 8 and calibration is None:
            warnings.warn(
                "no calibration data: ranges of 8-bit numbers are taken from noise; call "
                "Builder.set_calibration with real inputs",
                stacklevel=2,
            )
            calibration = _noise(network)
        plan = planish.build(
            network.serialize(),
            target=self._target,
            precision=_PRECISIONS[bits],
            calibration=calibration if bits == 8 else None,
            progress=False,
        )
        return Network().read_bin_file(plan.bytes())


def _noise(network: Network) -> list[dict[str, np.ndarray]]:
    """Inputs of unit variance for a network whose inputs are real numbers; open sizes become 1."""
    plan = planish.build(network.serialize(), optimization_level=1, verify=False, progress=False)
    inputs = planish.load(plan, device="cpu").inputs
    for info in inputs:
        if not str(info.dtype).startswith("float") or info.shape is None:
            raise planish.Error(
                "invalid_argument",
                f"input '{info.name}' is {info.dtype}: noise says nothing about its range",
                "call Builder.set_calibration with real inputs",
            )
    random = np.random.default_rng(0)

    def noise(info: planish.TensorInfo) -> np.ndarray:
        shape = [d if isinstance(d, int) else 1 for d in info.shape]
        return random.standard_normal(shape).astype(str(info.dtype))

    return [{info.name: noise(info) for info in inputs} for _ in range(_SYNTHETIC_SAMPLES)]


class ICudaEngine_Create_t:
    """An engine to be: a network and the batch sizes that it will see."""

    def __init__(self) -> None:
        self._network: Network | None = None
        self._prefer = 1
        self._max: int | None = None

    def set_network(self, network: Network | bytes) -> None:
        """What to run: a Network, or the content of a .plan file."""
        self._network = network if isinstance(network, Network) else Network().read_bin_file(network)

    def set_prefer_batch_size(self, size: int) -> None:
        """The batch size that contexts are prepared for, where the network leaves it open."""
        self._prefer = _batch(size)

    def set_max_batch_size(self, size: int) -> None:
        """The largest batch that contexts accept."""
        self._max = _batch(size)

    def create_execution_context(self) -> ExecutionContext:
        if self._network is None:
            raise planish.Error("invalid_argument", "the engine has no network", "call set_network first")
        if self._max is not None and self._prefer > self._max:
            raise planish.Error(
                "invalid_argument", f"the preferred batch size {self._prefer} is above the largest, {self._max}"
            )
        return ExecutionContext(self._network, self._prefer, self._max)


def _batch(size: int) -> int:
    if not isinstance(size, int) or size < 1:
        raise planish.Error("invalid_argument", f"the batch size is {size!r}", "give a positive integer")
    return size


class ExecutionContext:
    """Runs a network, one enqueued run at a time. For one thread."""

    def __init__(self, network: Network, prefer: int, most: int | None) -> None:
        self._network, self._prefer, self._most = network, prefer, most
        self._loaded: planish.Engine | None = None
        self._run: threading.Thread | None = None
        self._result: dict[str, Any] | None = None
        self._error: BaseException | None = None

    def set_device(self, device: str, allow_cpu: bool = False) -> None:
        """Where to run: "0" is the first GPU, "cpu" the CPU.

        allow_cpu: run on the CPU where there is no such GPU; without it that is an error.
        """
        name = f"cuda:{device}" if str(device).isdigit() else str(device)
        try:
            self._load(name)
        except planish.Error as error:
            if not name.startswith("cuda"):
                raise
            if not allow_cpu:
                raise planish.Error(
                    error.code,
                    f"device {device!r} cannot be used: {error.message}",
                    f'to run on the CPU instead, say so: set_device("{device}", allow_cpu=True)',
                ) from error
            self._load("cpu")

    def _load(self, device: str) -> None:
        engine = planish.load(self._network.serialize(), device=device)
        shapes = {}
        for info in engine.inputs:
            if info.shape is not None and all(isinstance(d, int) for d in info.shape[1:]):
                shapes[info.name] = [self._prefer if not isinstance(d, int) else d for d in info.shape]
        if len(shapes) == len(engine.inputs):
            engine.prepare(shapes)
        self._loaded = engine

    @property
    def _engine(self) -> planish.Engine:
        if self._loaded is None:
            self._load("auto")
        return self._loaded

    @property
    def device(self) -> str:
        """Where it runs: "cpu" or "cuda:0"."""
        return self._engine.info["device"]

    def get_input_blob_name(self, index: int = 0) -> str:
        return self._name(self._engine.inputs, index, "input")

    def get_output_blob_name(self, index: int = 0) -> str:
        return self._name(self._engine.outputs, index, "output")

    @staticmethod
    def _name(infos: Sequence[planish.TensorInfo], index: int, what: str) -> str:
        if not 0 <= index < len(infos):
            raise planish.Error("invalid_argument", f"there is no {what} {index}", f"the network has {len(infos)}")
        return infos[index].name

    def enqueue(self, names: Sequence[str], arrays: Sequence[Any]) -> None:
        """Starts a run and returns; `synchronize` waits for it. The arrays must not change until then.

        names, arrays: the inputs, array by array.
        Errors: invalid_argument when names and arrays do not match or a batch is too large; what the run itself finds
        wrong (a name, a dtype, a shape) is raised by `synchronize`.
        """
        if len(names) != len(arrays):
            raise planish.Error("invalid_argument", f"{len(names)} names for {len(arrays)} arrays")
        if self._run is not None:
            raise planish.Error("invalid_argument", "a run is under way", "call synchronize first")
        for name, array in zip(names, arrays):
            shape = np.shape(array)
            if self._most is not None and shape and shape[0] > self._most:
                raise planish.Error(
                    "invalid_argument",
                    f"input '{name}' has a batch of {shape[0]}, the largest is {self._most}",
                    "call set_max_batch_size before create_execution_context",
                )
        engine, feeds = self._engine, dict(zip(names, arrays))
        self._result = self._error = None

        def run() -> None:
            try:
                self._result = engine.run(feeds)
            except BaseException as error:  # raised again where it is waited for
                self._error = error

        self._run = threading.Thread(target=run, name="nvinfer1")
        self._run.start()

    def synchronize(self) -> None:
        """Waits for what was enqueued, and raises what went wrong in it."""
        if self._run is not None:
            self._run.join()
            self._run = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def get_output(self, index: int = 0) -> Any:
        """An output of the last run. Errors: invalid_argument when there is none or it was not waited for."""
        name = self.get_output_blob_name(index)
        if self._run is not None or self._result is None:
            raise planish.Error("invalid_argument", "no run has ended", "call enqueue, then synchronize")
        return self._result[name]
