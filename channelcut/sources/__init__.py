"""Where models come from: other libraries, files of the user's, and saved results."""

from channelcut.onnx_in import example_inputs_from_onnx, module_from_onnx
from channelcut.sources.names import open_source
from channelcut.sources.source import Source, example_inputs, specs_of

__all__ = ["Source", "example_inputs", "example_inputs_from_onnx", "module_from_onnx", "open_source", "specs_of"]
