"""The ONNX front end: a file in, a trainable `torch.fx.GraphModule` with real layers out."""

from channelcut.onnx_in.module import example_inputs_from_onnx, module_from_onnx

__all__ = ["example_inputs_from_onnx", "module_from_onnx"]
