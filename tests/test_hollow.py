"""A forward without arithmetic must run the ops, shapes and types of the real one, and its shortcut the layouts too."""

from __future__ import annotations

import itertools
from functools import lru_cache
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import channelcut as cc
from channelcut.core.trees import leaves
from channelcut.tracing import hollow, trace_modes
from channelcut.tracing.hollow import Hollow, roots, weightless_copy
from channelcut.tracing.shortcuts import shortcut
from tests.networks import NETWORKS, build

INPUT = torch.rand(2, 3, 32, 32)
NAMES = sorted(set(NETWORKS) - {"Table", "Flattened"})  # these two are made for smaller images


class Steps(TorchDispatchMode):
    """Notes the op, and what every tensor that it gives looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found.append((str(func), [(t.shape, t.dtype) for t in leaves(result) if isinstance(t, Tensor)]))
        return result


def order(tensor: Tensor) -> list[int]:
    """The strides of a tensor, but for axes of extent 1, where they mean nothing."""
    return [stride for stride, extent in zip(tensor.stride(), tensor.shape, strict=True) if extent > 1]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_every_op_gives_what_it_gives_with_arithmetic(name: str, training: bool) -> None:
    model = build(name).train(training)
    with torch.no_grad(), Steps() as real:
        model(INPUT)
    model = weightless_copy(build(name)).train(training)  # anew, because a forward may keep what it computed
    x = INPUT.clone()
    with torch.no_grad(), Hollow(roots(model, x)), Steps() as empty:
        model(x)
    assert empty.found == real.found


def test_a_hollow_training_forward_leaves_the_model_alone() -> None:
    """It shares no tensor that a forward could write into, and moves no statistic."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 2048, 1), nn.BatchNorm2d(2048)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace_modes(model, (INPUT,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    shared = {id(p) for p in model.parameters()} & {id(p) for p in weightless_copy(model).parameters()}
    assert not shared and not model.training


