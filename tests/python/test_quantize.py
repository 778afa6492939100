"""INT8 post-training quantisation through planish.build and the command line."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish


def network(seed: int = 0) -> onnx.ModelProto:
    """Convolution, depthwise convolution, residual sum, pool, classifier; ReLU6 between."""
    rng = np.random.default_rng(seed)

    def weights(name, *shape):
        scale = 1.4 / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c1", "zero", "six"], ["r1"], "act1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", pads=[1, 1, 1, 1], group=16),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"], "act2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "project"),
        helper.make_node("Add", ["c3", "r1"], ["s"], "sum"),
        helper.make_node("GlobalAveragePool", ["s"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], "head", transB=1),
    ]
    initializers = [
        weights("w1", 16, 3, 3, 3),
        weights("b1", 16, 1),
        weights("w2", 16, 1, 3, 3),
        weights("w3", 16, 16, 1, 1),
        weights("b3", 16, 1),
        weights("w4", 10, 16),
        weights("b4", 10, 1),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
    ]
    for tensor in initializers:
        if tensor.name.startswith("b"):
            tensor.dims[:] = tensor.dims[:1]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def images(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def build(model=None, **options):
    options = {"optimization_level": 1, "progress": False, "precision": "int8", **options}
    return planish.build(network() if model is None else model, **options)


def sqnr(plan, exact, inputs) -> float:
    a = np.concatenate([exact.run({"x": x})["y"] for x in inputs])
    b = np.concatenate([planish.load(plan, "cpu").run({"x": x})["y"] for x in inputs])
    return 10 * np.log10((a**2).sum() / ((a - b) ** 2).sum())


@pytest.fixture(scope="module")
def exact():
    return planish.load(planish.build(network(), optimization_level=1, progress=False), "cpu")


@pytest.fixture(scope="module")
def plan():
    return build(calibration=[{"x": x} for x in images(32, 1)])


def test_signal_survives_on_other_inputs(plan, exact):
    # Five tensors of 8 bits on the way, each about 40 dB above its noise.
    assert sqnr(plan, exact, images(32, 2)) > 28
    assert plan.report["output_errors"][0]["sqnr"] > 28
    assert {row["layer"]: row["after"] for row in plan.report["precision"]} == dict.fromkeys(
        ["stem", "depthwise", "project", "head"], "int8"
    )


def test_weights_are_bytes(plan):
    text = str(plan)
    assert text.count(": int8[") >= 4
    assert "QuantizeLinear" in text


def test_every_region_was_verified(plan):
    rows = plan.report["verification"]
    assert all(row["passed"] for row in rows)
    output = next(row for row in rows if row["name"] == "output:y")
    assert "dB" in output["note"]


@pytest.mark.parametrize("method", ["mse", "min_max", "percentile", "entropy"])
def test_methods(method, exact):
    plan = build(calibration=images(16, 1), calibration_method=method)
    assert sqnr(plan, exact, images(16, 2)) > 20


def test_forms_of_calibration_data_agree(tmp_path, plan):
    data = images(32, 1)
    np.savez(tmp_path / "all.npz", x=np.concatenate(data))
    (tmp_path / "npy").mkdir()
    (tmp_path / "npz").mkdir()
    for i, x in enumerate(data):
        np.save(tmp_path / "npy" / f"{i:03}.npy", x)
        np.savez(tmp_path / "npz" / f"{i:03}.npz", x=x)
    for calibration in (data, (x for x in data), tmp_path / "all.npz", tmp_path / "npy", str(tmp_path / "npz")):
        assert build(calibration=calibration).bytes() == plan.bytes()


def test_shapes_that_nobody_gave_are_those_of_the_calibration_data(tmp_path, capfd):
    model = network()
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    rng = np.random.default_rng(1)
    data = [rng.normal(size=(1, 3, 12, 40)).astype(np.float32) for _ in range(4)]
    build(model, calibration=data).save(tmp_path / "m.plan")
    capfd.readouterr()
    assert planish._planish.cli_main(["planish", "inspect", str(tmp_path / "m.plan"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["profiles"][0]["x"]["opt"] == [1, 3, 12, 40]


def test_missing_and_wrong_calibration_data(tmp_path):
    with pytest.raises(planish.Error, match="calibration") as error:
        build()
    assert "calibration=" in error.value.hint
    with pytest.raises(planish.Error, match="misses input 'x'"):
        build(calibration=[{"z": images(1, 1)[0]}])
    with pytest.raises(planish.Error, match="float64"):
        build(calibration=[{"x": np.zeros((1, 3, 16, 16))}])
    with pytest.raises(planish.Error, match=r"no \.npy"):
        build(calibration=tmp_path)
    with pytest.raises(planish.Error, match="no calibration data"):
        build(calibration=tmp_path / "missing.npz")
    with pytest.raises(planish.Error, match="of no use"):
        build(calibration=images(1, 1), precision="fp32")
    with pytest.raises(planish.Error, match="unknown calibration method"):
        build(calibration=images(1, 1), calibration_method="best")


def test_pinned_layers(exact):
    plan = build(calibration=images(8, 1), layer_precision={"*": "fp32", "pro?ect": "int8"})
    after = {row["layer"]: row["after"] for row in plan.report["precision"]}
    assert after == {"stem": "fp32", "depthwise": "fp32", "project": "int8", "head": "fp32"}
    assert sqnr(plan, exact, images(8, 2)) > 28


def test_tables_are_written_edited_and_taken(tmp_path, exact):
    path = tmp_path / "table.json"
    build(calibration=images(8, 1), save_calibration_table=path)
    table = json.loads(path.read_text())
    assert table["tensors"]["r1"]["low"] == 0
    assert table["tensors"]["r1"]["high"] == pytest.approx(6, rel=0.05)
    table["tensors"]["r1"]["high"] = 0.05
    path.write_text(json.dumps(table))
    plan = build(calibration=images(8, 1), calibration_table=path, save_calibration_table=tmp_path / "taken.json")
    taken = json.loads((tmp_path / "taken.json").read_text())["tensors"]
    assert taken["r1"]["high"] == pytest.approx(0.05)
    assert taken["x"] == pytest.approx(table["tensors"]["x"])
    # With nearly all of a tensor cut off, less of the signal is left.
    assert sqnr(plan, exact, images(8, 2)) < sqnr(build(calibration=images(8, 1)), exact, images(8, 2)) - 3


def test_budget():
    build(calibration=images(8, 1), accuracy_budget=20)
    with pytest.raises(planish.Error, match="dB"):
        build(calibration=images(8, 1), accuracy_budget=200)


def test_quantize_verb(tmp_path, capfd):
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", x=np.concatenate(images(8, 1)))
    code = planish._planish.cli_main(
        [
            "planish",
            "quantize",
            str(tmp_path / "m.onnx"),
            "--calib",
            str(tmp_path / "calib.npz"),
            "--layer-precision",
            "head=fp32",
            "--optimization-level",
            "1",
            "-o",
            str(tmp_path / "m.plan"),
            "--timing-cache",
            "none",
        ]
    )
    assert code == 0
    text = capfd.readouterr().out
    assert "pinned" in text
    assert "output y:" in text
    assert planish.load(tmp_path / "m.plan", "cpu").run({"x": images(1, 2)[0]})["y"].shape == (1, 10)


def test_integers_that_are_slower_give_way_to_floats(tmp_path):
    """A slow kernel is planted: QuantizeLinear and the integer regions run in the interpreter or as floats."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((64, 64, 3, 3)) / 24).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])
    sides = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64, 28, 28]) for name in "xy"]
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    samples = [{"x": rng.standard_normal((1, 64, 28, 28)).astype(np.float32)} for _ in range(4)]

    def build(**options):
        cache = tmp_path / "timing.json"
        return planish.build(
            model, precision="int8", calibration=samples, timing_cache=cache, progress=False, **options
        )

    fast = build()
    assert [row["after"] for row in fast.report["precision"]] == ["int8"]
    slow = build(disabled_implementations=["quantize"])
    assert [row["after"] for row in slow.report["precision"]] == ["fp32"]
    assert any("int8 does not make this network faster" in text for text in slow.report["warnings"])
    assert {row["op"] for row in slow.report["layers"]} == {"Conv", "Reorder"}
    expected = planish.build(model, progress=False)
    np.testing.assert_allclose(planish.load(slow)(samples[0]["x"]), planish.load(expected)(samples[0]["x"]), atol=1e-4)
    again = build(disabled_implementations=["quantize"], replay_only=True)
    assert again.bytes() == slow.bytes(), "the choice is in the timing cache"


