"""Predict image files with an ONNX file of `mtl export`. Needs onnxruntime, numpy and pillow alone.

python onnx_predict.py MODEL.onnx IMAGE...      prints one JSON object a line
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def stored(path, height, width):
    """Upright RGB -> the largest central rectangle of the right ratio -> (3, height, width)."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit gray: scaled, where Pillow would clip
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        scaled = ((gray + 128) // 257).astype(np.uint8)
        transparent = image.info.get("transparency")
        image = Image.fromarray(np.where(gray == transparent, np.uint8(255), scaled))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image, (w, h) = image.convert("RGB"), image.size
    if w * height <= h * width:
        size = w, max(1, round(w * height / width))
    else:
        size = max(1, round(h * width / height)), h
    left, top = (w - size[0]) // 2, (h - size[1]) // 2
    image = image.crop((left, top, left + size[0], top + size[1]))
    if size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image).transpose(2, 0, 1)


def answer(numbers, form, names):
    numbers = [float(number) for number in numbers.reshape(-1)]
    default = ["value"] if len(numbers) == 1 else [str(i) for i in range(len(numbers))]
    named = dict(zip(names or default, numbers))
    if form == "values":
        return named
    if form == "labels":
        return {"labels": [n for n, p in named.items() if p >= 0.5], "probabilities": named}
    label = max(named, key=named.get)
    return {"label": label, "probability": named[label], "probabilities": named}


session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
meta = json.loads(session.get_modelmeta().custom_metadata_map["mtlcore"])
for path in sys.argv[2:]:
    image = stored(path, *meta["input"]["shape"][2:])
    found = session.run(list(meta["tasks"]), {meta["input"]["name"]: image[None]})
    answers = {
        # The names of a map are those of its classes, and not of its numbers.
        label: answer(numbers[0], task["form"], [] if task.get("shape") else task["names"])
        for (label, task), numbers in zip(meta["tasks"].items(), found)
    }
    print(json.dumps({"file": path, "answers": answers}))
