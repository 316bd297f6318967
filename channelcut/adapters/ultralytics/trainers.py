"""Ultralytics' trainers that train the cut network they are given, where theirs build the one of its YAML.

They are classes of this module, by their names, so that the worker processes of a training on several GPUs find them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from ultralytics import __version__
from ultralytics.models import yolo
from ultralytics.models.rtdetr.train import RTDETRTrainer as _RTDETRTrainer
from ultralytics.utils.torch_utils import unwrap_model

from channelcut.adapters.ultralytics.checkpoint import check_cut, check_shapes, guard, guarded, plain
from channelcut.adapters.ultralytics.retarget import retarget
from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.record import add_change, carried_plan


class KeepsTheCut:
    """Makes a trainer of Ultralytics keep a cut network: `class Mine(KeepsTheCut, TheirTrainer)`.

    An uncut network is trained as theirs does.
    """

    args: Any
    data: Any
    resume: Any
    ema: Any

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        """The network to train: a copy of the cut one that `weights` is, with the classes of the data.

        Raises:
            UserError: weights of one network are asked for in another, or the data does not fit.
        """
        if not isinstance(weights, nn.Module) or carried_plan(weights) is None:
            if guarded(cfg):
                raise UserError(
                    f"pretrained={self.args.pretrained!r} asks for other weights in this cut network, and they would "
                    "be those of the uncut one. Leave `pretrained` out: a cut network starts with its own weights."
                )
            return super().get_model(cfg, weights, verbose)  # type: ignore[misc, no-any-return]
        if isinstance(self.args.pretrained, (str, Path)) and not self.resume:
            raise refused(f"train(pretrained={str(self.args.pretrained)!r})", str(self.args.pretrained))
        return self._cut(weights)

    def _cut(self, source: nn.Module) -> nn.Module:
        """A copy of a cut network, ready to be trained."""
        check_cut(source, allow_unproven=True)
        model: Any = private_copy(source).float()
        plain(model)
        guard(model)
        channels = self.data.get("channels", 3)
        if channels != model.yaml.get("channels", channels):
            raise UserError(
                f"The data has images of {channels} channels, the cut network reads {model.yaml['channels']}. Set "
                f"`channels: {model.yaml['channels']}` in the data's YAML, or cut a network that was trained on such "
                "images."
            )
        by_name = bool(getattr(self.args, "cls_remap", True) and self.data.get("names"))
        retarget(model, source, self.data, by_name=by_name and self.args.task != "classify")
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.dtype.is_floating_point)  # those of a checkpoint are frozen
        if self.args.task == "classify" and self.args.dropout:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = self.args.dropout
        if not self.resume:
            step = {"step": "train", "by": f"ultralytics {__version__}", "data": str(self.args.data)}
            add_change(model, {**step, "epochs": int(self.args.epochs)}, begins=True)
        return model  # type: ignore[no-any-return]

    def save_model(self) -> Any:
        """Write the checkpoints of an epoch, after a look at the shapes.

        Raises:
            UserError: something has rebuilt a layer.
        """
        network = network_of(unwrap_model(self.ema.ema))
        if guarded(getattr(network, "yaml", None)):
            check_shapes(network, "The training was stopped before it wrote a checkpoint")
        return super().save_model()  # type: ignore[misc]


def network_of(model: Any) -> Any:
    """The network that is trained: the student, where a teacher stands beside it."""
    return getattr(model, "student_model", model)


def refused(call: str, file: str) -> UserError:
    """The error of a call that would load the weights of a cut network into an uncut one."""
    return UserError(
        f"{call} would put the weights of one network into another, and drop all that do not fit: a cut network has "
        f"other shapes than its YAML says. Open the cut network itself and train that: "
        f"channelcut.adapters.ultralytics.YOLO({file!r}).train(data=..., epochs=...)."
    )


class DetectionTrainer(KeepsTheCut, yolo.detect.DetectionTrainer):  # type: ignore[misc]
    """Detection that keeps a cut network."""


class SegmentationTrainer(KeepsTheCut, yolo.segment.SegmentationTrainer):  # type: ignore[misc]
    """Instance segmentation that keeps a cut network."""


class PoseTrainer(KeepsTheCut, yolo.pose.PoseTrainer):  # type: ignore[misc]
    """Keypoints that keep a cut network."""


class OBBTrainer(KeepsTheCut, yolo.obb.OBBTrainer):  # type: ignore[misc]
    """Oriented boxes that keep a cut network."""


class ClassificationTrainer(KeepsTheCut, yolo.classify.ClassificationTrainer):  # type: ignore[misc]
    """Classification that keeps a cut network."""


class RTDETRTrainer(KeepsTheCut, _RTDETRTrainer):  # type: ignore[misc]
    """RT-DETR that keeps a cut network."""


TRAINERS: dict[str, type] = {
    "detect": DetectionTrainer,
    "segment": SegmentationTrainer,
    "pose": PoseTrainer,
    "obb": OBBTrainer,
    "classify": ClassificationTrainer,
}

if hasattr(yolo, "semantic"):

    class SemanticSegmentationTrainer(KeepsTheCut, yolo.semantic.SemanticSegmentationTrainer):  # type: ignore[misc]
        """Semantic segmentation that keeps a cut network."""

    TRAINERS["semantic"] = SemanticSegmentationTrainer

if hasattr(yolo, "depth"):

    class DepthTrainer(KeepsTheCut, yolo.depth.DepthTrainer):  # type: ignore[misc]
        """Depth that keeps a cut network."""

    TRAINERS["depth"] = DepthTrainer
