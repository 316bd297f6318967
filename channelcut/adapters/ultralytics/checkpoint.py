"""`pruned.pt`: a cut network in the form that Ultralytics loads, where channelcut is not installed too."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from channelcut.adapters.ultralytics.data import task_of
from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.core.inputs import check_path
from channelcut.core.plan import Plan
from channelcut.core.record import carried_plan, make_plain, put_record, record_of
from channelcut.core.result import PruneResult
from channelcut.core.tensors import named_tensors

GUARD = (
    "this network was cut by channelcut, and this trainer would rebuild the uncut one. Train it with: "
    "from channelcut.adapters.ultralytics import YOLO; YOLO('FILE.pt').train(data=..., epochs=...)"
)
_LICENSE, _DOCS = "AGPL-3.0 (https://ultralytics.com/license)", "https://docs.ultralytics.com"


def save_checkpoint(
    result: PruneResult | nn.Module, path: str | Path, *, half: bool = False, allow_unproven: bool = False
) -> None:
    """Write a cut network as a checkpoint that `ultralytics.YOLO` loads, predicts, validates and exports with.

    channelcut need not be installed there: the classes are Ultralytics' own, and the plan is plain data on the module.
    Ultralytics' own trainers would build the uncut network again and drop the weights that do not fit; from this file
    they stop instead, with the line that trains it.

    Args:
        result: what `prune` returned, or a module that `apply`, `prune`, `load` or a training made.
        path: the file to write, such as `pruned.pt`.
        half: write the weights as float16, half the size, as Ultralytics does. By default they stay as they are.
        allow_unproven: also write a cut that has not been proven.

    Raises:
        UserError: this is no cut of a network of Ultralytics, it has been fused, its cut has not been proven, or the
            file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> import channelcut as cc
        >>> from ultralytics import YOLO
        >>> result = cc.prune(YOLO("yolov8n.yaml").model, torch.rand(1, 3, 64, 64), keep=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cc.ultralytics.save_checkpoint(result, Path(folder) / "pruned.pt")
        ...     model = YOLO(Path(folder) / "pruned.pt")
        >>> sum(p.numel() for p in model.model.parameters()) == result.plan.after.params
        True
    """
    check_path(path, "path")
    if Path(path).suffix != ".pt":
        raise UserError(f"{path} is no name of a checkpoint. Expected one that ends in .pt.")
    model = result.model if isinstance(result, PruneResult) else result
    check_cut(model, allow_unproven)
    plan = result.plan if isinstance(result, PruneResult) else None
    write_atomically(Path(path), checkpoint(model, plan, half=half))


def checkpoint(model: nn.Module, plan: Plan | None = None, *, half: bool = False) -> bytes:
    """The file of a cut network; `plan`: in the place of the one that the network carries."""
    from ultralytics import __version__

    smaller: Any = private_copy(model).cpu()
    record = record_of(smaller)
    assert record is not None
    put_record(smaller, record.plan if plan is None else _later(plan, record.plan), record.rounds, record.weights)
    plain(smaller)
    smaller.args = train_args(model)
    guard(smaller)
    data = {
        "epoch": -1, "best_fitness": None, "model": smaller.half() if half else smaller, "ema": None, "updates": None,
        "optimizer": None, "train_args": smaller.args, "train_metrics": None, "train_results": None,
        "date": datetime.now().astimezone().isoformat(), "version": __version__, "license": _LICENSE, "docs": _DOCS,
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def check_cut(model: Any, allow_unproven: bool = False) -> None:
    """Refuse what no checkpoint of a cut network can be made of.

    Raises:
        UserError: see `save_checkpoint`.
    """
    from ultralytics.nn.tasks import BaseModel

    if not isinstance(model, BaseModel):
        raise UserError(
            f"This {type(model).__name__} is no network of Ultralytics. Expected what channelcut.prune made of "
            "YOLO('yolo26n.pt').model; channelcut.save writes any other."
        )
    record = record_of(model)
    if record is None:
        fused = carried_plan(model) is not None and model.is_fused()
        raise UserError(
            f"This {type(model).__name__} "
            + ("has been fused since it was cut" if fused else "is no cut of channelcut, or has got other shapes since")
            + ". Expected what channelcut.prune, apply or load returned, with the layers that it had then, so that it "
            "can be trained."
        )
    if not record.proven and not allow_unproven:
        raise UserError(
            "This cut has not been proven: nothing shows that it computes what the original computes without these "
            "channels. Run channelcut.prove(model, small, plan, x) on it first, or pass allow_unproven=True."
        )


def guard(model: Any) -> None:
    """Let a rebuilding of the uncut network from the YAML of a cut one fail with what to do instead.

    Ultralytics looks up the module of every line by its name; the first one becomes a text that is no module's name.
    """
    if not guarded(model.yaml):
        first, *others = model.yaml["backbone"]
        line = [*first[:2], GUARD, *first[3:]]
        model.yaml = {**model.yaml, "backbone": [line, *others], "channelcut": first[2]}


def guarded(yaml: Any) -> bool:
    """Whether a YAML is that of a cut network."""
    return isinstance(yaml, Mapping) and "channelcut" in yaml


def unguarded(yaml: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML of the uncut network."""
    found = dict(yaml)
    if guarded(found):
        first, *others = found["backbone"]
        found["backbone"] = [[*first[:2], found.pop("channelcut"), *first[3:]], *others]
    return found


def plain(model: nn.Module) -> None:
    """Leave nothing on a network but what is trained and what describes it, as plain data."""
    for name in ("criterion", "teacher_model"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
    make_plain(model)
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()


def train_args(model: nn.Module) -> dict[str, Any]:
    """The arguments of the training that made a network, as plain data."""
    found = getattr(model, "args", None) or {}
    found = dict(found) if isinstance(found, Mapping) else vars(found)
    simple = (bool, int, float, str, list, tuple, dict, type(None))
    return {
        "task": task_of(model),
        **{key: value for key, value in found.items() if isinstance(value, simple)},
    }


def check_shapes(model: nn.Module, where: str) -> None:
    """Hold the shapes of a network against its plan.

    Raises:
        UserError: a layer has other extents; the text names it.
    """
    plan, tensors = carried_plan(model), named_tensors(model)
    if plan is None:
        raise UserError(
            f"{where}: the network carries no plan any more, so it is not the one that was cut. Train it with "
            "channelcut.adapters.ultralytics, and do not copy attributes over it in a callback."
        )
    for name in [*plan.kept, *plan.resized]:
        found = tuple(tensors[name].shape) if name in tensors else None
        if not plan.drops(name) and (found is None or found != plan.shape(name, found)):
            raise UserError(
                f"{where}: {name} has the shape {found}, and the plan keeps {plan.shape(name, found or ())}. Something "
                "has rebuilt or changed this layer; expected the network as it was cut."
            )
    if record_of(model) is None:
        raise UserError(
            f"{where}: the names or shapes of its tensors are others than those of the network that was cut (fused, "
            "say). Expected the network as it was cut."
        )


def _later(chosen: Plan, recorded: Plan) -> Plan:
    """A result's plan, with the changes that its module's record knows besides."""
    return chosen if len(chosen.changes) >= len(recorded.changes) else replace(chosen, changes=recorded.changes)
