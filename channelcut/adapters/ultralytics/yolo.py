"""`YOLO` and `RTDETR`: Ultralytics' own, with trainers that keep a cut network."""

from __future__ import annotations

import errno
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ultralytics
from torch import nn
from ultralytics.engine.model import Model
from ultralytics.nn.tasks import load_checkpoint

from channelcut.adapters.ultralytics.checkpoint import check_shapes, save_checkpoint
from channelcut.adapters.ultralytics.trainers import TRAINERS, KeepsTheCut, RTDETRTrainer, network_of, refused
from channelcut.core.errors import UserError
from channelcut.core.plan import Plan
from channelcut.core.record import carried_plan, close_change
from channelcut.core.result import PruneResult

_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EEXIST, errno.EDQUOT)


class KeepsCutNetworks:
    """What `YOLO` and `RTDETR` do otherwise than Ultralytics' own, once their network is a cut one."""

    model: Any
    overrides: dict[str, Any]

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Train, see `ultralytics.YOLO.train`; a cut network keeps its shapes and its plan.

        Raises:
            UserError: the trainer would rebuild the network, a checkpoint to resume has another plan, weights of
                another network are asked for, or the runs' folder cannot be written to.
        """
        resume, plan = kwargs.get("resume"), plan_of(self.model)
        if isinstance(resume, (str, Path)) and Path(resume).is_file():
            _check_resumed(self.model, plan, Path(resume))
        if plan is None:
            return super().train(trainer, **kwargs)  # type: ignore[misc]
        trainer = trainer or self._smart_load("trainer")  # type: ignore[attr-defined]
        if not (isinstance(trainer, type) and issubclass(trainer, KeepsTheCut)):
            name = getattr(trainer, "__name__", trainer)
            raise UserError(
                f"The trainer {name} would build the uncut network again. Expected one that keeps the cut: "
                f"class Mine(channelcut.adapters.ultralytics.trainers.KeepsTheCut, {name}), in a module that can be "
                "imported."
            )
        before = self.model
        trainable = {name for name, tensor in before.named_parameters() if tensor.requires_grad}
        with explained_writes():
            metrics = super().train(trainer, **kwargs)  # type: ignore[misc]
        network = network_of(self.model)
        if network is not before:
            check_shapes(network, "After the training")
            close_change(network)
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(not trainable or name in trainable)
        return metrics

    def load(self, weights: Any = "yolo26n.pt") -> Any:
        """Load weights, see `ultralytics.YOLO.load`.

        Raises:
            UserError: the network or the weights are those of a cut network, and the other is not the same cut.
        """
        found = weights
        if isinstance(weights, (str, Path)):
            found = load_checkpoint(weights)[0]
        elif isinstance(weights, dict):
            found = weights.get("ema") or weights.get("model")
        if not same_cut(plan_of(self.model), plan_of(found)):
            raise refused("load", str(weights) if isinstance(weights, (str, Path)) else "pruned.pt")
        return super().load(weights)  # type: ignore[misc]

    def tune(self, *args: Any, **kwargs: Any) -> Any:
        """Search for arguments of the training, see `ultralytics.YOLO.tune`.

        Raises:
            UserError: the network is a cut one: the search trains in processes of its own, which rebuild the uncut one.
        """
        if plan_of(self.model) is not None:
            raise UserError(
                "tune trains in processes of its own, with trainers that build the uncut network again. Tune the "
                "uncut network and train the cut one with what is found: YOLO(...).train(cfg='best_hyperparameters"
                ".yaml'); or call train in a loop."
            )
        return super().tune(*args, **kwargs)  # type: ignore[misc]


class YOLO(KeepsCutNetworks, ultralytics.YOLO):  # type: ignore[misc]
    """Ultralytics' `YOLO`, with trainers that keep a cut network; whatever it does not know of, theirs does.

    Args:
        model: as there: a `.pt`, a `.yaml`, an exported file; also what `channelcut.prune` returned, or a cut module.
        task: as there.
        verbose: as there.

    Raises:
        UserError: the network is no cut of channelcut, or does not have the shapes of its plan.

    Example:
        >>> import torch
        >>> import channelcut as cc
        >>> from channelcut.adapters.ultralytics import YOLO
        >>> result = cc.prune(YOLO("yolov8n.yaml").model, torch.rand(1, 3, 64, 64), keep=0.5)
        >>> model = YOLO(result)
        >>> sum(p.numel() for p in model.model.parameters()) == result.plan.after.params
        True
    """

    def __init__(
        self,
        model: str | Path | Model | PruneResult | nn.Module = "yolo26n.pt",
        task: str | None = None,
        verbose: bool = False,
    ) -> None:
        made = isinstance(model, PruneResult) or (isinstance(model, nn.Module) and not isinstance(model, Model))
        path: Any = _temporary(model) if made else model
        super().__init__(path, task=task, verbose=verbose)
        if isinstance(self, ultralytics.RTDETR):
            self.__class__ = RTDETR
        if made:
            weakref.finalize(self, shutil.rmtree, Path(path).parent, ignore_errors=True)
            self.model.pt_path = "pruned.pt"  # what it exports stands in the working directory
        if isinstance(self.model, nn.Module) and plan_of(self.model) is not None:
            check_shapes(network_of(self.model), str(path))
            close_change(network_of(self.model))
            if not isinstance(self, KeepsCutNetworks):
                raise UserError(
                    f"{type(self.model).__name__} reads its classes from texts, and channelcut neither trains nor "
                    "evaluates a cut one. Use ultralytics.YOLO to predict with it."
                )

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """What each task is done with, see `ultralytics.YOLO.task_map`."""
        found: dict[str, dict[str, Any]] = super().task_map
        return {task: {**entry, "trainer": TRAINERS.get(task, entry["trainer"])} for task, entry in found.items()}


class RTDETR(KeepsCutNetworks, ultralytics.RTDETR):  # type: ignore[misc]
    """Ultralytics' `RTDETR`, with a trainer that keeps a cut network. `YOLO` becomes one where it loads RT-DETR."""

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """What each task is done with, see `ultralytics.RTDETR.task_map`."""
        return {task: {**entry, "trainer": RTDETRTrainer} for task, entry in super().task_map.items()}


