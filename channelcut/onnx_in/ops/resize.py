"""Resizing of the trailing axes, in the modes that torch computes alike; whether it does is checked on the indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.registry import Call, operator

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Plan:
    """Old and new extents of the trailing axes that change, and the factors by which ONNX maps positions.

    `by_factor`: the file gives factors, not extents.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    factors: tuple[float, ...]
    by_factor: bool

    def arguments(self) -> dict[str, list[int] | list[float]]:
        """How torch's interpolate is told the size: factors leave the network free of extents."""
        if self.by_factor or all(float(f).is_integer() for f in self.factors):
            return {"scale_factor": [float(f) for f in self.factors]}
        return {"size": list(self.new)}


@operator("Resize", "Upsample")
def resize(call: Call) -> Value:
    """Nearest, linear and cubic."""
    source = call[0]
    plan = _plan(call, source)
    if plan is None:
        return source
    mode = str(call.attribute("mode", "nearest"))
    where = _coordinates(call)
    if where == "tf_crop_and_resize" or call.attribute("exclude_outside", 0):
        call.refuse("crops or renormalises at the border while it resizes, which torch does not")
    if mode == "nearest":
        return _nearest(call, source, plan, where)
    count = len(plan.new)
    torch_mode = LINEAR.get(count) if mode == "linear" else "bicubic" if mode == "cubic" and count == 2 else None
    corners = where == "align_corners"
    half = where == "half_pixel" or (where == "pytorch_half_pixel" and min(plan.new) > 1)
    if torch_mode is None or not (corners or half) or abs(float(call.attribute("cubic_coeff_a", -0.75)) + 0.75) > 1e-6:
        call.refuse(
            f"resizes {count} axes in the mode {mode!r} with the coordinates {where!r}, which torch does not; linear "
            "(1 to 3 axes) and cubic (2 axes, coefficient -0.75) with half_pixel, pytorch_half_pixel or align_corners "
            "can be imported"
        )
    if call.attribute("antialias", 0) and any(new < old for old, new in zip(plan.old, plan.new, strict=True)):
        call.refuse("makes an image smaller with antialias, whose weights are not torch's")
    arguments = {"size": list(plan.new)} if corners else plan.arguments()
    return call.emit(F.interpolate, source, **arguments, mode=torch_mode, align_corners=corners)


def _coordinates(call: Call) -> str:
    """The coordinate mode; Upsample and Resize before opset 11 know only one."""
    if call.kind == "Upsample" or call.opset < 11:
        return "asymmetric"
    return str(call.attribute("coordinate_transformation_mode", "half_pixel"))


def _plan(call: Call, source: Value) -> Plan | None:
    """What changes; None where nothing does."""
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        call.refuse("chooses the size by keep_aspect_ratio_policy; export it with explicit sizes")
    rank = len(source.shape)
    early = call.kind == "Upsample" or call.opset < 11
    scales = call.numbers("scales", 1 if early else 2) or None
    sizes = None if early else call.numbers("sizes", 3) or None
    axes = [int(axis) % rank for axis in call.attribute("axes") or range(rank)]
    factors, extents = [1.0] * rank, list(source.shape)
    for position, axis in enumerate(axes):
        if sizes is not None:
            extents[axis] = int(sizes[position])
            factors[axis] = extents[axis] / source.shape[axis]
        elif scales is not None:
            factors[axis] = float(scales[position])
            extents[axis] = floor(source.shape[axis] * factors[axis])
    changed = [axis for axis in range(rank) if factors[axis] != 1]
    if not changed:
        return None
    if changed[0] < 2 or rank - 2 not in LINEAR:
        call.refuse(f"resizes axis {changed[0]} of {rank}; only the axes after batch and channels can be resized")
    return Plan(source.shape[2:], tuple(extents[2:]), tuple(factors[2:]), sizes is None)


def _nearest(call: Call, source: Value, plan: Plan, where: str) -> Value:
    """torch's nearest or nearest-exact where their indices are ONNX's, else an index along every axis."""
    rounding = (
        "floor" if call.opset < 11 or call.kind == "Upsample" else call.attribute("nearest_mode", "round_prefer_floor")
    )
    wanted = [
        nearest_indices(old, new, factor, (where, str(rounding)))
        for old, new, factor in zip(plan.old, plan.new, plan.factors, strict=True)
    ]
    for mode in ("nearest", "nearest-exact"):
        if _same_indices(plan, wanted, mode):
            return call.emit(F.interpolate, source, **plan.arguments(), mode=mode)
    for position, indices in enumerate(wanted):
        if indices.tolist() != list(range(plan.old[position])):
            source = call.emit(torch.index_select, source, 2 + position, call.constant(torch.from_numpy(indices)))
    return source


def nearest_indices(old: int, new: int, factor: float, modes: tuple[str, str]) -> NDArray[np.int64]:
    """Which old position every new one takes, by ONNX's definition; `modes`: of coordinates and of rounding."""
    where, rounding = modes
    x = np.arange(new, dtype=np.float64).astype(np.float32)  # as ONNX Runtime counts, for ties
    scale, half = np.float32(factor), np.float32(0.5)
    if where == "asymmetric":
        x = x / scale
    elif where == "align_corners":
        x = x * np.float32(old - 1) / np.float32(max(1, new - 1))
    elif where == "half_pixel_symmetric":
        x = np.float32(old / 2 * (1 - new / (factor * old))) + (x + half) / scale - half
    elif where == "pytorch_half_pixel" and new == 1:
        x = x * np.float32(0)
    else:
        x = (x + half) / scale - half
    roundings: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
        "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda v: np.ceil(v - half),
        "round_prefer_ceil": lambda v: np.floor(v + half),
    }  # fmt: skip
    positions: NDArray[np.int64] = np.clip(roundings[rounding](x), 0, old - 1).astype(np.int64)
    return positions


def _same_indices(plan: Plan, wanted: Sequence[NDArray[np.int64]], mode: str) -> bool:
    """Whether torch's interpolate takes the wanted positions, found by resizing the positions along each axis."""
    for axis, indices in enumerate(wanted):
        view = [1] * (2 + len(wanted))
        view[2 + axis] = -1
        places = torch.arange(plan.old[axis], dtype=torch.float32).reshape(view).expand(1, 1, *plan.old).contiguous()
        found = F.interpolate(places, **plan.arguments(), mode=mode)  # type: ignore[arg-type]
        if not torch.equal(found, torch.from_numpy(indices).float().reshape(view).expand_as(found)):
            return False
    return True
