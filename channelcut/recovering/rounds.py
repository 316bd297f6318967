"""Iterated pruning: several rounds of score, cut, restore and a short recovery, each closer to the budget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from channelcut.api import analyze, plan, prune
from channelcut.core.deployed import DEFAULT as WHOLE
from channelcut.core.described import described
from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.core.inputs import split_inputs
from channelcut.core.progress import Stopwatch
from channelcut.core.result import PruneResult
from channelcut.core.tensors import weights_fingerprint
from channelcut.cutting import compose, store
from channelcut.labelled import rereadable, targets_of
from channelcut.recovering.folder import result_in
from channelcut.recovering.sparse import ANALYSIS, PENALTY, check_keywords, sparsified
from channelcut.recovering.steps import Training, checkpoint_folder, recovered
from channelcut.recovery.distil import RecoverOptions

if TYPE_CHECKING:
    from channelcut.begun import Begun

_COSTS = ("macs", "params")
_NOT_TOLD = ("cost", "calibration")  # of what a cut was asked for: measured and read anew in every run


def in_rounds(
    model: nn.Module, x: Any, rounds: int, asked: Training, prunes: Mapping[str, Any], start: nn.Module | None = None
) -> PruneResult:
    """Cut and recover several times, see `channelcut.prune_in_rounds`.

    Args:
        model: the original, which teaches.
        x: an example input.
        rounds: how many.
        asked: of each recovery.
        prunes: the keywords of `prune`.
        start: what the first round cuts; by default the original.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise UserError(f"rounds={rounds!r}: expected a whole number from 1 on.")
    check_keywords(prunes, "prune_in_rounds")
    if rounds > 1 and (prunes.get("latency") or prunes.get("latency_ms")):
        raise UserError(
            f"rounds={rounds} with a budget of time: times were measured of the uncut network, and each round cuts "
            "another. Expected one round, or macs, params or keep."
        )
    if rounds > 1 and prunes.get("blocks") is not None:
        raise UserError(
            f"rounds={rounds} with blocks: each round would leave out more of them. Expected one round; or leave them "
            "out first, with cc.drop_blocks, and prune what is left in rounds."
        )
    if isinstance(asked.data, Iterator):
        asked = replace(asked, data=list(asked.data))  # every round goes through all of it
    prunes = {**prunes, "progress": asked.progress}
    prunes["calibration"] = rereadable(prunes.get("calibration"), twice=rounds > 1)
    if rounds > 1 and prunes.get("passes") is None:
        prunes["passes"] = 1  # each round is one
    share = _share(model, x, prunes)
    network, found, step, groups = start or model, None, None, None
    for number in range(1, rounds + 1):
        cut = prune(network, x, **{**prunes, **_budget(prunes, rounds, number, share, found)})
        step = cut.step if step is None else compose(step, cut.step)
        groups = groups or cut.groups
        out = None if asked.out is None else Path(asked.out) / f"round{number}"
        found = recovered(model, replace(cut, step=step), replace(asked, out=out))
        network = found.model
    assert found is not None
    assert groups is not None
    return replace(found, groups=groups)


def _share(model: nn.Module, x: Any, asked: Mapping[str, Any]) -> float:
    """Which share of the cost `macs` or `params` leaves in the end; 1 where neither is given."""
    kind = next((kind for kind in _COSTS if asked.get(kind) is not None), None)
    if kind is None:
        return 1.0
    if asked[kind] <= 1:
        return float(asked[kind])
    groups = analyze(model, x, **{name: asked[name] for name in ANALYSIS if name in asked})
    cost = plan(model, groups, deploy=asked.get("deploy", WHOLE), **{kind: asked[kind]}).before
    return float(asked[kind]) / float(getattr(cost, kind))


