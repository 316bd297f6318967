"""Normalisation layers and the parametric rectifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.ops.shapes import reshaped
from channelcut.onnx_in.registry import Call, operator

BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def _by_rank(call: Call, table: dict[int, Any], rank: int) -> Any:
    if rank not in table:
        call.refuse(f"has an input of {rank} axes; {min(table)} to {max(table)} can be imported")
    return table[rank]


def _constants(call: Call, positions: range) -> list[Value]:
    """The constant inputs at `positions`; refuses those that depend on the data."""
    for position in positions:
        call.tensor(position)
    return [call[position] for position in positions]


@operator("BatchNormalization")
def batch_norm(call: Call) -> Value:
    """Scale, bias, mean and variance of (C,), as a layer in evaluation mode."""
    if call.attribute("training_mode", 0) or any(call.node.output[1:]):
        call.refuse("is in training mode; export the model after model.eval()")
    scale, bias, mean, variance = _constants(call, range(1, 5))
    source = call[0]
    kind = _by_rank(call, BATCH, len(source.shape))
    momentum = 1 - float(call.attribute("momentum", 0.9))
    module = kind(scale.shape[0], float(call.attribute("epsilon", 1e-5)), momentum, device="meta")
    module.weight, module.bias = call.builder.parameter(scale), call.builder.parameter(bias)
    module.running_mean, module.running_var = mean.tensor.clone(), variance.tensor.clone()
    module.num_batches_tracked = torch.tensor(0)
    key = ("BatchNorm", module.eps, *(id(v) for v in (scale, bias, mean, variance)))
    return call.builder.layer(call, module, scale, source, key)


@operator("InstanceNormalization")
def instance_norm(call: Call) -> Value:
    """Statistics over space. After a reshape to (N, G, ...) without scales it is a group norm, and becomes one."""
    source, (scale, bias) = call[0], _constants(call, range(1, 3))
    eps = float(call.attribute("epsilon", 1e-5))
    plain = bool((scale.tensor == 1).all()) and bool((bias.tensor == 0).all())
    origin = source.origin
    if plain and origin is not None and origin.kind == "reshape" and _splits_channels(origin.source, source):
        inner, groups = origin.source, source.shape[1]
        module = nn.GroupNorm(groups, inner.shape[1], eps, affine=False)
        normed = call.builder.layer(call, module, call.constant(torch.empty(0)), inner, ("Group", call.index))
        return reshaped(call, normed, source.shape)
    kind = _by_rank(call, INSTANCE, len(source.shape))
    module = kind(scale.shape[0], eps, affine=True, device="meta")
    module.weight, module.bias = call.builder.parameter(scale), call.builder.parameter(bias)
    key = ("Instance", eps, id(module.weight), id(module.bias))
    return call.builder.layer(call, module, scale, source, key)


def _splits_channels(whole: Value, parts: Value) -> bool:
    """Whether `parts` (N, G, ...) is `whole` (N, C, ...) with its channels cut into G groups."""
    if len(whole.shape) < 3 or len(parts.shape) < 3 or whole.shape[0] != parts.shape[0]:
        return False
    return parts.shape[1] > 0 and whole.shape[1] % parts.shape[1] == 0


@operator("GroupNormalization")
def group_norm(call: Call) -> Value:
    """Scale and bias of (C,), or of (G,) before opset 21, which are repeated within each group."""
    source, (scale, bias) = call[0], _constants(call, range(1, 3))
    groups, channels = int(call.attribute("num_groups", 1)), source.shape[1]
    module = nn.GroupNorm(groups, channels, float(call.attribute("epsilon", 1e-5)), device="meta")

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(channels // len(tensor))

    module.weight = call.builder.parameter(scale, f"{channels} channels", repeated)
    module.bias = call.builder.parameter(bias, f"{channels} channels", repeated)
    key = ("Group", groups, module.eps, id(module.weight), id(module.bias))
    return call.builder.layer(call, module, scale, source, key)


@operator("LayerNormalization")
def layer_norm(call: Call) -> Value:
    """Statistics over the axes from `axis` on."""
    if any(call.node.output[1:]):
        call.refuse("gives its statistics as outputs")
    source, scale, bias = call[0], *_constants(call, range(1, 2)), call.get(2)
    call.tensor(2)
    shape = source.shape[call.axis(source, -1) :]
    module = nn.LayerNorm(shape, float(call.attribute("epsilon", 1e-5)), bias=bias is not None, device="meta")

    def broadcast(tensor: Tensor) -> Tensor:
        return tensor.expand(shape)

    module.weight = call.builder.parameter(scale, "" if scale.shape == shape else f"to {shape}", broadcast)
    if bias is not None:
        module.bias = call.builder.parameter(bias, "" if bias.shape == shape else f"to {shape}", broadcast)
    key = ("LayerNorm", module.eps, id(module.weight), id(module.bias), shape)
    return call.builder.layer(call, module, scale, source, key)


@operator("PRelu")
def prelu(call: Call) -> Value:
    """One slope, or one for each channel of axis 1, is a layer; any other broadcast is computed."""
    source, slope = call[0], call[1]
    aligned = (1,) * (len(source.shape) - len(slope.shape)) + slope.shape
    others = [extent for axis, extent in enumerate(aligned) if axis != 1]
    if slope.node is not None or source.node is None or len(aligned) < 2 or any(extent != 1 for extent in others):
        return call.emit(torch.where, call.emit(torch.lt, source, 0), call.emit(torch.mul, source, slope), source)
    module = nn.PReLU(aligned[1], device="meta")
    module.weight = call.builder.parameter(slope, "line", lambda tensor: tensor.reshape(-1))
    return call.builder.layer(call, module, slope, source, ("PReLU", id(module.weight)))
