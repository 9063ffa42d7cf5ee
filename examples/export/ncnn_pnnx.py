"""Convert a model to ncnn by pnnx, and print landmarks of face crops.

    pip install pnnx ncnn pillow
    pipnet export pipnet-68 --format scores -o maps.onnx
    python examples/export/ncnn_pnnx.py maps.onnx CROP.png ...

writes maps.ncnn.param and maps.ncnn.bin, in float32. Their outputs out0, out1, ... have the order of the
.onnx file. The crops are those of examples/onnx_alone.py.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

import ncnn
import numpy as np
from decode import run

NAMES = ("score_maps", "x_maps", "y_maps", "neighbor_x_maps", "neighbor_y_maps")


def convert(model):
    """Write NAME.ncnn.param and NAME.ncnn.bin beside the model and load them; see `decode.run`."""
    pnnx = Path(sysconfig.get_path("scripts")) / "pnnx"
    subprocess.run([pnnx, model.name, "fp16=0"], cwd=model.parent, check=True, stdout=sys.stderr)  # noqa: S603
    network = ncnn.Net()
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    stem = model.stem.replace("-", "_")  # pnnx's name for it
    network.load_param(str(model.with_name(f"{stem}.ncnn.param")))
    network.load_model(str(model.with_name(f"{stem}.ncnn.bin")))

    def infer(image):
        extractor = network.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0]).clone())  # without the copy ncnn 1.0.20261020 crashes
        return {name: np.array(extractor.extract(f"out{i}")[1])[None] for i, name in enumerate(NAMES)}

    return infer


run(convert)
