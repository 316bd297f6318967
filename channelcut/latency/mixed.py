"""What a network takes and loses where each of its layers has a precision of its own: `mixed_cost`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.adapters import deployed_form, deployed_groups
from channelcut.api import analyze
from channelcut.bench.layers.reading import read_deployed
from channelcut.choosing import check_fits
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.core.inputs import check_kind, check_network, check_values, positional_inputs
from channelcut.core.progress import Progress, Stopwatch
from channelcut.core.words import kind_of
from channelcut.cost.mixed import LayeredCost, MixedCost
from channelcut.onnx_out.deployed import onnx_from_deployed
from channelcut.onnx_out.files import load_onnx
from channelcut.precision.convert import BUDGETS
from channelcut.precision.mixed import layer_outputs, sensitivities

MAX_ERROR = BUDGETS["int8"]
STAGE = "errors of layers"


def mixed_cost(
    model: nn.Module,
    x: Any,
    costs: Mapping[str, LayeredCost],
    images: Tensor | NDArray[np.float32] | None = None,
    *,
    groups: Groups | None = None,
    max_error: float = MAX_ERROR,
    deploy: Deploy = DEFAULT,
    progress: Progress | None = None,
) -> MixedCost:
    """Costs in several precisions as one, by which widths and precisions are chosen together.

    Of every layer of the deployed form the output error is measured that it causes alone in each precision.

    Args:
        model: a trained network; only copies of it are run.
        x: an example input, as for `analyze`.
        costs: by precision, `fp32` first, then `fp16` or `int8` or both: what `channelcut.measure` or
            `channelcut.cost.roofline.roofline` gives for each.
        images: as the network expects them, (n, C, H, W); int8 needs 8 or more. Errors are measured on four of them.
        groups: what `analyze` found in the model; by default it is analyzed here.
        max_error: what the output error of all layers together may be, see `channelcut.convert_precision`.
        deploy: which form of the network will run.
        progress: called as progress(stage, done, total).

    Returns:
        A cost for `plan` and `prune`.

    Raises:
        UserError: there is no second precision, too few images, or one that layers cannot have; the groups or the costs
            are of another model.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> from channelcut.cost.roofline import roofline
        >>> model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3)).eval()
        >>> x = torch.rand(1, 3, 16, 16)
        >>> groups = cc.analyze(model, x)
        >>> columns = {name: roofline(groups, "orin-nano", name) for name in ("fp32", "int8")}
        >>> cost = cc.mixed_cost(model, x, columns, torch.rand(8, 3, 16, 16), groups=groups, max_error=0.05)
        >>> sorted(cost.errors), 0 < cost.errors["2"]["int8"] < 0.05
        (['0', '2'], True)
    """
    check_network(model)
    check_values(model)
    check_kind(deploy, Deploy, "deploy", "channelcut.core.deployed.Deploy(...)")
    groups = analyze(model, x) if groups is None else groups
    check_kind(groups, Groups, "groups", "channelcut.analyze")
    check_fits(model, groups)
    groups = deployed_groups(model, groups, deploy)
    empty = MixedCost(costs, {}, max_error, images=_as_array(images)).on(groups)  # what is wrong with it is said first
    watch = Stopwatch(progress)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deployed.onnx"
        with watch.stage("export"):
            onnx_from_deployed(deployed_form(model, positional_inputs(model, x), deploy), path)
        return _with_errors(empty, path, groups, watch)


def _as_array(images: Any) -> NDArray[np.float32] | None:
    """Images as an array, on whatever device they are."""
    if isinstance(images, Tensor):
        array: NDArray[np.float32] = images.detach().float().cpu().numpy()
        return array
    if images is not None and not isinstance(images, np.ndarray):
        raise UserError(
            f"images is {kind_of(images)}. Expected a tensor or an array of images as the network takes them, "
            "(n, C, H, W), or None."
        )
    return images


def _with_errors(cost: MixedCost, path: Path, groups: Groups, watch: Stopwatch) -> MixedCost:
    """The cost with the errors of the layers of a deployed file."""
    names = {layer.output: layer.name.removesuffix(".weight") for layer in read_deployed(path, groups).layers}
    order = tuple(names.get(output, output) for output in layer_outputs(load_onnx(path)))

    def report(_: str, done: int, total: int) -> None:
        watch.progress(STAGE, done, total)

    with watch.stage(STAGE):
        errors = sensitivities(path, list(cost.costs)[1:], cost.images, progress=report)
    return replace(cost, errors=dict(zip(order, errors, strict=True)), order=order)