def _budget(
    asked: Mapping[str, Any], rounds: int, number: int, share: float, before: PruneResult | None
) -> dict[str, Any]:
    """The keywords of `prune` that say how much stays in a round, relative to what the round before has left."""
    found: dict[str, Any] = {"min_keep": asked.get("min_keep", 0.1) ** (1 / rounds)}
    kept = asked.get("keep")
    if isinstance(kept, Mapping):
        found["keep"] = {pattern: value ** (1 / rounds) for pattern, value in kept.items()}
    elif kept is not None:
        found["keep"] = kept ** (1 / rounds)
    for kind in _COSTS:
        if asked.get(kind) is not None:
            left = 1.0
            if before is not None:
                left = getattr(before.step.after, kind) / getattr(before.step.before, kind)
            found[kind] = min(1.0, share ** (number / rounds) / left)
    return found


def pruned(begun: Begun, out: Path, watch: Stopwatch) -> PruneResult:
    """What `compress` cuts and recovers: at once or in rounds, by its data or by the functions of a user's file."""
    options, prunes = begun.options, _prunes(begun)
    if not options.recover:
        return prune(begun.start, begun.example, **prunes, progress=watch.progress)
    how = options.recovery.prepared(options.prune.preprocessing)
    asked = _training(begun, options.recover, checkpoint_folder(out), how, watch)
    if options.prune.timed and options.rounds == 1:
        cut = _cut_once(begun, prunes, checkpoint_folder(out) / "cut", watch)
        return recovered(begun.model, cut, replace(asked, out=checkpoint_folder(out) / "round1"))
    return in_rounds(begun.model, begun.example, options.rounds, asked, prunes, begun.start)


def _cut_once(begun: Begun, prunes: Mapping[str, Any], folder: Path, watch: Stopwatch) -> PruneResult:
    """The cut within a budget of time, kept in a folder: another measurement would lead to another plan.

    A recovery that was killed would then not be that of the cut.
    """
    said = described(begun.options.prune, _NOT_TOLD) | {"data": described(begun.given)}
    said |= {"weights": weights_fingerprint(begun.model), "time_on": begun.options.time_on}
    asked, text = folder / "asked.json", json.dumps(said, sort_keys=True)
    if asked.is_file() and asked.read_text(encoding="utf-8") == text:
        return result_in(folder, begun.model, begun.example)
    cut = prune(begun.start, begun.example, **prunes, progress=watch.progress)
    folder.mkdir(parents=True, exist_ok=True)
    asked.unlink(missing_ok=True)
    store(cut.model, cut.plan, folder)
    write_atomically(asked, text.encode())  # last: what it stands beside is whole
    return cut


def prepared_for_cut(begun: Begun, out: Path, watch: Stopwatch) -> nn.Module:
    """What `compress` cuts: the original, or where that is asked for a copy whose channels to go have shrunk."""
    options = begun.options
    if not options.sparsify:
        return begun.model
    how, folder = options.recovery.prepared(options.prune.preprocessing), checkpoint_folder(out) / "sparsify"
    how = replace(how, init="cut", rewind=None, patience=0)
    asked = _training(begun, options.sparsify, folder, how, watch)
    return sparsified(begun.model, begun.example, asked, PENALTY, _prunes(begun))


def _training(begun: Begun, epochs: int, folder: Path, how: RecoverOptions, watch: Stopwatch) -> Training:
    """A training by what `compress` was given, with its checkpoint in a folder."""
    detections = begun.options.prune.detections
    return Training(begun.given, epochs, None, folder, how, watch.progress, begun.owner, detections=detections)


def _prunes(begun: Begun) -> dict[str, Any]:
    """The keywords of `prune`, with the labels to rank by where they are asked for."""
    found, prune = dict(vars(begun.options.prune)), begun.options.prune
    if prune.loss is not None:  # what was given has its labels, which the images that were read of it have not
        example, how = split_inputs(begun.example), prune.preprocessing
        found["loss"] = targets_of(begun.model, begun.given, prune.loss, example, how, begun.owner)
    return found
