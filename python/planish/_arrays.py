"""Arrays of any kind (NumPy, DLPack, __array__, lists) to feeds for the C++ side and back, without copies where the
memory is contiguous and on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import _planish
from ._errors import Error

try:  # bfloat16, float8 and 4-bit types as NumPy dtypes; optional
    import ml_dtypes
except ImportError:  # pragma: no cover
    ml_dtypes = None

# Planish's name -> ml_dtypes' name
_EXTRA = {
    "bfloat16": "bfloat16",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2": "float8_e5m2",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
    "float8_e8m0": "float8_e8m0fnu",
    "float4_e2m1": "float4_e2m1fn",
    "int4": "int4",
    "uint4": "uint4",
    "int2": "int2",
    "uint2": "uint2",
}
_PACKED_BITS = {"int4": 4, "uint4": 4, "float4_e2m1": 4, "int2": 2, "uint2": 2}
_FROM_ML = {value: key for key, value in _EXTRA.items()}


class DTypeName(str):
    """An element type by name, which also equals NumPy's dtype of that name: `info.dtype == np.float32`."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str.__eq__(self, other)
        try:
            return str(self) == dtype_name(np.dtype(other))  # type: ignore[call-overload]
        except TypeError:
            return NotImplemented

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = str.__hash__


def dtype_name(dtype: np.dtype) -> str:
    """Planish's name of a NumPy dtype; "string" for text."""
    if dtype.kind in "USO" or type(dtype).__name__ == "StringDType":
        return "string"
    return _FROM_ML.get(dtype.name, dtype.name)


def extra_dtype(name: str) -> np.dtype | None:
    """The ml_dtypes dtype of a name that NumPy itself lacks, or None when it is not there."""
    found = getattr(ml_dtypes, _EXTRA[name], None) if ml_dtypes is not None and name in _EXTRA else None
    return np.dtype(found) if found is not None else None


def _from_torch(tensor: Any, name: str) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        raise Error(
            "unsupported", f"'{name}' lies on device {tensor.device}, the engine runs on the CPU", "give tensor.cpu()"
        )
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind in _EXTRA:
        import torch

        if extra_dtype(kind) is None:
            raise Error("unsupported", f"'{name}' is {kind}, which NumPy lacks", "pip install ml_dtypes")
        carrier = torch.int16 if kind == "bfloat16" else torch.uint8
        return tensor.contiguous().view(carrier).numpy().view(extra_dtype(kind))
    return tensor.resolve_conj().resolve_neg().numpy()


def to_numpy(value: Any, name: str) -> np.ndarray:
    """`value` as a NumPy array that shares its memory where it can."""
    if isinstance(value, np.ndarray):
        return value
    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        return _from_torch(value, name)
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        try:
            return np.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError) as error:
            raise Error(
                "unsupported", f"'{name}' cannot be read through DLPack: {error}", "give a CPU array"
            ) from error
    try:
        return np.asarray(value)
    except Exception as error:
        raise Error(
            "invalid_argument",
            f"'{name}' is a {type(value).__name__}, not an array: {error}",
            "give a NumPy array or an object with __dlpack__ or __array__",
        ) from error


def _pack(array: np.ndarray, bits: int) -> np.ndarray:
    codes = np.ascontiguousarray(array).view(np.uint8).ravel() & ((1 << bits) - 1)
    per_byte = 8 // bits
    codes = np.concatenate([codes, np.zeros(-len(codes) % per_byte, np.uint8)]).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(codes << shifts, axis=1, dtype=np.uint8) if len(codes) else codes.ravel()


def _unpack(data: np.ndarray, shape: tuple, name: str) -> np.ndarray:
    bits = _PACKED_BITS[name]
    count = int(np.prod(shape, dtype=np.int64))
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    codes = ((data[:, None] >> shifts) & np.uint8((1 << bits) - 1)).ravel()[:count]
    if name.startswith("int"):  # sign-extend, as ml_dtypes stores them
        sign = np.uint8(1 << (bits - 1))
        codes = ((codes ^ sign) - sign).astype(np.uint8)
    return codes.reshape(shape)


_CUDA = 2  # kDLCUDA


