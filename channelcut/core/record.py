"""The record that a cut module carries: its plan and the proofs of all rounds, as plain data.

It is an attribute of the module that holds dictionaries, lists, strings and numbers alone, so that a copy or a pickle
of the module has it too, and reading that needs no channelcut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.plan import Plan
from channelcut.core.tensors import shapes_fingerprint, weights_fingerprint

_ATTRIBUTE = "_channelcut"
_ORIGIN = "_channelcut_origin"
_OPEN = ""  # of weights that a training is about to change
OUTSIDE = {"step": "trained or changed outside of channelcut"}


@dataclass(frozen=True)
class Record:
    """Where a module comes from.

    `plan` leads from the original class to the module, over all `rounds`. A round says what was asked for (`options`)
    and holds its `proof`, None until there is one. `weights` identifies the values as of the last step that is known;
    it is empty while that step is a training, whose values nobody knows beforehand.
    """

    plan: Plan
    rounds: tuple[Mapping[str, Any], ...]
    weights: str

    @property
    def proven(self) -> bool:
        """Whether every round has been proven."""
        return all(found["proof"] is not None for found in self.rounds)

    @property
    def since(self) -> tuple[str, ...]:
        """The steps that have changed the weights since the last cut, in order."""
        return tuple(str(change["step"]) for change in self.plan.changes if change["round"] == len(self.rounds))


def record_of(model: nn.Module) -> Record | None:
    """The record of a module; None where it has none, or has got other shapes since."""
    found = vars(model).get(_ATTRIBUTE)
    if found is None or found["shapes"] != shapes_fingerprint(model):
        return None
    return Record(Plan.from_dict(found["plan"]), tuple(found["rounds"]), found["weights"])


def put_record(model: nn.Module, plan: Plan, rounds: tuple[Mapping[str, Any], ...], weights: str | None = None) -> None:
    """Write the record of a module that channelcut has made; `weights`: those that it has now, by default."""
    vars(model)[_ATTRIBUTE] = {
        "plan": plan.to_dict(),
        "rounds": [dict(found) for found in rounds],
        "shapes": shapes_fingerprint(model),
        "weights": weights_fingerprint(model) if weights is None else weights,
    }


def noticed(model: nn.Module) -> Record | None:
    """The record of a module with what somebody else has done to its weights since: they were trained, or changed."""
    record = record_of(model)
    if record is None or record.weights in (_OPEN, weights_fingerprint(model)):
        return record
    return replace(record, plan=changed(record, OUTSIDE))


def with_proof(rounds: tuple[Mapping[str, Any], ...], proof: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The same rounds, the last one proven."""
    return (*rounds[:-1], {**rounds[-1], "proof": dict(proof)})


def carried_plan(model: nn.Module) -> Plan | None:
    """The plan that a module was cut by, whatever shapes it has now."""
    found = vars(model).get(_ATTRIBUTE)
    return None if found is None else Plan.from_dict(found["plan"])


def reshaped(model: nn.Module, change: Mapping[str, Any]) -> None:
    """Note a change that has given tensors of a cut module other extents, which `change["resized"]` names."""
    vars(model)[_ATTRIBUTE]["shapes"] = shapes_fingerprint(model)
    add_change(model, change)


def put_origin(model: nn.Module, weights: str, change: Mapping[str, Any]) -> None:
    """Note in an uncut module that it was trained on the way to a cut, of a network with these weights."""
    found = {**change, "round": 0}
    vars(model)[_ORIGIN] = {"weights": weights, "change": found, "now": weights_fingerprint(model)}


def origin(model: nn.Module) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """What identifies the weights that a module comes from, its own or those before `put_origin`, and what was done."""
    now, found = weights_fingerprint(model), vars(model).get(_ORIGIN)
    return (found["weights"], (found["change"],)) if found is not None and found["now"] == now else (now, ())


def make_plain(model: nn.Module) -> None:
    """Turn the record of a module into what a file can hold that no class of channelcut is needed for."""
    vars(model)[_ATTRIBUTE] = json.loads(json.dumps(vars(model)[_ATTRIBUTE]))


def add_change(model: nn.Module, change: Mapping[str, Any], *, begins: bool = False) -> None:
    """Note in the record of a module, where it has one, what has changed its weights; `begins`: is going to."""
    record = record_of(model)
    if record is not None:
        put_record(model, changed(record, change), record.rounds, _OPEN if begins else None)


def close_change(model: nn.Module) -> None:
    """What was noted as beginning has ended: the weights that the module has now are those it came to."""
    record = record_of(model)
    if record is not None and record.weights == _OPEN:
        put_record(model, record.plan, record.rounds)


def changed(record: Record, change: Mapping[str, Any]) -> Plan:
    """The plan of a record with one more change; `round` says which cut it came after."""
    return replace(record.plan, changes=(*record.plan.changes, {**change, "round": len(record.rounds)}))


def planned_deploy(model: nn.Module) -> Deploy:
    """The deployed form that the latest cut of a module was planned for; the usual one of any other module."""
    record = record_of(model)
    return Deploy.from_dict(record.rounds[-1]["options"].get("deploy", {})) if record and record.rounds else DEFAULT
