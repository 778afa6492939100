"""Networks that other tools have quantised: equal to ONNX Runtime's results, and computed by the integer kernels."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_quantize import images, network

import planish

ort = pytest.importorskip("onnxruntime")


def literal(model: onnx.ModelProto, feeds: dict) -> list[np.ndarray]:
    """ONNX Runtime, operator by operator: what the file says, without its own fusions."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def products(plan) -> list[str]:
    """The kernels of the convolutions and products, in order."""
    return [
        row["implementation"]
        for row in plan.report["layers"]
        if {"Conv", "Gemm", "MatMul"} & set(row["op"].split()[0].split("+"))
    ]


def expect_integers(model: onnx.ModelProto, x: np.ndarray, count: int):
    """`count` products, all on integers; every region verified; the result that of ONNX Runtime."""
    plan = planish.build(model, progress=False, optimization_level=1)
    assert all(row["passed"] for row in plan.report["verification"])
    kernels = products(plan)
    assert len(kernels) == count, plan.report["layers"]
    assert all("_i8" in kernel for kernel in kernels), kernels
    name = model.graph.input[0].name
    (expected,) = literal(model, {name: x})
    # Sums are exact in both, so only numbers within rounding of a tie may be stored one step apart. Each step is 1/255
    # of its tensor's range and passes through means and products that pass on less than all of it.
    np.testing.assert_allclose(planish.load(plan, "cpu")(x), expected, atol=np.abs(expected).max() / 128)
    return plan


# ---- NNCF ----


@pytest.mark.parametrize("preset", ["performance", "mixed"])
def test_nncf(preset):
    nncf = pytest.importorskip("nncf", reason="NNCF is not installed")
    data = nncf.Dataset([{"x": image} for image in images(8, 1)])
    model = nncf.quantize(network(), data, preset=nncf.QuantizationPreset(preset))
    expect_integers(model, images(1, 5)[0], 4)


# ---- PyTorch ----


@pytest.fixture(scope="module")
def torch_network():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Residual(nn.Module):
        """Convolution with its BatchNorm, depthwise convolution, residual sum, mean, classifier."""

        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.project, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

        def forward(self, x):
            r = torch.relu(self.norm(self.stem(x)))
            y = self.project(torch.relu(self.depthwise(r))) + r
            return self.head(y.mean((2, 3)))

    def make():
        torch.manual_seed(0)
        return Residual().eval()

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("aware", [False, True], ids=["after training", "QAT"])
def test_pytorch_export(torch_network, tmp_path, aware):
    """PT2E of torchao, in the export of torch.onnx."""
    import torch

    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    base = "torchao.quantization.pt2e"
    pt2e = pytest.importorskip(f"{base}.quantize_pt2e", reason="torchao is not installed")
    quantizer = pytest.importorskip(f"{base}.quantizer.x86_inductor_quantizer")
    import torchao

    config = quantizer.get_default_x86_inductor_quantization_config(is_qat=aware)
    prepare = pt2e.prepare_qat_pt2e if aware else pt2e.prepare_pt2e
    model = torch_network().train(aware)
    inputs = (torch.zeros(1, 3, 16, 16),)
    prepared = prepare(torch.export.export(model, inputs).module(), quantizer.X86InductorQuantizer().set_global(config))
    for image in images(4, 1):
        prepared(torch.from_numpy(image))
    converted = pt2e.convert_pt2e(prepared)
    torchao.quantization.pt2e.move_exported_model_to_eval(converted)
    program = torch.onnx.export(converted, inputs, dynamo=True, opset_version=21, verbose=False)
    program.save(tmp_path / "m.onnx")
    expect_integers(onnx.load(tmp_path / "m.onnx"), images(1, 5)[0], 4)


@pytest.mark.filterwarnings("ignore")
def test_modelopt(torch_network, tmp_path):
    """NVIDIA's Model Optimizer writes one pair of int8 borders in front of each layer."""
    import torch

    mtq = pytest.importorskip(
        "modelopt.torch.quantization", reason="NVIDIA ModelOpt is not installed", exc_type=ImportError
    )

    def calibrate(model):
        for image in images(8, 1):
            model(torch.from_numpy(image))

    model = mtq.quantize(torch_network(), mtq.INT8_DEFAULT_CFG, calibrate)
    path = tmp_path / "m.onnx"
    torch.onnx.export(model, (torch.zeros(1, 3, 16, 16),), path, dynamo=False, opset_version=17)
    expect_integers(onnx.load(path), images(1, 5)[0], 4)


# ---- ONNX Runtime ----


class Reader:
    """Calibration data as ONNX Runtime's quantiser reads them."""

    def __init__(self):
        self.rows = iter([{"x": image} for image in images(8, 1)])

    def get_next(self):
        return next(self.rows, None)


