"""Networks that other tools have quantised: equal to ONNX Runtime's results, and computed by the integer kernels."""

import numpy as np
import onnx
import pytest
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