def test_the_shortcut_gives_the_layout_that_the_op_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same op on the same tensors, with and without the shortcut, over every network."""
    taken, shortcut = set(), hollow.shortcut

    def compared(func: Any, args: Any, kwargs: Any, tensors: Any) -> Any:
        result = shortcut(func, args, kwargs, tensors)
        if result is not None:
            taken.add(func.overloadpacket.__name__)
            real = func(*args, **kwargs)
            for a, b in zip(leaves(result), leaves(real), strict=True):
                assert (a.shape, a.dtype, order(a)) == (b.shape, b.dtype, order(b)), (str(func), args)
        return result

    monkeypatch.setattr(hollow, "shortcut", compared)
    for name in NAMES:
        model = build(name)
        x = INPUT.clone()
        with torch.no_grad(), Hollow(roots(model, x)):
            model(x)
    assert {"native_batch_norm", "add", "silu"} <= taken


A, LAST = torch.rand(2, 8, 6, 10), torch.rand(2, 8, 6, 10).to(memory_format=torch.channels_last)
OPS: list[tuple[Any, tuple[Any, ...]]] = [
    (torch.ops.aten.add.Tensor, (A, torch.rand(8, 1, 1))),
    (torch.ops.aten.mul.Tensor, (A, torch.rand(2, 1, 6, 10))),
    (torch.ops.aten.mul.Tensor, (A, torch.rand(10))),
    (torch.ops.aten.mul.Tensor, (A[:1], torch.rand(8, 1, 1))),
    (torch.ops.aten.mul.Tensor, (A[:1, :1], torch.rand(6, 1))),
    (torch.ops.aten.mul.Tensor, (A[:, :1].contiguous(), torch.rand(6, 1))),
    (torch.ops.aten.mul.Tensor, (A[:1], LAST[:1])),
    (torch.ops.aten.relu.default, (LAST[:1],)),
    (torch.ops.aten.masked_fill.Scalar, (LAST, LAST > 0, 1.0)),
    (torch.ops.aten.relu.default, (torch.rand(64, 16)[None].as_strided((1, 64, 16), (16, 16, 1)),)),
    (torch.ops.aten.mul.Tensor, (torch.rand(5, 1, 1, 7), torch.rand(7))),
    (torch.ops.aten.mul.Tensor, (torch.rand(1, 9, 1), torch.rand(1, 1, 1))),
    (torch.ops.aten.mul.Tensor, (A, LAST)),
    (torch.ops.aten.mul.Tensor, (LAST, A)),
    (torch.ops.aten.mul.Tensor, (LAST, torch.rand(8, 1, 1))),
    (torch.ops.aten.add.Tensor, (A, torch.rand(2, 10, 6, 8).transpose(1, 3))),
    (torch.ops.aten.add.Tensor, (torch.rand(1, 6, 10), A)),
    (torch.ops.aten.sub.Tensor, (torch.rand(2, 1, 6, 10), torch.rand(2, 8, 1, 1))),
    (torch.ops.aten.add.Tensor, (A, torch.rand(1, 1, 1, 1, dtype=torch.float64))),
    (torch.ops.aten.add.Tensor, (A, torch.rand(3, 2, 8, 6, 10))),
    (torch.ops.aten.where.ScalarOther, (A > 0, A, 1.0)),
    (torch.ops.aten.gt.Tensor, (A, torch.rand(10))),
    (torch.ops.aten.addmm.default, (torch.rand(40), torch.rand(30, 20), torch.rand(40, 20).t())),
    (torch.ops.aten.addmm.default, (torch.rand(30, 1), torch.rand(20, 30).t(), torch.rand(20, 40))),
    (torch.ops.aten.native_layer_norm.default, (A, [10], torch.rand(10), torch.rand(10), 1e-5)),
    (torch.ops.aten.native_layer_norm.default, (LAST.permute(0, 2, 3, 1), [8], None, None, 1e-5)),
    (torch.ops.aten.native_layer_norm.default, (LAST, [6, 10], torch.rand(6, 10), None, 1e-5)),
    (torch.ops.aten.native_layer_norm.default, (A.double(), [10], None, None, 1e-5)),
    (torch.ops.aten.grid_sampler_2d.default, (A, torch.rand(2, 5, 7, 2), 0, 0, False)),
    (torch.ops.aten.grid_sampler_2d.default, (LAST, torch.rand(2, 12, 7, 2), 1, 1, True)),
    (torch.ops.aten.grid_sampler_3d.default, (torch.rand(1, 4, 3, 4, 5), torch.rand(1, 2, 3, 4, 3), 0, 0, False)),
    (torch.ops.aten.upsample_bicubic2d.default, (A, [12, 5], False)),
    (torch.ops.aten.upsample_bicubic2d.default, (LAST, [3, 20], True, 0.5, 2.0)),
    (torch.ops.aten.upsample_bicubic2d.default, (A[:, :1], [12, 5], False)),
    (torch.ops.aten.upsample_bicubic2d.default, (A.mT, [12, 5], False)),
]


def convolution(
    source: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, *rest: Any
) -> tuple[Any, tuple[Any, ...]]:
    dilation, transposed, more, groups = (*rest, *(1, False, 0, 1)[len(rest) :])
    each = ([n] * (source.dim() - 2) for n in (stride, padding, dilation, more))
    stride_, padding_, dilation_, more_ = each
    return torch.ops.aten.convolution.default, (
        source, weight, None, stride_, padding_, dilation_, transposed, more_, groups
    )  # fmt: skip


def last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d)


OPS += [
    (torch.ops.aten.cat.default, ([A, A], 1)),
    (torch.ops.aten.cat.default, ([LAST, LAST], 1)),
    (torch.ops.aten.cat.default, ([LAST, A], -3)),
    (torch.ops.aten.cat.default, ([A, LAST], 1)),
    (torch.ops.aten.cat.default, ([A[:1], A[:1], A[:1]], 2)),
    (torch.ops.aten.cat.default, ([LAST[:1], LAST[:1]], 0)),
    (torch.ops.aten.cat.default, ([A[:, :4], A[:, 4:]], 1)),
    (torch.ops.aten.cat.default, ([LAST[:, :4], LAST[:, 4:]], 1)),
    (torch.ops.aten.cat.default, ([A.mT, A.mT], 1)),
    (torch.ops.aten.cat.default, ([A.permute(1, 0, 3, 2), A.permute(1, 0, 3, 2)], 0)),
    (torch.ops.aten.cat.default, ([torch.rand(3, 5).t(), torch.rand(3, 5).t()],)),
    (torch.ops.aten.cat.default, ([A, torch.rand(0)], 1)),
    (torch.ops.aten.cat.default, ([torch.rand(2, 8, 3, 4, 5), torch.rand(2, 1, 3, 4, 5)], 1)),
    (torch.ops.aten.cat.default, ([A[..., :1, :1], A[..., :1, :1]], 1)),
    (torch.ops.aten.cat.default, ([A[..., :1, :1].contiguous(), A[..., :1, :1].contiguous()], 1)),
]
OPS += [
    (torch.ops.aten.mean.dim, (A, axes, keep))
    for axes, keep in itertools.product(([1], [-1], [2, 3], [0, -2], [0, 1, 2, 3]), (True, False))
]
OPS += [(torch.ops.aten.mean.dim, (LAST, [1])), (torch.ops.aten.mean.dim, (A[:1], [2], True))]
W, CUBE = torch.rand(16, 8, 3, 3), torch.rand(2, 8, 5, 6, 7)
for source in (A, LAST, A[:1], LAST[:1], A[:, :, ::2], A[:, :, :1, :1].contiguous(), torch.rand(2, 6, 10, 8).mT.mT):
    if source.shape[1] == 8:
        OPS += [
            convolution(source, torch.rand(16, 8, 1, 1)),
            convolution(source, last(torch.rand(16, 8, 1, 1)), 2),
            convolution(source, W, 2, 1, 1),
            convolution(source, last(W), 1, 3, 2),
            convolution(source, torch.rand(8, 1, 3, 3), 1, 1, 1, False, 0, 8),
            convolution(source, last(torch.rand(24, 2, 3, 3)), 2, 2, 1, False, 0, 4),
            convolution(source, torch.rand(8, 16, 2, 2), 2, 0, 1, True),
            convolution(source, last(torch.rand(8, 6, 3, 3)), 2, 1, 2, True, 1, 2),
        ]
OPS += [
    convolution(torch.rand(2, 1, 6, 6), torch.rand(4, 1, 3, 3), 1, 1),
    convolution(CUBE, torch.rand(4, 8, 3, 3, 3), 1, 1),
    convolution(last(CUBE), torch.rand(4, 8, 3, 3, 3), 2, 1),
    convolution(CUBE, last(torch.rand(4, 8, 1, 1, 1))),
    convolution(CUBE, torch.rand(8, 4, 2, 2, 2), 2, 0, 1, True),
    convolution(torch.rand(2, 8, 20), torch.rand(4, 8, 3), 1, 1),
    convolution(LAST.double(), W.double()),
]


ALWAYS = {"addmm", "native_layer_norm", "grid_sampler_2d", "grid_sampler_3d", "upsample_bicubic2d"}


@pytest.mark.parametrize(("func", "args"), OPS, ids=lambda value: str(value) if callable(value) else "")
def test_a_shortcut_gives_shape_type_and_layout_or_nothing(func: Any, args: tuple[Any, ...]) -> None:
    found = shortcut(func, args, {}, [a for a in leaves(args) if isinstance(a, Tensor)])
    if found is not None:
        for a, b in zip(leaves(found), leaves(func(*args)), strict=True):
            assert (a.shape, a.dtype, order(a)) == (b.shape, b.dtype, order(b))
    else:
        assert func.overloadpacket.__name__ not in ALWAYS


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (torch.ops.aten.addmm.default, (torch.rand(40), torch.rand(30, 19), torch.rand(20, 40))),
        (torch.ops.aten.addmm.default, (torch.rand(39), torch.rand(30, 20), torch.rand(20, 40))),
        (torch.ops.aten.native_layer_norm.default, (A, [9], None, None, 1e-5)),
        (torch.ops.aten.native_layer_norm.default, (A, [10], torch.rand(9), None, 1e-5)),
        (torch.ops.aten.grid_sampler_2d.default, (A, torch.rand(1, 5, 7, 2), 0, 0, False)),
        (torch.ops.aten.upsample_bicubic2d.default, (A[0], [12, 5], False)),
        (torch.ops.aten.upsample_bicubic2d.default, (A, [0, 5], False)),
        (torch.ops.aten.mul.Tensor, (A, torch.rand(7, 1, 1))),
        (torch.ops.aten.cat.default, ([A, torch.rand(2, 8, 6, 9)], 1)),
        (torch.ops.aten.cat.default, ([A, torch.rand(8, 6, 10)], 1)),
        convolution(A, torch.rand(16, 7, 3, 3)),
        convolution(A, torch.rand(7, 16, 3, 3), 1, 0, 1, True),
        convolution(A, torch.rand(9, 4, 3, 3), 1, 0, 1, False, 0, 2),
        convolution(A, torch.rand(16, 8, 9, 9)),
    ],
    ids=lambda value: str(value) if callable(value) else "",
)
def test_no_shortcut_past_shapes_that_do_not_fit(func: Any, args: tuple[Any, ...]) -> None:
    assert shortcut(func, args, {}, [a for a in leaves(args) if isinstance(a, Tensor)]) is None
    with pytest.raises(RuntimeError):
        func(*args)


def test_a_pointwise_result_is_laid_out_as_torch_does_it() -> None:
    """Two values in any order of axes, spread over each other, sliced and expanded."""
    random, taken = Random(0), 0
    for _ in range(2000):
        extents = [random.choice((1, 2, 3, 5)) for _ in range(random.randint(1, 4))]
        a, b = (drawn(random, extents) for _ in range(2))
        func = random.choice((torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.sub.Tensor))
        found = shortcut(func, (a, b), {}, [a, b])
        if found is not None:
            taken += 1
            real = func(a, b)
            assert (found.shape, order(found)) == (real.shape, order(real)), (a.shape, a.stride(), b.shape, b.stride())
    assert taken > 500


def drawn(random: Random, extents: list[int]) -> Tensor:
    """A value that may be spread over these extents."""
    shape = [random.choice((extent, extent, extent, 1)) for extent in extents]
    back = random.sample(range(len(shape)), len(shape)) if random.random() < 0.5 else list(range(len(shape)))
    made = torch.rand([shape[axis] for axis in back]).permute([back.index(axis) for axis in range(len(shape))])
    kind = random.random()
    if kind < 0.1:
        made = made.expand(extents)
    elif kind < 0.2:
        made = torch.cat((made, made), -1)[..., : made.shape[-1]]
    elif kind < 0.3:
        made = made[0]
    return made


@lru_cache
def grid(height: int, width: int) -> Tensor:
    """What a library may keep for all its models."""
    return torch.stack(torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")) * 2


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(10, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        where = grid(*x.shape[2:]).expand(len(x), -1, -1, -1)
        return self.c(self.b(torch.cat((x, where), 1)))


def test_what_a_forward_keeps_in_a_global_cache_has_its_values() -> None:
    cc.analyze(Cached().eval(), torch.rand(1, 3, 64, 64))
    kept = grid(64, 64)
    assert grid.cache_info().currsize == 1, "analyze must have filled the cache, or this shows nothing"
    assert torch.equal(kept, grid.__wrapped__(64, 64))


def test_what_the_first_trace_leaves_in_a_global_cache_pins_nothing() -> None:
    """The original makes the grid, its cut copy finds it."""
    model, x = Cached().eval(), torch.rand(1, 3, 64, 64)
    grid.cache_clear()
    cold = cc.analyze(model, x)
    warm = cc.analyze(model, x)
    assert [(g.name, g.width) for g in cold.groups] == [(g.name, g.width) for g in warm.groups]
    assert len(cold.groups) == 2 and not [pin for pin in cold.pins if "hard-codes" in pin.reason]
    grid.cache_clear()
    assert cc.prune(model, x, keep=0.5).proof.passed