def test_quantised_models_from_elsewhere(tmp_path):
    """Q/DQ and QOperator models of ONNX Runtime's quantiser: integer kernels, verified, equal to its own results."""
    ort = pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter([{"x": image} for image in images(8, 1)])

        def get_next(self):
            return next(self.rows, None)

    source = tmp_path / "float.onnx"
    onnx.save(network(), source)
    image = images(1, 5)[0]
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        for activation in (QuantType.QUInt8, QuantType.QInt8):
            path = tmp_path / f"{form.name}_{activation.name}.onnx"
            quantize_static(
                source,
                path,
                Reader(),
                quant_format=form,
                per_channel=True,
                activation_type=activation,
                weight_type=QuantType.QInt8,
            )
            # Nothing is timed: on some processors the float depthwise kernel is as fast.
            plan = planish.build(path, progress=False, optimization_level=2)
            assert all(row["passed"] for row in plan.report["verification"])
            kernels = [row["implementation"] for row in plan.report["layers"] if "Conv" in row["op"]]
            assert len(kernels) == 3
            assert all("_i8" in kernel for kernel in kernels), (path.name, kernels)
            expected = ort.InferenceSession(path).run(None, {"x": image})[0]
            step = np.abs(expected).max() / 128
            np.testing.assert_allclose(planish.load(plan)(image), expected, atol=2 * step)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(40, 60), (60, 40), (32, 32)]):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image_module.fromarray(pixels).save(folder / f"{i}.{'jpg' if i == 1 else 'png'}")
    image_module.fromarray(np.full((24, 24, 3), (255, 0, 51), np.uint8)).save(folder / "9_red.png")
    return folder


