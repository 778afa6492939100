"""Running plans from Python: arrays of every kind in, arrays out, errors that say what to do."""

import json
import threading

import numpy as np
import pytest
from conftest import make_model, value
from onnx import TensorProto, helper

import planish


def expected(x, weights):
    return np.maximum(x @ weights[0] + weights[1], 0)


def test_inputs_and_outputs_describe_themselves(dense_plan):
    engine = planish.load(dense_plan)
    (x,) = engine.inputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", ("N", 3))
    assert x.dtype == np.float32
    assert x.dtype == np.dtype("float32")
    assert x.dtype != np.float64
    assert engine.outputs[0].shape == ("N", 5)
    assert "x" in repr(engine)


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_run_call_and_context_agree_with_numpy(dense_plan, weights, batch):
    engine = planish.load(dense_plan, threads=1)
    x = np.random.default_rng(batch).standard_normal((batch, 3), dtype=np.float32)
    want = expected(x, weights)
    for y in (engine.run({"x": x})["y"], engine(x), engine(x=x), engine.create_context().run({"x": x})["y"]):
        assert y.dtype == np.float32
        # three products and a bias: 4 roundings of terms no larger than the sum of magnitudes
        np.testing.assert_allclose(y, want, rtol=0, atol=4 * np.finfo(np.float32).eps * 20)


def test_path_bytes_and_plan_load_alike(dense_plan, dense_plan_path, weights):
    x = np.ones((2, 3), np.float32)
    outputs = [
        planish.load(source)(x) for source in (dense_plan, dense_plan_path, str(dense_plan_path), bytes(dense_plan))
    ]
    for y in outputs[1:]:
        np.testing.assert_array_equal(y, outputs[0])


def test_several_outputs_come_as_a_tuple(two_outputs):
    engine = planish.load(planish.build(two_outputs, progress=False))
    a, b = np.full((2, 4), 3, np.float32), np.ones((2, 4), np.float32)
    total, difference = engine(a, b)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(difference, a - b)
    assert list(engine.run({"b": b, "a": a})) == ["sum", "difference"]


def test_outputs_are_written_into_the_callers_arrays(dense_plan, weights):
    engine = planish.load(dense_plan)
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 5), np.float32)
    result = engine.run({"x": x}, outputs={"y": y})
    assert result["y"] is y
    np.testing.assert_allclose(y, expected(x, weights), rtol=1e-5)
    for wrong in (np.zeros((3, 5), np.float32), np.zeros((2, 5)), np.zeros((5, 2), np.float32).T):
        with pytest.raises(planish.Error) as error:
            engine.run({"x": x}, outputs={"y": wrong})
        assert error.value.code == "invalid_argument"
    y.flags.writeable = False
    with pytest.raises(planish.Error, match="read-only"):
        engine.run({"x": x}, outputs={"y": y})


def test_results_own_their_memory(dense_plan):
    engine = planish.load(dense_plan)
    context = engine.create_context()
    first = context.run({"x": np.ones((1, 3), np.float32)})["y"]
    copy = first.copy()
    context.run({"x": np.full((1, 3), 9, np.float32)})
    np.testing.assert_array_equal(first, copy)
    first += 1  # writable


def test_strided_big_endian_and_list_inputs(dense_plan, weights):
    engine = planish.load(dense_plan)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    want = expected(x[:, ::2], weights)
    np.testing.assert_allclose(engine(x[:, ::2]), want, rtol=1e-5)
    np.testing.assert_allclose(engine(x[:, ::2].astype(">f4")), want, rtol=1e-5)
    np.testing.assert_allclose(engine(np.asfortranarray(x[:, ::2])), want, rtol=1e-5)


def test_torch_tensors_and_dlpack(dense_plan, weights):
    torch = pytest.importorskip("torch")
    engine = planish.load(dense_plan)
    x = torch.ones(2, 3, requires_grad=True)
    want = expected(x.detach().numpy(), weights)
    np.testing.assert_allclose(engine(x), want, rtol=1e-5)
    y = torch.zeros(2, 5)
    engine.run({"x": x}, outputs={"y": y})
    np.testing.assert_allclose(y.numpy(), want, rtol=1e-5)

    class OnlyDlpack:
        def __dlpack__(self, **kwargs):
            return x.detach().__dlpack__()

        def __dlpack_device__(self):
            return x.detach().__dlpack_device__()

    np.testing.assert_allclose(engine(OnlyDlpack()), want, rtol=1e-5)


DTYPES = {
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
    "int32": TensorProto.INT32,
    "uint32": TensorProto.UINT32,
    "int64": TensorProto.INT64,
    "uint64": TensorProto.UINT64,
    "bfloat16": TensorProto.BFLOAT16,
}


