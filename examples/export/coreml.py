"""Convert a model to CoreML, and on a Mac print landmarks of face crops.

    pip install coremltools "torch==2.7.0" onnx2torch pillow
    pipnet export pipnet-68 --format scores -o maps.onnx
    python examples/export/coreml.py maps.onnx CROP.png ...

writes maps.mlpackage. The crops are those of examples/onnx_alone.py. Without crops the model is only
converted, which works on Linux too.
"""

import sys

import coremltools
import onnx
import onnx2torch
import torch
from decode import run


def convert(model):
    """Write NAME.mlpackage beside the model and load it; see `decode.run`."""
    graph = onnx.load(model).graph
    shape = [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim]
    network = torch.jit.trace(onnx2torch.convert(model).eval(), torch.zeros(shape))
    converted = coremltools.convert(
        network,
        inputs=[coremltools.TensorType("image", shape)],
        outputs=[coremltools.TensorType(output.name) for output in graph.output],
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS16,
    )
    converted.save(str(model.with_suffix(".mlpackage")))
    print(f"{model.with_suffix('.mlpackage')}: written", file=sys.stderr)
    return lambda image: converted.predict({"image": image})


run(convert)
