"""ONNX models as bytes, written by hand: the machines with a GPU need not have the onnx package."""

from __future__ import annotations

import struct

import numpy as np

_DTYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


class Float8(np.ndarray):
    """Codes of float8_e4m3fn, which NumPy has no type for: `codes.view(Float8)` of uint8."""


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes | str | int | float) -> bytes:
    if isinstance(payload, float):
        return _varint(number << 3 | 5) + struct.pack("<f", payload)
    if isinstance(payload, (int, np.integer)):
        return _varint(number << 3) + _varint(int(payload))
    data = payload.encode() if isinstance(payload, str) else payload
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def tensor(name: str, array: np.ndarray) -> bytes:
    """TensorProto with raw data."""
    dims = b"".join(_field(1, d) for d in array.shape)
    dtype = 17 if isinstance(array, Float8) else _DTYPES[array.dtype.name]
    return dims + _field(2, dtype) + _field(8, name) + _field(9, np.ascontiguousarray(array).tobytes())


def node(op: str, inputs: list[str], outputs: list[str], **attributes) -> bytes:
    """NodeProto; attributes are ints, floats, strings, lists of ints or floats, or arrays."""
    data = b"".join(_field(1, i) for i in inputs) + b"".join(_field(2, o) for o in outputs)
    data += _field(3, outputs[0] + "_" + op) + _field(4, op)
    for name, value in attributes.items():
        row = _field(1, name)
        if isinstance(value, np.ndarray):
            row += _field(5, tensor("", value)) + _field(20, 4)
        elif isinstance(value, str):
            row += _field(4, value) + _field(20, 3)
        elif isinstance(value, float):
            row += _field(2, value) + _field(20, 1)
        elif isinstance(value, int):
            row += _field(3, value) + _field(20, 2)
        elif value and isinstance(value[0], float):
            row += b"".join(_field(7, v) for v in value) + _field(20, 6)
        else:
            row += b"".join(_field(8, v) for v in value) + _field(20, 7)
        data += _field(5, row)
    return data


def value_info(name: str, shape: list, dtype: str = "float32") -> bytes:
    dims = b"".join(_field(1, _field(2, d) if isinstance(d, str) else _field(1, d)) for d in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, _DTYPES[dtype]) + _field(2, dims)))


def model(nodes: list[bytes], inputs: dict, outputs: dict, constants: dict, opset: int = 20) -> bytes:
    """ModelProto. inputs and outputs: name -> shape, or (shape, dtype)."""

    def infos(values: dict, number: int) -> bytes:
        rows = [(n, *(s if isinstance(s, tuple) else (s,))) for n, s in values.items()]
        return b"".join(_field(number, value_info(*row)) for row in rows)

    graph = b"".join(_field(1, n) for n in nodes) + _field(2, "graph")
    graph += b"".join(_field(5, tensor(n, a)) for n, a in constants.items())
    graph += infos(inputs, 11) + infos(outputs, 12)
    return _field(1, 9) + _field(7, graph) + _field(8, _field(1, "") + _field(2, opset))
