"""The artefact: `plan.json` and `model.safetensors`, enough to rebuild the cut model on its original class; no
pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as dump
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.core.plan import Plan
from channelcut.cutting.apply import cut

PLAN, WEIGHTS = "plan.json", "model.safetensors"


def store(model: nn.Module, plan: Plan, folder: Path) -> None:
    """Write `plan.json` and `model.safetensors` into `folder`, each atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _stored(model).items()}
    write_atomically(folder / WEIGHTS, dump(tensors, metadata={"format": "pt", "fingerprint": plan.fingerprint}))
    write_atomically(folder / PLAN, json.dumps(plan.to_dict(), indent=1).encode())


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
    """Read `plan.json` from a result folder.

    Raises:
        UserError: the folder or the plan is missing or unreadable.
    """
    path = Path(folder) / PLAN
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is no result of channelcut: it has no {PLAN}. Expected a folder written by `channelcut "
            f"compress`."
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}). Write the result again with `channelcut compress "
            f"--force`."
        ) from error


def restore(build: Callable[[], nn.Module], folder: Path) -> nn.Module:
    """Rebuild a cut model: `build()` makes the original architecture, the plan cuts it, the stored weights fill it.

    Returns the model in evaluation mode.

    Raises:
        UserError: the folder is incomplete or damaged, or `build` makes another architecture.
    """
    folder = Path(folder)
    model = cut(build(), load_plan(folder))
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
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
    with torch.no_grad():
        for name, tensor in tensors.items():
            known[name].copy_(tensor)
    return model.eval()
