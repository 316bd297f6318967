"""Lower precision written into the ONNX, with what stays in float32 chosen by measured output error."""
