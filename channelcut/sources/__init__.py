"""Where models come from: other libraries, files of the user's, and saved results."""

from channelcut.onnx_in import example_inputs_from_onnx, module_from_onnx
from channelcut.sources.names import Source, example_input, open_source

__all__ = ["Source", "example_input", "example_inputs_from_onnx", "module_from_onnx", "open_source"]