def test_images_follow_the_shape_of_the_input(photographs):
    red = (np.array([1.0, 0.0, 0.2]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    *_, last = planish.images(photographs, ["N", 3, 16, 12])
    assert (last.shape, last.dtype) == ((1, 3, 16, 12), np.float32)
    np.testing.assert_allclose(last, np.broadcast_to(red.reshape(3, 1, 1), (1, 3, 16, 12)), rtol=1e-5)
    *_, last = planish.images(photographs, [1, 16, 12, 3], channels="bgr")
    np.testing.assert_allclose(last, np.broadcast_to(red[::-1], (1, 16, 12, 3)), rtol=1e-5)
    *_, last = planish.images(photographs, [1, 3, "H", "W"], size=(8, 8), scale=1, mean=0, std=1, fit="stretch")
    np.testing.assert_array_equal(last[0, :, 3, 4], [255, 0, 51])
    *_, last = planish.images(photographs, [1, 8, 8, 3], dtype=np.uint8)
    np.testing.assert_array_equal(last[0, 3, 4], [255, 0, 51])
    assert len(list(planish.images(photographs, [1, 1, 16, 16]))) == 4
    with pytest.raises(planish.Error, match="takes no images"):
        list(planish.images(photographs, [1, 128]))
    with pytest.raises(planish.Error, match="open"):
        list(planish.images(photographs, [1, 3, "H", "W"]))
    with pytest.raises(planish.Error, match="no images"):
        list(planish.images(photographs / "missing", [1, 3, 8, 8]))


def test_calibration_from_a_folder_of_images(photographs, tmp_path, monkeypatch):
    """The same plan from the folder, from the images themselves and from the command line."""
    from planish.__main__ import main

    data = [{"x": image} for image in planish.images(photographs, [1, 3, 16, 16])]
    plan = build(calibration=data)
    assert build(calibration=photographs).bytes() == plan.bytes()
    onnx.save(network(), tmp_path / "m.onnx")
    options = ["--optimization-level", "1", "--timing-cache", "none", "-o", str(tmp_path / "m.plan")]
    words = ["planish", "quantize", str(tmp_path / "m.onnx"), "--calib", str(photographs), *options]
    monkeypatch.setattr("sys.argv", words)
    assert main() == 0
    x = images(1, 2)[0]
    np.testing.assert_array_equal(planish.load(tmp_path / "m.plan", "cpu")(x), planish.load(plan, "cpu")(x))
    monkeypatch.setattr("sys.argv", [*words, "--image", "colour=red"])
    assert main() == 1
    monkeypatch.setattr("sys.argv", [*words, "--image", "fit=stretch"])
    assert main() == 0
