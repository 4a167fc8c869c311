"""Models as ONNX graphs: export and runtime."""
