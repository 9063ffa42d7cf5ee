"""From a picture to landmarks: NumPy, OpenCV and ONNX Runtime, never torch."""
