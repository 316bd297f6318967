"""The artefact: `plan.json` and `model.safetensors`, enough to rebuild the cut model on its original class; no
pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.core.plan import Plan
from channelcut.core.record import OUTSIDE, put_record, record_of
from channelcut.core.tensors import weights_fingerprint
from channelcut.cutting.apply import cut

PLAN, WEIGHTS = "plan.json", "model.safetensors"


def store(model: nn.Module, plan: Plan, folder: Path) -> None:
    """Write `plan.json` and `model.safetensors` into `folder`, each atomically.

    `plan.json` holds the plan, the rounds that the module's record tells of with their proofs, and a checksum of both
    files. Weights that are not those of the last step that is known are noted in it as a change.
    """
    record = record_of(model)
    if record is not None and record.weights != weights_fingerprint(model):
        plan = replace(plan, changes=(*plan.changes, {**OUTSIDE, "round": len(record.rounds)}))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _stored(model).items()}
    weights = dump(tensors, metadata={"format": "pt", "fingerprint": plan.fingerprint})
    rounds = [] if record is None else [dict(found) for found in record.rounds]
    data = {**plan.to_dict(), "rounds": rounds, "weights_file": hashlib.sha256(weights).hexdigest()}
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / PLAN, (json.dumps({**data, "checksum": _checksum(data)}, indent=1) + "\n").encode())


def _checksum(data: Mapping[str, Any]) -> str:
    """The start of the SHA-256 of what a plan's file holds, itself aside; of its meaning, not of its layout."""
    said = {key: value for key, value in data.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def plan_fingerprint(folder: Path) -> str:
    """Return the start of the SHA-256 of a result folder's plan: what its ONNX files name it by."""
    return hashlib.sha256((Path(folder) / PLAN).read_bytes()).hexdigest()[:16]


def _stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with every shared tensor once."""
    seen: set[int] = set()
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def load_plan(folder: Path) -> Plan:
    """Read the plan in a result folder.

    Raises:
        UserError: the folder or the plan is missing or unreadable.
    """
    return _read(Path(folder))[0]


def _read(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan, and all that its file holds."""
    path = folder / PLAN
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["checksum"] != _checksum(data):
            raise ValueError("its checksum does not fit what it holds")
        return Plan.from_dict(data), data
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is no result of channelcut: it has no {PLAN}. Expected a folder written by `channelcut "
            f"compress`."
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, RecursionError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}). Write the result again with `channelcut compress "
            f"--force`."
        ) from error


def restore(build: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """Rebuild a cut model: `build()` makes the original architecture, the plan cuts it, the stored weights fill it.

    Returns the model in evaluation mode, with its record.

    Raises:
        UserError: the folder is incomplete or damaged, or `build` makes another architecture.
    """
    folder = Path(folder)
    plan, data = _read(folder)
    model = cut(build(), plan)
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
        tensors = load_tensors(content)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): it is missing, truncated or no safetensors file. Copy it again or "
            f"write the result "
            "again with `channelcut compress --force`."
        ) from error
    known = _stored(model)
    wrong = sorted(set(known) ^ set(tensors)) or [n for n, t in tensors.items() if t.shape != known[n].shape]
    if wrong:
        raise UserError(
            f"{path} does not fit its {PLAN}: {', '.join(wrong[:3])} differ. The two files come from different runs."
        )
    if hashlib.sha256(content).hexdigest() != data["weights_file"]:
        raise UserError(
            f"{path} is not the file that {PLAN} was written with: it was damaged or replaced. Copy both again, or "
            "write the result again."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            known[name].copy_(tensor)
    put_record(model, plan, tuple(data["rounds"]))
    return model.eval()
