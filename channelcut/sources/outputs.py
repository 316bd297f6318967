"""Outputs whose channels nobody counts, by library."""

from __future__ import annotations

from torch import nn

# The feature maps that Ultralytics' heads return beside their predictions are read for their resolution alone.
_UNCOUNTED = {"ultralytics": ("feats.*", "*.feats.*")}


def uncounted_outputs(model: nn.Module) -> tuple[str, ...]:
    """Patterns of the outputs of `model` that may lose channels, known from the library that its class comes from."""
    return _UNCOUNTED.get(type(model).__module__.partition(".")[0], ())