def is_on_gpu(value: Any) -> bool:
    """Whether an array's memory is that of a GPU."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) == _CUDA
    return hasattr(value, "__cuda_array_interface__")


def _module(value: Any) -> str:
    return type(value).__module__.split(".")[0]


def _gpu_row(name: str, value: Any, stream: int | None) -> tuple:
    """(dtype, shape, address) of an array on a GPU. Without a stream of the caller's, what he has enqueued for the
    array is waited for, unless it is in the default stream, which Planish's own follows."""
    if _module(value) == "torch":
        import torch

        if not value.is_contiguous():
            raise Error("invalid_argument", f"'{name}' is not contiguous", "give tensor.contiguous()")
        if stream is None:
            current = torch.cuda.current_stream(value.device)
            if current.cuda_stream != 0:
                current.synchronize()
        return str(value.dtype).removeprefix("torch."), tuple(value.shape), value.data_ptr()
    if hasattr(value, "__cuda_array_interface__"):
        row = value.__cuda_array_interface__
        itemsize = int(row["typestr"][2:])
        strides, expected = row.get("strides"), itemsize
        for length, step in zip(reversed(row["shape"]), reversed(strides or ())):
            if length != 1 and step != expected:
                raise Error("invalid_argument", f"'{name}' is not contiguous", "give a C-contiguous array")
            expected *= length
        theirs = row.get("stream")
        if theirs not in (None, 0, 1, stream):
            _planish.synchronize_stream(theirs, int(value.__dlpack_device__()[1]))
        return dtype_name(np.dtype(row["typestr"])), tuple(row["shape"]), row["data"][0]
    address, shape, dtype, _, _, contiguous = _planish.dlpack_info(value)
    if not contiguous:
        raise Error("invalid_argument", f"'{name}' is not contiguous", "give a C-contiguous array")
    return dtype, shape, address


def empty_like_on_gpu(example: Any, dtype: str, shape: tuple) -> Any:
    """An array of the same library on the same GPU."""
    if _module(example) == "torch":
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=example.device)
    if _module(example) == "cupy":
        import cupy

        with example.device:
            return cupy.empty(shape, dtype=dtype)
    raise Error(
        "unsupported",
        f"no way to make outputs as {type(example).__name__} on the GPU",
        "give the arrays to write into: outputs=",
    )


def feeds_of(samples: Iterable[Mapping[str, Any]]) -> list[Feeds]:
    """The feeds of each sample. They own the memory that their rows point to."""
    result = []
    for sample in samples:
        result.append(Feeds())
        for name, value in sample.items():
            result[-1].add(name, value)
    return result


class Feeds:
    """Feeds for one call, and the arrays that own their memory. gpu: the engine takes arrays on a GPU where they are;
    stream: that of the call."""

    def __init__(self, gpu: bool = False, stream: int | None = None) -> None:
        self.rows: dict[str, tuple] = {}
        self.on_gpu: Any = None  # one of the arrays on the GPU
        self._gpu = gpu
        self._stream = stream
        self._alive: list = []

    def add(self, name: str, value: Any, kind: str = "tensor") -> None:
        if self._gpu and kind == "tensor" and is_on_gpu(value):
            self.rows[name] = self._add_on_gpu(name, value)
        else:
            self.rows[name] = self._feed(name, value, kind)

    def _add_on_gpu(self, name: str, value: Any) -> tuple:
        self.on_gpu = value
        self._alive.append(value)
        return _gpu_row(name, value, self._stream)

    def _feed(self, name: str, value: Any, kind: str = "tensor") -> tuple:
        if kind == "sequence":
            return "sequence", [self._feed(f"{name}[{i}]", item) for i, item in enumerate(value)]
        if kind == "optional":
            if value is None:
                return "optional", None
            return "optional", self._feed(name, value, "sequence" if isinstance(value, (list, tuple)) else "tensor")
        array = to_numpy(value, name)
        dtype = dtype_name(array.dtype)
        if dtype == "string":
            items = array.ravel().tolist()
            texts = [item.decode() if isinstance(item, bytes) else item for item in items]
            if not all(isinstance(item, str) for item in texts):
                raise Error(
                    "invalid_argument",
                    f"'{name}' is an array of Python objects that are not strings",
                    "give it a numeric dtype",
                )
            return "string", array.shape, texts
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array).reshape(array.shape)
        shape = array.shape
        if dtype in _PACKED_BITS:
            array = _pack(array, _PACKED_BITS[dtype])
        self._alive.append(array)
        return dtype, shape, array.ctypes.data if array.dtype.name in _FROM_ML else array.__array_interface__["data"][0]

    def add_target(self, name: str, value: Any) -> None:
        """An array to be written into."""
        if self._gpu and is_on_gpu(value):
            self.rows[name] = self._add_on_gpu(name, value)
            return
        array = to_numpy(value, name)
        if isinstance(value, np.ndarray) and not array.flags.writeable:
            raise Error("invalid_argument", f"the array given for output '{name}' is read-only")
        dtype = dtype_name(array.dtype)
        if not array.flags.c_contiguous or dtype in _PACKED_BITS or dtype == "string":
            raise Error(
                "invalid_argument",
                f"the array given for output '{name}' is not contiguous plain memory",
                "give a C-contiguous array, or leave the output out of `outputs`",
            )
        self._alive.append(array)
        self.rows[name] = (dtype, array.shape, array.ctypes.data)


def to_user(value: Any) -> Any:
    """What the C++ side returned, as arrays (a list of them for a sequence, None for an empty optional)."""
    if value is None:
        return None
    if isinstance(value, list):
        return [to_user(item) for item in value]
    name, shape, data = value
    if name == "string":
        array = np.empty(len(data), dtype=object)
        array[:] = data
        return array.reshape(shape)
    if name in _PACKED_BITS:
        data = _unpack(data, shape, name)
    if name in _EXTRA:
        extra = extra_dtype(name)
        return data.view(extra) if extra is not None else data
    return data
