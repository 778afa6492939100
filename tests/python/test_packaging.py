"""The module among other libraries: no symbol of its ONNX or protobuf leaks, and any order of imports works."""

import importlib.util
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import planish

PEERS = [name for name in ("torch", "onnx", "onnxruntime", "tensorflow") if importlib.util.find_spec(name)]
MODULE = Path(planish._planish.__file__).resolve()
RUNTIME = MODULE.parents[2] / "libplanish_runtime.so"
FULL = MODULE.parents[2] / "libplanish.so"

BUILD_AND_RUN = """
import onnx, numpy
from onnx import helper
node = helper.make_node("Relu", ["x"], ["y"])
sides = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
graph = helper.make_graph([node], "g", sides[:1], sides[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
engine = planish.load(planish.build(model, progress=False))
assert engine(numpy.array([-1, 2], numpy.float32)).tolist() == [0, 2]
onnx.checker.check_model(model)
"""


def orders():
    """Planish before, between and after the others; the others in both directions."""
    for names in (PEERS, PEERS[::-1]):
        for position in (0, len(names) // 2, len(names)):
            yield [*names[:position], "planish", *names[position:]]


@pytest.mark.parametrize("order", list(dict.fromkeys(map(tuple, orders()))), ids="-".join)
def test_imports_in_any_order(order):
    code = "\n".join(f"import {name}" for name in order) + BUILD_AND_RUN
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def exported(library):
    lines = subprocess.run(["nm", "-D", "-C", "--defined-only", library], capture_output=True, text=True, check=True)
    return [line.split(maxsplit=2)[2] for line in lines.stdout.splitlines()]


needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="binutils are not installed")


@needs_nm
def test_module_exports_its_entry_only():
    assert exported(MODULE) == ["PyInit__planish"]


@needs_nm
@pytest.mark.skipif(not RUNTIME.exists(), reason="an installed package has no shared libraries beside it")
def test_shared_libraries_export_planish_only():
    for library in (RUNTIME, FULL):
        names = exported(library)
        assert names
        ours = ("planish::", "planish_", "typeinfo", "vtable", "guard variable for planish::")
        assert not [name for name in names if not name.startswith(ours)]
        foreign = itertools.product(names, ("protobuf", "planish_onnx::", "fmt::", "Xbyak"))
        assert not [name for name, word in foreign if word in name]


@pytest.mark.skipif(not RUNTIME.exists(), reason="an installed package has no shared libraries beside it")
def test_runtime_library_stays_small(tmp_path):
    stripped = tmp_path / "runtime.so"
    subprocess.run(["strip", "-o", stripped, RUNTIME], check=True)
    assert stripped.stat().st_size <= 5 * 2**20
    needed = subprocess.run(["ldd", stripped], capture_output=True, text=True, check=True).stdout
    assert "protobuf" not in needed
