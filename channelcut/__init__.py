"""channelcut: any CNN or detector in, a proven smaller dense network out.

groups = channelcut.analyze(model, x)
plan = channelcut.plan(model, groups, macs=0.5, align=8, exclude=["head.*"])
small = channelcut.apply(model, plan)
proof = channelcut.prove(model, small, plan, x)

result = channelcut.prune(model, x, macs=0.5, align=8, exclude=["head.*"])  # the four lines above
channelcut.save(result, "out/")
small = channelcut.load(build, "out/")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channelcut.adapters import ultralytics
    from channelcut.api import analyze, apply, plan, prove, prune
    from channelcut.bench.layers.clock import MeasureOptions
    from channelcut.core.errors import BudgetError, ChannelcutError, ProofError, RuleError, TraceError, UserError
    from channelcut.core.groups import Group, Groups, Pin, Slot
    from channelcut.core.plan import Plan
    from channelcut.core.proof import Proof
    from channelcut.core.result import PruneResult
    from channelcut.cost.measured import MeasuredCost
    from channelcut.depth.api import drop_blocks
    from channelcut.latency.api import measure
    from channelcut.latency.mixed import mixed_cost
    from channelcut.onnx_in.module import example_inputs_from_onnx, from_onnx
    from channelcut.onnx_out.metadata import onnx_metadata
    from channelcut.ops.call import Call
    from channelcut.ops.pointwise import elementwise, pointwise
    from channelcut.ops.registry import rule
    from channelcut.precision.convert import PrecisionOptions, convert_precision
    from channelcut.recovering.api import prune_in_rounds, recover, sparsify
    from channelcut.recovery.distil.options import RecoverOptions
    from channelcut.recovery.images import Preprocessing
    from channelcut.restoring import compensate
    from channelcut.results import export, load, save

__version__ = "0.1.0"

_HOME = {
    "channelcut.onnx_in.module": ("example_inputs_from_onnx", "from_onnx"),
    "channelcut.core.errors": ("BudgetError", "ChannelcutError", "ProofError", "RuleError", "TraceError", "UserError"),
    "channelcut.core.groups": ("Group", "Groups", "Pin", "Slot"),
    "channelcut.core.plan": ("Plan",),
    "channelcut.core.proof": ("Proof",),
    "channelcut.core.result": ("PruneResult",),
    "channelcut.ops.call": ("Call",),
    "channelcut.ops.pointwise": ("elementwise", "pointwise"),
    "channelcut.ops.registry": ("rule",),
    "channelcut.onnx_out.metadata": ("onnx_metadata",),
    "channelcut.api": ("analyze", "apply", "plan", "prove", "prune"),
    "channelcut.restoring": ("compensate",),
    "channelcut.results": ("export", "load", "save"),
    "channelcut.precision.convert": ("PrecisionOptions", "convert_precision"),
    "channelcut.depth.api": ("drop_blocks",),
    "channelcut.bench.layers.clock": ("MeasureOptions",),
    "channelcut.cost.measured": ("MeasuredCost",),
    "channelcut.latency.api": ("measure",),
    "channelcut.latency.mixed": ("mixed_cost",),
    "channelcut.recovering.api": ("prune_in_rounds", "recover", "sparsify"),
    "channelcut.recovery.distil.options": ("RecoverOptions",),
    "channelcut.recovery.images": ("Preprocessing",),
}

__all__ = [
    "BudgetError", "Call", "ChannelcutError", "Group", "Groups", "MeasureOptions", "MeasuredCost", "Pin", "Plan",
    "PrecisionOptions", "Preprocessing", "Proof", "ProofError", "PruneResult", "RecoverOptions", "RuleError", "Slot",
    "TraceError", "UserError", "analyze", "apply", "compensate", "convert_precision", "drop_blocks", "elementwise",
    "example_inputs_from_onnx", "export", "from_onnx", "load", "measure", "mixed_cost", "onnx_metadata", "plan",
    "pointwise", "prove", "prune", "prune_in_rounds", "recover", "rule", "save", "sparsify", "ultralytics",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import channelcut` and `--help` do not wait for torch."""
    if name == "ultralytics":
        return importlib.import_module("channelcut.adapters.ultralytics")
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'channelcut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