@pytest.mark.parametrize("name", DTYPES)
def test_element_types_pass_through(name):
    dtype = getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else np.dtype(name)
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    model = make_model([node], [value("x", [2, 3], DTYPES[name])], [value("y", [3, 2], DTYPES[name])])
    engine = planish.load(planish.build(model, progress=False))
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    y = engine(x)
    assert engine.inputs[0].dtype == name
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x.T)


def test_strings():
    node = helper.make_node("Identity", ["x"], ["y"])
    model = make_model([node], [value("x", ["N"], TensorProto.STRING)], [value("y", ["N"], TensorProto.STRING)])
    engine = planish.load(planish.build(model, progress=False))
    assert engine.inputs[0].dtype == "string"
    for x in (np.array(["a", "öß", ""]), np.array(["a", "öß", ""], dtype=object), ["a", "öß", ""]):
        assert engine(x).tolist() == ["a", "öß", ""]


def failure(call, code="invalid_argument"):
    with pytest.raises(planish.Error) as error:
        call()
    assert error.value.code == code
    assert error.value.message
    return str(error.value)


def test_bad_feeds(dense_plan):
    engine = planish.load(dense_plan)
    x = np.ones((2, 3), np.float32)
    assert "'x'" in failure(lambda: engine.run({}))
    text = failure(lambda: engine.run({"image": x}))
    assert "'image'" in text
    assert "'x'" in text
    text = failure(lambda: engine.run({"x": x.astype(np.float64)}))
    assert "float64" in text
    assert 'astype("float32")' in text
    assert "[N, 3]" in failure(lambda: engine.run({"x": np.ones((2, 4), np.float32)}))
    assert "x[None]" in failure(lambda: engine.run({"x": np.ones(3, np.float32)}))
    failure(lambda: engine.run(x))
    failure(lambda: engine(x, x))
    failure(lambda: engine.run({"x": object()}))
    failure(lambda: engine.run({"x": x}, outputs={"z": x}))
    failure(lambda: engine.run({"x": x}, stream=0), "unsupported")


def test_bad_devices(dense_plan):
    assert "driver" in failure(lambda: planish.load(dense_plan, device="cuda:0"), "unsupported")
    failure(lambda: planish.load(dense_plan, device="toaster"))
    failure(lambda: planish.load(dense_plan, threads=0))


def test_bad_plans(tmp_path, dense_plan, dense_onnx_path):
    assert "no.plan" in failure(lambda: planish.load(tmp_path / "no.plan"), "not_found")
    assert "planish build" in failure(lambda: planish.load(dense_onnx_path), "invalid_plan")
    path = tmp_path / "bad.plan"
    for content in (b"", b"some text", bytes(dense_plan)[:-7], b"PK\x03\x04" + bytes(64)):
        path.write_bytes(content)
        failure(lambda: planish.load(path), "invalid_plan")
        failure(lambda content=content: planish.load(content), "invalid_plan")


def test_engines_are_shared_by_threads(dense_plan, weights):
    engine = planish.load(dense_plan, threads=1)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for i in range(50):
            x = rng.standard_normal((1 + i % 3, 3), dtype=np.float32)
            if not np.allclose(engine(x), expected(x, weights), rtol=1e-4, atol=1e-5):
                wrong.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_info_and_layers(dense_plan):
    engine = planish.load(dense_plan)
    assert engine.info["device"] == "cpu"
    assert engine.info["weight_bytes"] >= 3 * 5 * 4
    layers = engine.layers({"x": (2, 3)})
    assert "fc" in {name for layer in layers for name in layer["layers"]}


def test_profile_lists_regions_and_writes_a_trace(dense_plan, tmp_path):
    engine = planish.load(dense_plan, threads=1)
    trace = tmp_path / "trace.json"
    profile = engine.profile({"x": np.ones((4, 3), np.float32)}, runs=3, trace=trace)
    assert profile["threads"] == 1
    assert profile["peak_flops"] > 0
    assert profile["peak_bandwidth"] > 0
    regions = profile["regions"]
    assert [r["name"] for r in regions] == [r["name"] for r in engine.layers({"x": (4, 3)})]
    assert profile["seconds"] == pytest.approx(sum(r["seconds"] for r in regions))
    assert all(r["busy_threads"] == pytest.approx(1) for r in regions)  # nothing is shared, so nobody waits
    drawn = {e["name"] for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"}
    assert drawn == {r["name"] for r in regions}
    for wrong in (
        {"feeds": {"z": np.ones((4, 3), np.float32)}},
        {"feeds": {"x": np.ones((4, 3), np.float32)}, "runs": 0},
    ):
        with pytest.raises(planish.Error) as error:
            engine.profile(**wrong)
        assert error.value.code == "invalid_argument"
