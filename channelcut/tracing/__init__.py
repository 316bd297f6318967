"""Front ends: an `nn.Module` and example inputs in, a `Graph` out. The user's model is never run on itself, only
copies.
"""

from channelcut.tracing.forward import result_of, trace, trace_modes

__all__ = ["result_of", "trace", "trace_modes"]
