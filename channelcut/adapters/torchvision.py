"""torchvision's networks: classifiers whole, detectors up to suppression where there is such a part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.adapters.base import Adapter, refuse_nms
from channelcut.core.copies import private_copy
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.errors import UserError
from channelcut.recovery.images import INTERPOLATIONS, Preprocessing

BUILDER = "channelcut_builder"
"""The attribute that names torchvision's function that has built a network: several have one class."""


class Torchvision(Adapter):
    """Classifiers, segmenters and detectors."""

    def owns(self, model: nn.Module) -> bool:
        """Whether the class of the whole network is torchvision's, or derived from one of it."""
        return any(kind.__module__.startswith("torchvision.models.") for kind in type(model).__mro__)

    def deployed(self, model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
        """A detector of one stage: boxes and scores of every anchor, before suppression. All else: what it returns.

        How many boxes a suppression leaves depends on values, which torch.export refuses; a detector of two stages
        (Faster, Mask and Keypoint R-CNN) suppresses between them.
        """
        import torchvision
        from torchvision.models.detection.fcos import FCOS
        from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
        from torchvision.models.detection.retinanet import RetinaNet
        from torchvision.models.detection.ssd import SSD

        refuse_nms(model, deploy)
        name = type(model).__name__
        if isinstance(model, GeneralizedRCNN):
            raise UserError(
                f"torchvision's {name} has no deployed form: it suppresses boxes between its two stages, so that the "
                "values of an image decide the sizes of what follows, which torch.export refuses. channelcut.prune and "
                "channelcut.save cut it and keep it for torch. To deploy a file, take a detector of one stage (SSD, "
                "SSDlite, RetinaNet, FCOS), or a file.py:factory that returns the part of yours before the proposals "
                f"(the {name}'s backbone and rpn.head), whose outputs --outputs chooses from."
            )
        if not isinstance(model, (SSD, RetinaNet, FCOS)):
            return super().deployed(model, inputs, deploy, dynamic=dynamic)
        image = inputs[0] if len(inputs) == 1 else None
        if not isinstance(image, Tensor) or image.dim() != 4:
            raise UserError(
                f"The deployed form of torchvision's {name} takes one image tensor (N, 3, H, W). Expected such an "
                "example input."
            )
        form = super().deployed(_BeforeSuppression(model).eval(), inputs, deploy, dynamic=dynamic)
        words = {
            "head": f"{name}, boxes and scores of every anchor",
            "suppression": "left to the caller",
            "library": f"torchvision {torchvision.__version__}",
        }
        return replace(form, words=words)

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:
        """That of the default weights of the function that has built the network, where a source has noted it."""
        name = getattr(model, BUILDER, None)
        return None if name is None else preprocessing_of(name)


class _BeforeSuppression(nn.Module):
    """A detector of one stage up to the point where values decide how many boxes there are.

    `boxes`, shape (N, anchors, 4), in pixels of the image, and `scores`, shape (N, anchors, classes), whose class 0 is
    the background of SSD, as torchvision numbers them.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = private_copy(detector)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network."""
        from torchvision.models.detection.fcos import FCOS
        from torchvision.models.detection.ssd import SSD
        from torchvision.models.detection.transform import resize_boxes
        from torchvision.ops import clip_boxes_to_image

        own: Any = self.detector
        size = (int(images.shape[-2]), int(images.shape[-1]))
        resized, _ = own.transform([*images], None)
        features = own.backbone(resized.tensors)
        features = [features] if isinstance(features, Tensor) else list(features.values())
        found = own.head(features)
        boxes = []
        anchors = own.anchor_generator(resized, features)
        for regression, anchor, inner in zip(found["bbox_regression"], anchors, resized.image_sizes, strict=True):
            decode = own.box_coder.decode if isinstance(own, FCOS) else own.box_coder.decode_single
            boxes.append(resize_boxes(clip_boxes_to_image(decode(regression, anchor), inner), inner, size))
        logits = found["cls_logits"]
        scores = torch.softmax(logits, -1) if isinstance(own, SSD) else torch.sigmoid(logits)
        if isinstance(own, FCOS):
            scores = torch.sqrt(scores * torch.sigmoid(found["bbox_ctrness"]))
        return {"boxes": torch.stack(boxes), "scores": scores}


def presets(name: str) -> tuple[str, Any] | None:
    """The name of a builder's default weights, and their transforms; None where it has no weights."""
    from torchvision.models import get_model_weights

    for weights in get_model_weights(name):
        default = type(weights).DEFAULT  # type: ignore[attr-defined]
        return str(default), default.transforms()
    return None


def preprocessing_of(name: str) -> Preprocessing | None:
    """What the transforms of a builder's default weights do with an image; None for what is none."""
    found = presets(name)
    if found is None:
        return None
    by, how = f"torchvision's {found[0]}", found[1]
    kind = type(how).__name__
    if kind == "ObjectDetection":
        return Preprocessing(by=by)  # the network itself resizes and normalises
    if kind not in ("ImageClassification", "SemanticSegmentation"):
        return None
    crop, resize = getattr(how, "crop_size", None), how.resize_size
    interpolation: Any = how.interpolation.value
    return Preprocessing(
        fit="crop" if crop else "stretch",
        mean=tuple(how.mean),
        std=tuple(how.std),
        share=crop[0] / resize[0] if crop else 1.0,
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bilinear",
        by=by,
    )
