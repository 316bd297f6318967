"""Convolutions of several groups as the proof computes them: what torch computes, in all of its forms."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from channelcut.proof.grouped import grouped_convolution

aten = torch.ops.aten
SHAPES = [(3, 3, 3), (6, 12, 6), (6, 6, 6), (8, 4, 2), (12, 6, 3)]  # inputs, outputs, groups
FORMS = list(itertools.product((1, 2, 3), SHAPES, ((1, 0, 1), (2, 1, 1), (1, 2, 2), (3, 1, 2)), (True, False)))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("axes", "shape", "moves", "bias"), FORMS)
def test_every_form(
    axes: int, shape: tuple[int, int, int], moves: tuple[int, int, int], bias: bool, transposed: bool
) -> None:
    torch.manual_seed(0)
    (inputs, outputs, groups), (stride, padding, dilation) = shape, moves
    kernel, size = (3, 2, 1)[:axes], (7, 9, 6)[:axes]
    weight = drawn(*((inputs, outputs // groups) if transposed else (outputs, inputs // groups)), *kernel)
    extra = min(1, max(stride, dilation) - 1) if transposed else 0
    move: list[Any] = [[stride] * axes, [padding] * axes, [dilation] * axes, transposed, [extra] * axes, groups]
    args = (drawn(2, inputs, *size), weight, drawn(outputs) if bias else None, *move)
    found = grouped_convolution("aten.convolution", aten.convolution.default, args, {})
    assert found is not None
    torch.testing.assert_close(found, aten.convolution.default(*args), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_in_words(padding: str) -> None:
    x, weight = drawn(1, 4, 9, 8), drawn(4, 1, 4, 3)
    args = (x, weight, None, [1, 1], padding, [2, 1], 4)
    found = grouped_convolution("aten.conv2d", aten.conv2d.padding, args, {})
    assert found is not None
    torch.testing.assert_close(found, F.conv2d(x, weight, padding=padding, dilation=(2, 1), groups=4))


def test_layers_as_torch_export_names_them() -> None:
    x, weight = drawn(6, 9), drawn(6, 2, 3)  # without a batch
    found = grouped_convolution("aten.conv1d", aten.conv1d.default, (x, weight), {"groups": 3, "padding": [1]})
    assert found is not None
    torch.testing.assert_close(found, F.conv1d(x, weight, padding=1, groups=3))
    weight = drawn(6, 1, 3)
    args = (x, weight, drawn(3), [2], [1], [1], 3)
    found = grouped_convolution("aten.conv_transpose1d", aten.conv_transpose1d.default, args, {})
    assert found is not None
    torch.testing.assert_close(found, aten.conv_transpose1d.default(*args))


def test_many_groups_and_large_maps() -> None:
    for shape in ((2, 900, 9, 9), (1, 2, 200, 190)):
        x, weight = drawn(*shape), drawn(shape[1], 1, 3, 3)
        args = (x, weight, None, [1, 1], [1, 1], [1, 1], shape[1])
        found = grouped_convolution("aten.conv2d", aten.conv2d.default, args, {})
        assert found is not None
        torch.testing.assert_close(found, aten.conv2d.default(*args), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", list(itertools.product((False, True), (False, True), (2, 3))))
def test_the_layout_is_torchs(form: tuple[bool, bool, int]) -> None:
    transposed, by_weight, axes = form
    fmt = torch.channels_last if axes == 2 else torch.channels_last_3d
    x, weight = drawn(2, 4, *[6] * axes), drawn(4, 2, *[3] * axes)
    if by_weight:
        weight = weight.to(memory_format=fmt)
    else:
        x = x.to(memory_format=fmt)
    args = (x, weight, None, [1] * axes, [1] * axes, [1] * axes, transposed, [0] * axes, 2)
    found = grouped_convolution("aten.convolution", aten.convolution.default, args, {})
    assert found is not None and found.stride() == aten.convolution.default(*args).stride()


def test_what_torch_has_a_kernel_for_is_left_to_it() -> None:
    x, weight = torch.rand(1, 4, 5), torch.rand(4, 1, 3)
    assert grouped_convolution("aten.conv1d", aten.conv1d.default, (x, weight), {"groups": 4}) is None
    x, weight = drawn(1, 4, 5), drawn(4, 4, 3)
    assert grouped_convolution("aten.conv1d", aten.conv1d.default, (x, weight), {}) is None
    assert grouped_convolution("aten.relu", aten.relu.default, (x,), {}) is None
