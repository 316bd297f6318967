"""The artefact: `plan.json` and `model.safetensors`, enough to rebuild the cut model on its original class; no
pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump
from torch import nn

from channelcut.core.checked import Wrong, expect, field, items, read_json, write_json
from channelcut.core.errors import UserError
from channelcut.core.files import put, temporary_folder, write_atomically
from channelcut.core.plan import Plan
from channelcut.core.proof import Proof
from channelcut.core.record import noticed, put_record, record_of
from channelcut.cutting.apply import cut, resize

PLAN, WEIGHTS = "plan.json", "model.safetensors"
_AGAIN = "Write the result again with `channelcut compress --force`"


def store(model: nn.Module, plan: Plan, folder: Path) -> None:
    """Write `plan.json` and `model.safetensors` into `folder`, each atomically.

    `plan.json` holds the plan, the rounds that the module's record tells of with their proofs, and a checksum of both
    files. Weights that are not those of the last step that is known are noted in it as a change.
    """
    record = record_of(model)
    seen = noticed(model)
    if record is not None and seen is not None and len(seen.plan.changes) > len(record.plan.changes):
        plan = replace(plan, changes=(*plan.changes, seen.plan.changes[-1]))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _stored(model).items()}
    weights = dump(tensors, metadata={"format": "pt", "fingerprint": plan.fingerprint})
    rounds = [] if record is None else [dict(found) for found in record.rounds]
    write_atomically(folder / WEIGHTS, weights)
    digest = hashlib.sha256(weights).hexdigest()
    write_json(folder / PLAN, {**plan.to_dict(), "rounds": rounds, "weights_file": digest})


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


def check_fresh(out: Path, *, force: bool) -> None:
    """Refuse an output folder that is there and may not be replaced.

    Raises:
        UserError: it exists and `force` is not set, or it is no result of channelcut.
    """
    if out.exists() and not force:
        raise UserError(
            f"The output folder {out} exists. Nothing was changed: give another --out, or --force to replace it when "
            f"the new result is complete."
        )
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / PLAN).is_file())):
        raise UserError(f"{out} is no result of channelcut, so --force does not replace it. Give another --out.")


@contextmanager
def fresh_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """A temporary neighbour of `out` that takes its place when the block succeeds and vanishes when it does not.

    Those that killed runs have left are removed.
    """
    out = Path(out)
    check_fresh(out, force=force)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(out))
        except OSError as error:
            raise UserError(
                f"The folder {out.parent} cannot be written to ({error.strerror}). Choose another --out."
            ) from error
        try:
            yield folder
            put(folder, out)
        except OSError as error:
            raise UserError(
                f"The result could not be written to {out.parent} ({error.strerror or error}). Nothing half-written "
                "was left behind. Free some space or choose another --out folder, and run again."
            ) from error


def load_plan(folder: Path) -> Plan:
    """Read the plan in a result folder.

    Raises:
        UserError: the folder or the plan is missing or unreadable.
    """
    return _read(Path(folder))[0]


def _read(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan, and all that its file holds."""
    path = folder / PLAN
    missing = (
        f"{folder} is no result of channelcut: it has no {PLAN}. Expected a folder written by `channelcut compress`."
    )
    data = read_json(path, missing, f"{_AGAIN}.")
    try:
        field(data, "weights_file", str, "a checksum")
        for found, place in items(data.get("rounds"), "rounds"):
            field(expect(found, Mapping, place, "an object"), "options", Mapping, "an object", place)
            if field(found, "proof", (Mapping, type(None)), "a proof or null", place) is not None:
                Proof.from_dict(found["proof"])
        return Plan.from_dict(data), data
    except (Wrong, UserError) as wrong:
        raise UserError(f"{path} is damaged ({wrong}). {_AGAIN}.") from wrong


def restore(build: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """Rebuild a cut model: `build()` makes the original architecture, the plan cuts it, the stored weights fill it.

    Returns the model in evaluation mode, with its record.

    Raises:
        UserError: the folder is incomplete or damaged, or `build` makes another architecture.
    """
    folder = Path(folder)
    plan, data = _read(folder)
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Copy it again, or {_AGAIN.lower()}.") from error
    if hashlib.sha256(content).hexdigest() != data["weights_file"]:
        raise UserError(
            f"{path} is not the file that {PLAN} was written with: it was damaged, cut short or replaced. Copy both "
            f"again, or {_AGAIN.lower()}."
        )
    model = cut(build(), plan)
    resize(model, plan)
    tensors, known = load_tensors(content), _stored(model)
    wrong = sorted(set(known) ^ set(tensors)) or [n for n, t in tensors.items() if t.shape != known[n].shape]
    if wrong:
        raise UserError(
            f"{path} does not fit the model that was built: {', '.join(wrong[:3])} differ. Build the class that was "
            "pruned, with the same arguments."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            known[name].copy_(tensor)
    put_record(model, plan, tuple(data["rounds"]))
    return model.eval()
