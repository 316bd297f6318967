"""ONNX out of a module, simplified, and checked against that module."""
