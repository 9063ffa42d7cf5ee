"""Convert a model to LiteRT (TensorFlow Lite) by litert-torch, and print landmarks of face crops.

    pip install litert-torch onnx2torch pillow
    pipnet export pipnet-68 --format scores -o maps.onnx
    python examples/export/litert.py maps.onnx CROP.png ...

writes maps.tflite. Its outputs have the order of the .onnx file. The crops are those of
examples/onnx_alone.py.
"""

import litert_torch
import onnx
import onnx2torch
import torch
from ai_edge_litert.interpreter import Interpreter
from decode import run


def convert(model):
    """Write NAME.tflite beside the model and load it; see `decode.run`."""
    graph = onnx.load(model)
    shape = [side.dim_value for side in graph.graph.input[0].type.tensor_type.shape.dim]
    network = onnx2torch.convert(graph).eval()
    target = model.with_suffix(".tflite")
    litert_torch.convert(network, (torch.zeros(shape),)).export(str(target))
    interpreter = Interpreter(str(target))
    run_once = interpreter.get_signature_runner()
    (name,) = run_once.get_input_details()

    def infer(image):
        outputs = run_once(**{name: image})
        return {output.name: outputs[f"output_{i}"] for i, output in enumerate(graph.graph.output)}

    return infer


run(convert)