def test_forms_of_one_network_become_the_same_steps(tmp_path):
    """Q/DQ and QOperator, uint8 and int8: one sequence of ops and kernels."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    onnx.save(network(), tmp_path / "float.onnx")
    steps = []
    for form in quantization.QuantFormat:
        for activation in (quantization.QuantType.QUInt8, quantization.QuantType.QInt8):
            path = tmp_path / "m.onnx"
            quantization.quantize_static(
                tmp_path / "float.onnx",
                path,
                Reader(),
                quant_format=form,
                per_channel=True,
                activation_type=activation,
                weight_type=quantization.QuantType.QInt8,
            )
            plan = expect_integers(onnx.load(path), images(1, 5)[0], 4)
            steps.append([(row["op"], row["implementation"]) for row in plan.report["layers"]])
    assert steps[1:] == steps[:-1]


def multilayer(rng=None) -> onnx.ModelProto:
    """x[N, 8, 64] through two linear layers, GELU between, and a third one beside the first."""
    rng = rng or np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "up"),
        helper.make_node("Add", ["a", "b1"], ["b"], "up_bias"),
        helper.make_node("Gelu", ["b"], ["c"], "gelu"),
        helper.make_node("MatMul", ["c", "w2"], ["d"], "down"),
        helper.make_node("Add", ["d", "b2"], ["e"], "down_bias"),
        helper.make_node("MatMul", ["x", "w3"], ["f"], "beside"),
        helper.make_node("Add", ["e", "f"], ["y"], "sum"),
    ]
    shapes = {"w1": (64, 96), "b1": (96,), "w2": (96, 32), "b2": (32,), "w3": (64, 32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 32])],
        [
            numpy_helper.from_array((rng.normal(size=shape) / 8).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 8, 64)).astype(np.float32)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("optimised", [False, True], ids=["as written", "fused by ONNX Runtime"])
def test_dynamic_quantisation(tmp_path, per_channel, optimised):
    """DynamicQuantizeLinear + MatMulInteger, and ONNX Runtime's own operators for the two."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    onnx.save(multilayer(), tmp_path / "float.onnx")
    path = tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(tmp_path / "float.onnx", path, per_channel=per_channel)
    model = onnx.load(path)
    if optimised:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        ort.InferenceSession(path, options)
        model = onnx.load(tmp_path / "optimised.onnx")
        assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & {node.op_type for node in model.graph.node}
    plan = expect_integers(model, tokens(5), 3)
    kernels = [row["implementation"] for row in plan.report["layers"]]
    assert sum(kernel.startswith("dynamic_quantize_i8") for kernel in kernels) == 2, "x is quantised once"
    assert not any(kernel.startswith("reference") for kernel in kernels), kernels


def test_dynamic_convolutions(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    onnx.save(network(), tmp_path / "float.onnx")
    # ONNX Runtime has no ConvInteger of int8 weights: it writes uint8 ones, around 128 where symmetric.
    quantization.quantize_dynamic(
        tmp_path / "float.onnx",
        tmp_path / "m.onnx",
        weight_type=quantization.QuantType.QUInt8,
        extra_options={"WeightSymmetric": True},
    )
    expect_integers(onnx.load(tmp_path / "m.onnx"), images(1, 5)[0], 4)


# ---- Weights alone ----


def weights_only(bits: int, block: int, symmetric: bool, form: str) -> onnx.ModelProto:
    """ONNX Runtime's block-wise quantiser: com.microsoft.MatMulNBits, or ONNX's DequantizeLinear with block_size."""
    module = pytest.importorskip(
        "onnxruntime.quantization.matmul_nbits_quantizer", reason="needs onnx_ir", exc_type=ImportError
    )
    quantizer = module.MatMulNBitsQuantizer(
        multilayer(),
        bits=bits,
        block_size=block,
        is_symmetric=symmetric,
        quant_format=module.QuantFormat[form],
    )
    quantizer.process()
    return quantizer.model.model


FORMS = [(4, "QOperator"), (4, "QDQ"), (8, "QOperator")]


@pytest.mark.parametrize(("bits", "form"), FORMS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rows", [1, 48])
def test_weights_stay_in_4_and_8_bits(bits, form, symmetric, rows):
    model = weights_only(bits, 32, symmetric, form)
    x = np.random.default_rng(7).normal(size=(1, rows, 64)).astype(np.float32)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = rows
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = rows
    plan = planish.build(model, progress=False, optimization_level=1)
    assert all(row["passed"] for row in plan.report["verification"])
    kernels = products(plan)
    assert len(kernels) == 3
    if bits == 4 or rows == 1:
        assert all(f"_w{bits}_block32" in kernel for kernel in kernels), kernels
    assert str(plan).count(f"int{bits}[") >= 3, "the plan holds codes, not floats"
    (expected,) = literal(model, {"x": x})
    # Both decode exactly: what is left is the order of float32 sums over 64 and 96 terms.
    k, magnitude = 96, np.abs(expected).max() * 16
    np.testing.assert_allclose(planish.load(plan, "cpu")(x), expected, atol=k * 2**-24 * magnitude)


def test_forms_of_block_weights_become_the_same_steps():
    steps = []
    for form in ("QOperator", "QDQ"):
        plan = planish.build(weights_only(4, 32, False, form), progress=False, optimization_level=1)
        steps.append([(row["op"], row["implementation"]) for row in plan.report["layers"]])
    assert steps[0] == steps[1]
    assert not any("Transpose" in op for op, _ in steps[0])
