"""Small models that the tests share. Built with onnx.helper, so that no network is needed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def make_model(nodes, inputs, outputs, weights=(), opset=17):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


@pytest.fixture(scope="session", autouse=True)
def caches_of_its_own(tmp_path_factory):
    """The command line keeps a timing cache there."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def weights():
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, 5), dtype=np.float32), rng.standard_normal(5, dtype=np.float32)


@pytest.fixture(scope="session")
def dense(weights):
    """y = relu(x w + b), x: float32[N, 3]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
        helper.make_node("Add", ["m", "b"], ["s"], name="bias"),
        helper.make_node("Relu", ["s"], ["y"], name="act"),
    ]
    return make_model(nodes, [value("x", ["N", 3])], [value("y", ["N", 5])], [("w", weights[0]), ("b", weights[1])])


@pytest.fixture(scope="session")
def dense_plan(dense):
    import planish

    return planish.build(dense, progress=False)


@pytest.fixture(scope="session")
def dense_plan_path(dense_plan, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "dense.plan"
    dense_plan.save(path)
    return path


@pytest.fixture(scope="session")
def dense_onnx_path(dense, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "dense.onnx"
    onnx.save(dense, path)
    return path


@pytest.fixture(scope="session")
def two_outputs():
    """a + b and a - b of float32[N, 4]."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape = ["N", 4]
    return make_model(nodes, [value("a", shape), value("b", shape)], [value("sum", shape), value("difference", shape)])
