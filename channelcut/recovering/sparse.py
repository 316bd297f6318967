"""Training before the cut, in which the channels that are to go shrink and the others take over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from channelcut.allocation import LIMITS, Budget
from channelcut.api import analyze, plan, prune
from channelcut.choosing import alignment
from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.inputs import check_network, check_values
from channelcut.core.progress import Stopwatch
from channelcut.core.record import add_change, noticed, origin, put_origin, put_record
from channelcut.recovering.steps import Pupil, Training, recalibrated, taught
from channelcut.recovery.distil.penalty import Penalty
from channelcut.recovery.distil.state import fill

ANALYSIS = ("tracer", "probe", "grouped", "prunable_outputs", "entries")
_PLANNING = (
    "keep", "macs", "params", "latency", "latency_ms", "cost", "exclude", "min_channels", "min_keep", "align",
    "importance", "calibration", "preprocessing", "loss", "detections", "drop_unused", "deploy",
)  # fmt: skip
_BUDGET = ("keep", *LIMITS, "min_keep", "min_channels")
PENALTY = 10.0


def sparsified(model: nn.Module, x: Any, asked: Training, penalty: float, prunes: Mapping[str, Any]) -> nn.Module:
    """A copy whose channels that a cut would remove have shrunk, see `channelcut.sparsify`; `prunes`: of that cut."""
    _check(model, asked, penalty)
    check_keywords(prunes, "sparsify")
    groups = analyze(model, x, **{name: prunes[name] for name in ANALYSIS if name in prunes})
    chosen = plan(model, groups, **{name: prunes[name] for name in _PLANNING if name in prunes})
    pupil = Pupil(private_copy(model), chosen, groups.graph, penalty=Penalty.of(model, chosen, penalty))
    with taught(model, pupil, asked, "sparsify", Stopwatch(asked.progress)) as (said, tensors, batches):
        clone, record = private_copy(model), noticed(model)
        fill(clone, tensors)
        if asked.options.batch_norm == "recalibrate":
            clone = recalibrated(clone, batches, asked.options)
    change = {"step": "sparsify", "images": said.images, "epochs": said.epochs, "steps": said.steps}
    change |= {"labels": said.labels, "penalty": penalty}
    if record is None:
        put_origin(clone, origin(model)[0], change)
    else:
        put_record(clone, record.plan, record.rounds)
        add_change(clone, change)
    return clone.eval()


def check_keywords(prunes: Mapping[str, Any], taken_by: str) -> None:
    """Refuse keywords that `prune` does not have, and a budget that makes no sense, before anything runs.

    Raises:
        UserError: says which.
    """
    known = inspect.signature(prune).parameters
    if unknown := [name for name in prunes if name not in known]:
        raise UserError(f"{unknown[0]}={prunes[unknown[0]]!r} is no keyword of {taken_by}, nor one of prune.")
    asked = {name: prunes.get(name, known[name].default) for name in (*_BUDGET, "align", "cost")}
    Budget(**{name: asked[name] for name in _BUDGET}, align=alignment(asked["align"], asked["cost"]))


def _check(model: nn.Module, asked: Training, penalty: float) -> None:
    check_network(model)
    check_values(model)
    if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not 0 < penalty <= 1e3:
        raise UserError(f"penalty={penalty!r}: expected a number above 0, and at most 1000; 10 is the default.")
    if asked.options.init != "cut" or asked.options.patience:
        raise UserError(
            "init and patience are of a recovery: before a cut a trained network goes on from its weights, through all "
            "epochs, since its outputs first go away from the original's. Leave them out of options."
        )
