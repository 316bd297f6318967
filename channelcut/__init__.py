"""channelcut: any CNN or detector in, a proven smaller dense network out.

groups = channelcut.analyze(model, example_inputs)
result = channelcut.prune(model, example_inputs, macs=0.5, align=8)
channelcut.save(result, "out/")
model = channelcut.load(build, "out/")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channelcut.adapters.onnx_in.api import example_inputs_from_onnx, from_onnx
    from channelcut.core.errors import BudgetError, ChannelcutError, ProofError, TraceError, UserError
    from channelcut.core.groups import Group, Groups, Pin, Slot
    from channelcut.core.plan import Plan
    from channelcut.core.proof import Proof
    from channelcut.core.pruned import Pruned
    from channelcut.couple.coupler import Coupler
    from channelcut.couple.registry import Call, rule
    from channelcut.export.metadata import metadata
    from channelcut.pipeline import analyze, load, prune, save
    from channelcut.precision.convert import PrecisionOptions, convert_precision
    from channelcut.recover.images import Preprocessing

__version__ = "0.1.0"

_HOME = {
    "channelcut.adapters.onnx_in.api": ("example_inputs_from_onnx", "from_onnx"),
    "channelcut.core.errors": ("BudgetError", "ChannelcutError", "ProofError", "TraceError", "UserError"),
    "channelcut.core.groups": ("Group", "Groups", "Pin", "Slot"),
    "channelcut.core.plan": ("Plan",),
    "channelcut.core.proof": ("Proof",),
    "channelcut.core.pruned": ("Pruned",),
    "channelcut.couple.coupler": ("Coupler",),
    "channelcut.couple.registry": ("Call", "rule"),
    "channelcut.export.metadata": ("metadata",),
    "channelcut.pipeline": ("analyze", "load", "prune", "save"),
    "channelcut.precision.convert": ("PrecisionOptions", "convert_precision"),
    "channelcut.recover.images": ("Preprocessing",),
}

__all__ = [
    "BudgetError", "Call", "ChannelcutError", "Coupler", "Group", "Groups", "Pin", "Plan", "PrecisionOptions",
    "Preprocessing", "Proof", "ProofError", "Pruned", "Slot", "TraceError", "UserError", "analyze",
    "convert_precision", "example_inputs_from_onnx", "from_onnx", "load", "metadata", "prune", "rule", "save",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import channelcut` and `--help` do not wait for torch."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'channelcut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
