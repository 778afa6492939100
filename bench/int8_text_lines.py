"""PP-OCR's recogniser in INT8 on drawn lines of text, beside ONNX Runtime's quantiser and NNCF where installed:
the share of lines whose text is the same as in float32.

python bench/int8_text_lines.py                          # 240 lines in the system's fonts
python bench/int8_text_lines.py --seed 7 --fonts DIR     # other words, other fonts
python bench/int8_text_lines.py --noise                  # and grey letters, dark grounds, noise

Calibration and test lines are drawn in different font families and from different texts.
Needs rapidocr-onnxruntime, scikit-learn and Pillow.
"""

import argparse
import re
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont
from sklearn import datasets

import planish

HEIGHT, WIDTH = 48, 320
CALIBRATION = (datasets.load_iris, datasets.load_wine, datasets.load_diabetes)
TEST = (datasets.load_breast_cancer, datasets.load_digits, datasets.load_linnerud)


def families(folder):
    """Two lists of font files that share no family, such as DejaVu Sans and DejaVu Serif."""
    by_family = {}
    for path in sorted(Path(folder).rglob("*.ttf")):
        by_family.setdefault(ImageFont.truetype(str(path), 12).getname()[0], []).append(str(path))
    if len(by_family) < 2:
        raise SystemExit(f"{folder} has {len(by_family)} font families: two at least are needed (Debian: fonts-dejavu)")
    names = sorted(by_family, key=lambda name: (-len(by_family[name]), name))
    return [f for n in names[0::2] for f in by_family[n]], [f for n in names[1::2] for f in by_family[n]]


def lines(loaders, fonts, count, seed, noise):
    """Lines of one to four words and numbers: float32[1, 3, 48, 320] in [-1, 1], black on white."""
    words = sorted({w for load in loaders for w in re.findall(r"[A-Za-z]{3,12}|[0-9]{2,6}", load().DESCR)})
    rng = np.random.default_rng(seed)
    while count:
        text = " ".join(rng.choice(words, rng.integers(1, 5)))
        font = ImageFont.truetype(str(rng.choice(fonts)), int(rng.integers(22, 36)))
        left, top, right, bottom = font.getbbox(text)
        if right - left > WIDTH - 8:
            continue
        ground, ink = 255, 0
        if noise:
            dark, light = int(rng.integers(0, 100)), int(rng.integers(160, 256))
            ground, ink = (light, dark) if rng.random() < 0.8 else (dark, light)
        image = Image.new("L", (WIDTH, HEIGHT), ground)
        ImageDraw.Draw(image).text((4 - left, (HEIGHT - bottom - top) // 2), text, ink, font)
        pixels = np.asarray(image, np.float32)
        if noise:
            pixels = pixels + rng.normal(0, rng.uniform(0, 8), pixels.shape)
        yield np.broadcast_to(pixels.clip(0, 255) / 127.5 - 1, (1, 3, HEIGHT, WIDTH)).astype(np.float32)
        count -= 1


def texts(outputs, characters):
    """CTC decoding: the best class of each column, repetitions merged, blanks (class 0) dropped."""
    for output in outputs:
        best = output[0].argmax(axis=1)
        kept = best[(best != 0) & (best != np.concatenate([[-1], best[:-1]]))]
        yield "".join(characters[i] for i in kept)


def quantised_by_onnxruntime(path, feeds, folder):
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter(feeds)

        def get_next(self):
            return next(self.rows, None)

    prepared, quantised = f"{folder}/prepared.onnx", f"{folder}/quantised.onnx"
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, quantised, Reader(), per_channel=True, **types)
    session = onnxruntime.InferenceSession(quantised)
    return lambda row: session.run(None, row)[0]


def quantised_by_nncf(path, feeds, _):
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({name: list(value.shape) for name, value in feeds[0].items()})
    quantised = nncf.quantize(model, nncf.Dataset(feeds, lambda row: row), subset_size=len(feeds))
    compiled = openvino.Core().compile_model(quantised, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda row: compiled(row)[0]


def quantised_by_planish(path, feeds, folder):
    plan = planish.build(path, output=f"{folder}/model.plan", precision="int8", calibration=feeds, progress=False)
    engine = planish.load(plan, device="cpu")
    return lambda row: next(iter(engine.run(row).values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=240)
    parser.add_argument("--calibration-lines", type=int, default=96)
    parser.add_argument("--fonts", default="/usr/share/fonts/truetype", help="folder of TrueType fonts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--noise", action="store_true", help="grey letters, dark grounds and noise in the images")
    parser.add_argument("--only", help="one of onnxruntime, nncf, planish")
    arguments = parser.parse_args()

    path = str(files("rapidocr_onnxruntime") / "models" / "ch_PP-OCRv4_rec_infer.onnx")
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    metadata = session.get_modelmeta().custom_metadata_map
    characters = ["", *metadata["character"].splitlines(), " "]
    fonts = families(arguments.fonts)
    feeds = [
        {name: x} for x in lines(CALIBRATION, fonts[0], arguments.calibration_lines, arguments.seed, arguments.noise)
    ]
    test = [{name: x} for x in lines(TEST, fonts[1], arguments.lines, arguments.seed + 1, arguments.noise)]
    reference = list(texts((session.run(None, row)[0] for row in test), characters))

    quantisers = {"onnxruntime": quantised_by_onnxruntime, "nncf": quantised_by_nncf, "planish": quantised_by_planish}
    for peer, quantise in quantisers.items():
        if arguments.only not in (None, peer):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = quantise(path, feeds, folder)
            except Exception as error:  # a peer that is absent, or that writes an invalid graph
                print(f"{peer:12s} {type(error).__name__}: {str(error).splitlines()[0][:100]}", flush=True)
                continue
            read = list(texts((run(row) for row in test), characters))
        same = np.mean([a == b for a, b in zip(read, reference)])
        print(f"{peer:12s} same text as float32: {same:.4f} of {len(test)} lines", flush=True)


if __name__ == "__main__":
    main()
