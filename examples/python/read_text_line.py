"""Read a line of text with PP-OCR's three networks: find it, turn it upright, recognise its characters.

python examples/python/read_text_line.py                        # draws a line of text, upside down, and reads it
python examples/python/read_text_line.py page.png               # reads every line of an image
"""

import argparse
from importlib.resources import files

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import label, regionprops

import planish

MODELS = files("rapidocr_onnxruntime") / "models"
TEXT = "Flatten the network onto the hardware 2026"


def draw(text):
    """An image with `text` in black on white, turned by 180 degrees."""
    image = Image.new("RGB", (960, 160), "white")
    ImageDraw.Draw(image).text((60, 50), text, "black", ImageFont.load_default(size=40))
    return image.rotate(180)


def pixels(image, width, height):
    """float32[1, 3, height, width] in [-1, 1], blue first, as the networks were trained."""
    values = np.asarray(image.convert("RGB").resize((width, height)), np.float32)[..., ::-1]
    return ((values / 127.5 - 1).transpose(2, 0, 1))[None]


def find_lines(detector, image):
    """Boxes around text, top to bottom: where the map of text probability [1, 1, H, W] is high, and a margin."""
    width, height = (max(32, round(side / 32) * 32) for side in image.size)
    probability = detector(pixels(image, width, height))[0, 0]
    for region in regionprops(label(probability > 0.3)):
        top, left, bottom, right = region.bbox
        if region.area < 64:
            continue
        margin = 0.4 * (bottom - top)  # the detector was trained on boxes shrunk by about this much
        box = np.array([left - margin, top - margin, right + margin, bottom + margin])
        yield tuple(box * np.tile([image.width / width, image.height / height], 2))


def upright(classifier, line):
    """The line turned by 180 degrees where the classifier is sure that it stands upside down."""
    return line.rotate(180) if classifier(pixels(line, 192, 48))[0, 1] > 0.9 else line


def recognise(recogniser, characters, line):
    """CTC decoding: the best class of each column, repetitions merged, blanks (class 0) dropped."""
    width = max(48, round(48 * line.width / line.height))
    best = recogniser(pixels(line, width, 48))[0].argmax(axis=1)
    kept = best[(best != 0) & (best != np.concatenate([[-1], best[:-1]]))]
    return "".join(characters[i] for i in kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", help="an image file; default: a line of text drawn here")
    arguments = parser.parse_args()
    image = Image.open(arguments.image) if arguments.image else draw(TEXT)

    names = ("ch_PP-OCRv4_det_infer", "ch_ppocr_mobile_v2.0_cls_infer", "ch_PP-OCRv4_rec_infer")
    paths = [str(MODELS / f"{name}.onnx") for name in names]
    detector, classifier, recogniser = (planish.load(planish.build(path)) for path in paths)
    metadata = {entry.key: entry.value for entry in onnx.load(paths[2]).metadata_props}
    characters = ["", *metadata["character"].splitlines(), " "]

    for box in find_lines(detector, image):
        print(recognise(recogniser, characters, upright(classifier, image.crop(tuple(round(b) for b in box)))))


if __name__ == "__main__":
    main()
