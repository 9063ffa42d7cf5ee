"""Landmarks of face crops with OpenCV's DNN module.

    pip install opencv-python-headless pillow
    pipnet export pipnet-68 --format scores -o maps.onnx
    python examples/export/opencv_dnn.py maps.onnx CROP.png ...

The crops are those of examples/onnx_alone.py.
"""

import cv2
from decode import run


def convert(model):
    """Load the model; see `decode.run`."""
    network = cv2.dnn.readNetFromONNX(str(model))
    names = network.getUnconnectedOutLayersNames()

    def infer(image):
        network.setInput(image, "image")
        return dict(zip(names, network.forward(names), strict=True))

    return infer


run(convert)
