"""From an image to landmarks: NumPy, OpenCV and ONNX Runtime, never torch."""
