"""Other classes: the last layers of a cut head get as many outputs as the data has classes, as Ultralytics does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Classify, Detect, RTDETRDecoder
from ultralytics.utils import LOGGER

from channelcut.core.errors import UserError
from channelcut.core.record import reshaped

_SCORES = ("cv3", "one2one_cv3")
_OPEN_VOCABULARY = ("WorldDetect", "YOLOEDetect", "YOLOESegment", "YOLOESegment26")


def retarget(model: nn.Module, source: nn.Module, data: Mapping[str, Any], *, by_name: bool) -> None:
    """Give the head of `model`, a copy of the cut network `source`, the classes of a data set.

    Hidden widths stay. The rows of a class that both know by name are copied, the others are as in a new head; so it
    is in both heads of a network with two. The plan's changes say what has got other extents.

    Raises:
        UserError: the head cannot be given other classes.
    """
    head: Any = model.model[-1]  # type: ignore[index, union-attr]
    before, after = dict(getattr(source, "names", None) or {}), dict(data["names"])
    _check_points(head, data)
    width = _classes(head, model)
    same = width is None or width == data["nc"]
    matched = _matched(before, after) if by_name else 0
    if same and (not matched or _listed(before) == _listed(after)):
        return
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    numbers = {} if same else _other_classes(model, head, int(data["nc"]))
    if by_name:
        model.names = after  # type: ignore[assignment]
    if numbers and isinstance(head, Detect):
        head.bias_init()
    model.load(source, verbose=False)  # type: ignore[operator]
    _note(model, shapes, numbers, {"step": "other classes", "classes": _listed(after), "copied_by_name": matched})
    if not same:
        LOGGER.info(
            f"channelcut: the cut head now tells {data['nc']} classes instead of {width}, its hidden widths kept; "
            f"rows copied by name: {matched}."
        )


def _classes(head: Any, model: nn.Module) -> int | None:
    """How many classes a head tells; None where it tells none."""
    if type(head).__name__ in _OPEN_VOCABULARY:
        raise UserError(
            f"{type(model).__name__} reads its classes from texts, and channelcut does not train it. Train it with "
            "Ultralytics first, and cut what comes out last."
        )
    if isinstance(head, Classify):
        return int(head.linear.out_features)
    return None if not hasattr(head, "nc") else int(head.nc)


def _other_classes(model: nn.Module, head: Any, classes: int) -> dict[str, dict[str, Any]]:
    """Put last layers with other numbers of outputs into a head; the numbers that follow, by module."""
    place = f"model.{len(model.model) - 1}"  # type: ignore[arg-type]
    if isinstance(head, Classify):
        head.linear = _like(head.linear, classes)
        return {f"{place}.linear": {"out_features": classes}}
    numbers: dict[str, dict[str, Any]] = {place: {"nc": classes}}
    if isinstance(head, Detect):
        numbers[place]["no"] = head.no - head.nc + classes
        head.no += classes - head.nc
    found = list(_last_layers(head))
    if not found:
        raise UserError(
            f"The head {type(head).__name__} cannot be given other classes ({classes} instead of {head.nc}) once it is "
            "cut. Train it on these classes with Ultralytics first, and cut what comes out."
        )
    for path, holder, key in found:
        layer = _like(holder[key] if isinstance(key, int) else getattr(holder, key), classes)
        if isinstance(key, int):
            holder[key] = layer
        else:
            setattr(holder, key, layer)
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, math.log(0.01 / 0.99) / 80 * classes)  # as RT-DETR's decoder begins
        kind = {nn.Conv2d: "out_channels", nn.Linear: "out_features", nn.Embedding: "num_embeddings"}[type(layer)]
        numbers[f"{place}.{path}"] = {kind: classes}
    head.nc = classes
    return numbers


def _last_layers(head: Any) -> Iterator[tuple[str, Any, Any]]:
    """The layers with one output a class: their paths in the head, what holds them, and by which key."""
    if isinstance(head, RTDETRDecoder):
        yield "denoising_class_embed", head, "denoising_class_embed"
        yield "enc_score_head", head, "enc_score_head"
        for index in range(len(head.dec_score_head)):
            yield f"dec_score_head.{index}", head.dec_score_head, index
        return
    branches = [(f"{name}.{i}", branch) for name in _SCORES for i, branch in enumerate(getattr(head, name, None) or ())]
    branches.append(("proto.semseg", getattr(getattr(head, "proto", None), "semseg", None)))
    branches += [(name, getattr(head, name, None)) for name in ("classifier", "aux_head")]
    for path, branch in branches:
        if isinstance(branch, nn.Sequential) and isinstance(branch[-1], nn.Conv2d):
            yield f"{path}.{len(branch) - 1}", branch, len(branch) - 1


def _check_points(head: Any, data: Mapping[str, Any]) -> None:
    """Refuse data with other keypoints than a cut head has."""
    points = data.get("kpt_shape")
    if hasattr(head, "kpt_shape") and points and tuple(points) != tuple(head.kpt_shape):
        raise UserError(
            f"The data has keypoints of the shape {list(points)}, the cut head of {list(head.kpt_shape)}, and a cut "
            "head cannot be given other keypoints. Train it on this data with Ultralytics first, and cut what comes "
            "out."
        )


def _like(layer: Any, outputs: int) -> Any:
    """A new layer of the same kind with another number of outputs, where the old one is."""
    found: Any
    if isinstance(layer, nn.Conv2d):
        found = nn.Conv2d(layer.in_channels, outputs, 1, bias=layer.bias is not None)
    elif isinstance(layer, nn.Embedding):
        found = nn.Embedding(outputs, layer.embedding_dim)
    else:
        found = nn.Linear(layer.in_features, outputs, bias=layer.bias is not None)
    return found.to(layer.weight.device, layer.weight.dtype).train(layer.training)


def _matched(before: Mapping[int, str], after: Mapping[int, str]) -> int:
    """How many classes have a name that the network knows already; names that are numbers say nothing."""
    if any(all(str(key) == str(value) for key, value in names.items()) for names in (before, after)):
        return 0
    known = {str(name).strip().lower() for name in before.values()}
    return sum(str(name).strip().lower() in known for name in after.values())


def _listed(names: Mapping[int, str]) -> list[str]:
    return [str(names[key]) for key in sorted(names)]


def _note(
    model: nn.Module, before: Mapping[str, tuple[int, ...]], numbers: Mapping[str, Any], change: Mapping[str, Any]
) -> None:
    """Write into the record of a model which extents are others now."""
    resized = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) != before[name]:
            pairs = enumerate(zip(tensor.shape, before[name], strict=True))
            resized[name] = {str(axis): new for axis, (new, old) in pairs if new != old}
    reshaped(model, {**change, "resized": resized, "attributes": dict(numbers)})
