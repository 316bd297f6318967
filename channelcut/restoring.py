"""The steps after a proof: what survives keeps its size, and what a proof says once weights have been restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.proof import Proof
from channelcut.core.record import Record
from channelcut.core.result import Rescaling
from channelcut.core.tensors import named_tensors
from channelcut.cutting import PlanContext
from channelcut.recovery import cut_means, rescale, rescales


def rescaled(
    smaller: nn.Module, plan: Plan, batches: Sequence[Any], choice: str, watch: Stopwatch
) -> tuple[nn.Module, Rescaling | None]:
    """The cut model with what survives in the size that it had, and what was rescaled; see `channelcut.prune`."""
    context = plan.context
    assert isinstance(context, PlanContext)
    means = cut_means(context.groups, context.kept)
    found = rescales(context.model, plan, context.groups.graph, means)
    if choice == "never" or not found or (choice == "auto" and not batches):
        return smaller, None
    with watch.stage("rescale"):
        return rescale(context.model, smaller, found, batches, always=choice == "always")


def restored(model: nn.Module, smaller: nn.Module, plan: Plan, record: Record) -> Proof:
    """The stored proof of a cut whose weights have been restored since, after a look at its shapes."""
    steps = [str(change["step"]) for change in record.plan.changes if change["round"] == len(record.rounds)]
    stored = record.rounds[-1]["proof"]
    words = f"the weights have been changed since the cut ({', '.join(steps)})"
    if stored is None:
        proof = Proof(False, float("nan"), 0.0, 0.0, (), "not run", "own")
        return replace(proof, failures=(f"{words}, and the cut was not proven before; prove what apply returned",))
    actual = named_tensors(smaller)
    wrong = [
        f"{name} has not the shape that the plan names"
        for name, tensor in named_tensors(model).items()
        if not plan.drops(name) and (name not in actual or tuple(actual[name].shape) != plan.shape(name, tensor.shape))
    ]
    note = f"{words}: its shapes were checked, all else is the stored proof of the unrestored cut"
    return replace(Proof.from_dict(stored), passed=not wrong, failures=tuple(wrong[:5]), note=note)