def plan_of(model: Any) -> Plan | None:
    """The plan of the network in a model of Ultralytics; None where it is not a cut one, or a file of another kind."""
    network = network_of(model) if isinstance(model, nn.Module) else None
    return None if network is None else carried_plan(network)


def same_cut(one: Plan | None, other: Plan | None) -> bool:
    """Whether two plans give the same network, however it was trained since; without a plan: both are uncut."""
    if one is None or other is None:
        return one is other
    return (one.fingerprint, one.kept, one.indices, one.dropped, one.resized) == (
        other.fingerprint, other.kept, other.indices, other.dropped, other.resized,
    )  # fmt: skip


@contextmanager
def explained_writes() -> Iterator[None]:
    """Say in a paragraph that a run's folder cannot be written to.

    Raises:
        UserError: it cannot.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise UserError(
            f"The training cannot write to {error.filename or 'its folder'} ({error.strerror}). Expected a folder for "
            "runs that you may write to and that has space: name one with project='/path/of/yours'."
        ) from error


def _check_resumed(model: Any, plan: Plan | None, path: Path) -> None:
    """Refuse to go on with a training of another cut than the network at hand.

    Raises:
        UserError: its plan is another.
    """
    other = plan_of(load_checkpoint(path)[0])
    if same_cut(plan, other) or (plan and other and other.resized and same_cut(plan, _before_training(other))):
        return
    what = "is of an uncut network" if other is None else "was cut by another plan"
    this = "this one is not cut" if plan is None else f"this {type(model).__name__} is another cut"
    raise UserError(
        f"resume={str(path)!r} {what}, and {this}: one training cannot go on in the network of another. Open the "
        f"checkpoint itself: channelcut.adapters.ultralytics.YOLO({str(path)!r}).train(resume=True)."
    )


def _before_training(plan: Plan) -> Plan:
    """A plan without what a training on other classes has done to the head."""
    return replace(plan, changes=tuple(change for change in plan.changes if "resized" not in change))


def _temporary(model: Any) -> Path:
    """A checkpoint of what was handed in, for Ultralytics to load, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="channelcut-"))
    try:
        save_checkpoint(model, folder / "pruned.pt", allow_unproven=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / "pruned.pt"
