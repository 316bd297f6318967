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
    from channelcut.api import analyze, load, prune, save
    from channelcut.core.errors import BudgetError, ChannelcutError, ProofError, RuleError, TraceError, UserError
    from channelcut.core.groups import Group, Groups, Pin, Slot
    from channelcut.core.plan import Plan
    from channelcut.core.proof import Proof
    from channelcut.core.result import Pruned
    from channelcut.onnx_in.module import example_inputs_from_onnx, from_onnx
    from channelcut.onnx_out.metadata import metadata
    from channelcut.ops.call import Call
    from channelcut.ops.pointwise import elementwise, pointwise
    from channelcut.ops.registry import rule
    from channelcut.precision.convert import PrecisionOptions, convert_precision
    from channelcut.recovery.images import Preprocessing

__version__ = "0.1.0"

_HOME = {
    "channelcut.onnx_in.module": ("example_inputs_from_onnx", "from_onnx"),
    "channelcut.core.errors": ("BudgetError", "ChannelcutError", "ProofError", "RuleError", "TraceError", "UserError"),
    "channelcut.core.groups": ("Group", "Groups", "Pin", "Slot"),
    "channelcut.core.plan": ("Plan",),
    "channelcut.core.proof": ("Proof",),
    "channelcut.core.result": ("Pruned",),
    "channelcut.ops.call": ("Call",),
    "channelcut.ops.pointwise": ("elementwise", "pointwise"),
    "channelcut.ops.registry": ("rule",),
    "channelcut.onnx_out.metadata": ("metadata",),
    "channelcut.api": ("analyze", "load", "prune", "save"),
    "channelcut.precision.convert": ("PrecisionOptions", "convert_precision"),
    "channelcut.recovery.images": ("Preprocessing",),
}

__all__ = [
    "BudgetError", "Call", "ChannelcutError", "Group", "Groups", "Pin", "Plan", "PrecisionOptions", "Preprocessing",
    "Proof", "ProofError", "Pruned", "RuleError", "Slot", "TraceError", "UserError", "analyze", "convert_precision",
    "elementwise", "example_inputs_from_onnx", "from_onnx", "load", "metadata", "pointwise", "prune", "rule",
    "save",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import channelcut` and `--help` do not wait for torch."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'channelcut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
