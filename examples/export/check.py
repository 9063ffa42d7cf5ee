"""Compare the scripts of this folder with the full ONNX model on labeled faces.

    python examples/export/check.py MODEL --data ../shared/data/300w --run opencv_dnn=PYTHON --run litert=...

needs pipnet's extra onnx. Each script runs in the environment of its own PYTHON. The largest difference of
any landmark, in pixels of the crop, is printed for each.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from pipnet.datasets.load import load_samples
from pipnet.export.score_maps import export_score_maps
from pipnet.hub import find_model
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.io.image import read_image, write_image
from pipnet.warp import crop

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("model", help="a model's name or .onnx file")
parser.add_argument("--data", type=Path, required=True, help="a dataset of labeled faces")
parser.add_argument("--faces", type=int, default=20)
parser.add_argument("--run", action="append", default=[], metavar="SCRIPT=PYTHON")
arguments = parser.parse_args()
model = OnnxModel(find_model(arguments.model), "cpu")
metadata = model.metadata
samples, _, _ = load_samples(arguments.data, "common", metadata.scheme)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    files, crops = [], []
    for sample in samples[:: max(len(samples) // arguments.faces, 1)][: arguments.faces]:
        image = read_image(sample.image)
        crops.append(crop(image, sample.crop_region(metadata.crop, image), metadata.input_size))
        files.append(str(folder / f"{len(files)}.png"))
        write_image(files[-1], crops[-1])
    expected = model(np.stack(crops)).points * metadata.input_size - 0.5
    for run in arguments.run:
        script, _, python = run.partition("=")
        maps = folder / script / "maps.onnx"
        export_score_maps(model.path, maps)
        command = [python, str(Path(__file__).with_name(f"{script}.py")), str(maps), *files]
        output = subprocess.run(command, capture_output=True, text=True)  # noqa: PLW1510, S603
        if output.returncode:
            print(f"{script}: exit code {output.returncode}: {output.stderr[-2000:]}")
            continue
        points = np.array([json.loads(line)["points"] for line in output.stdout.splitlines()])
        print(f"{script}: {len(points)} faces, largest difference {np.abs(points - expected).max():.6f} px")
