"""From an image to landmarks: NumPy, Pillow and ONNX Runtime, never torch or OpenCV."""
