"""Coupling: which channels live and die together, and which are pinned, with reason and place."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, build, example
from torch import Tensor, nn

import channelcut as cc
from channelcut.core import ids as I
from channelcut.core import reasons
from channelcut.core.attributes import get_attribute
from channelcut.core.errors import TraceError
from channelcut.core.graph import Graph, Node
from channelcut.core.ids import shrink
from channelcut.coupling import replay as replaying
from channelcut.coupling.collect import Collector
from channelcut.coupling.facts import Bind, Request
from channelcut.coupling.replay import Mismatch
from channelcut.coupling.settle import Draft
from channelcut.ops.call import Call
from channelcut.ops.registry import rule, rules
from channelcut.tracing import torch_export

# torch.export shows sizes, but not where they come from: there the probe pins what the recorder lets follow.
SEES_NUMBERS = {
    "CountedThirds",
    "HardCoded",
    "SlicedBySelf",
    "ConfiguredHeads",
    "OwnNorm",
    "Closure",
    "Recurrent",
    "WholeHeads",
    "HandWrittenHeads",
}


def widths(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {g.name: (len(g.lanes), g.width) for g in cc.analyze(model, example()).groups}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Chain", {"a.0.weight": (1, 12), "b.0.weight": (1, 16)}),
        ("Residual", {"stem.0.weight": (1, 16), "a.0.weight": (1, 24)}),
        ("C2f", {"cv1.0.weight": (2, 12), "m.0.0.weight": (1, 8), "cv2.0.weight": (1, 10)}),
        ("Depthwise", {"a.0.weight": (1, 12), "p.0.weight": (1, 8)}),
        ("Grouped", {"a.0.weight": (1, 4), "h.0.weight": (1, 12)}),
        ("Squeeze", {"stem.0.weight": (1, 16), "down.weight": (1, 4)}),
        ("Flattened", {"a.0.weight": (1, 6), "f1.weight": (1, 20)}),
        ("Transposed", {"a.0.weight": (1, 12), "up.weight": (1, 4), "b.0.weight": (1, 8)}),
        ("Attention", {"stem.0.weight": (1, 12), "q.weight": (2, 8), "v.weight": (2, 4), "proj.weight": (1, 10)}),
        ("FusedAttention", {"v.weight": (2, 8), "proj.weight": (1, 10)}),
        ("SharedKeys", {"q.weight": (2, 4), "v.weight": (2, 4)}),
        ("Weighed", {"a.weight": (1, 12), "b.weight": (1, 8)}),
        ("WholeHeads", {"q.weight": (1, 6), "proj.weight": (1, 10)}),
        ("HandWrittenHeads", {"q.weight": (1, 6), "proj.weight": (1, 10)}),
        (
            "Recurrent",
            {
                "a.0.weight": (1, 12),
                "lstm.weight_ih_l0": (4, 10),  # two layers in two directions keep as many units each
                "gru.weight_ih_l0": (1, 9),
                "start.weight": (1, 8),  # and the units of the layer that it starts
            },
        ),
    ],
)
def test_groups(name: str, expected: dict[str, tuple[int, int]]) -> None:
    assert widths(build(name)) == expected


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - SEES_NUMBERS))
def test_both_front_ends_find_the_same_channels(name: str) -> None:
    found = [cc.analyze(build(name), example(), tracer=f).groups for f in ("export", "dispatch")]
    shape = [[(len(g.lanes), g.width) for g in groups] for groups in found]
    assert shape[0] == shape[1]


def test_an_export_of_other_shapes_than_the_forwards_is_refused() -> None:
    """PyTorch 2.11 gives the last states of an LSTM of several layers an axis too many."""
    model, x = nn.Conv2d(3, 4, 1).eval(), torch.rand(2, 3, 8, 8)
    graph = torch_export.export(model, (x,), {}, training=False)
    torch_export._check_shapes(graph, model(x))
    with pytest.raises(TraceError, match=r"shape \(2, 4, 8, 8\), and the forward \(2, 1, 4, 8, 8\).*tracer='auto'"):
        torch_export._check_shapes(graph, model(x).unsqueeze(1))


def test_a_chunk_makes_lanes_of_equal_width_not_equal_channels() -> None:
    (group,) = [g for g in cc.analyze(build("C2f"), example()).groups if len(g.lanes) == 2]
    assert not set(group.lanes[0]) & set(group.lanes[1])


class Masked(nn.Module):
    """Attention with a mask that a layer computes for every head, and the layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mask, self.v = nn.Linear(16, 6), nn.Linear(6, 4), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        mask = self.mask(F.relu(self.inner(x))).transpose(1, 2)[:, :, None]
        v = self.v(x).reshape(*x.shape[:2], 4, 2).transpose(1, 2)
        return F.scaled_dot_product_attention(v, v, v, attn_mask=mask, scale=0.5).mean(1)


@pytest.mark.parametrize("front_end", ["dispatch", "export"])
def test_the_mask_of_an_attention_keeps_its_heads(front_end: str) -> None:
    groups = cc.analyze(Masked(), example(), tracer=front_end)
    assert [g.name for g in groups.groups] == ["inner.weight"]
    assert [p.op for p in groups.pins if p.reason == "the mask of an attention"] == [
        "aten.scaled_dot_product_attention"
    ]
    assert cc.prune(Masked(), example(), keep=0.5, tracer=front_end).proof.passed


def test_attention_is_one_step_whatever_kernel_torch_takes() -> None:
    """Values of another width than the queries have another kernel; the probe must not take that for another step."""
    groups = cc.analyze(build("FusedAttention"), example())
    assert [n.name for n in groups.graph.calls if "attention" in n.name] == ["aten.scaled_dot_product_attention"]
    assert not [p for p in groups.pins if "hard-codes" in p.reason]
    assert cc.prune(build("FusedAttention"), example(), keep=0.5).model.v.weight.shape == (8, 3)


class HeadsOfTwo(nn.Module):
    """Four heads, of which one channel each is left when half are."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v = (nn.Linear(16, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = (x := x[:, 0]).shape
        q, k, v = (layer(x).reshape(n, t, 4, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5) if self.fused else (q @ k.mT * 0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, -1))


@pytest.mark.parametrize("fused", [True, False])
def test_a_head_that_is_down_to_one_channel_is_no_whole_head(fused: bool) -> None:
    assert widths(HeadsOfTwo(fused)) == {"q.weight": (4, 2), "v.weight": (4, 2)}


def test_attention_inside_torchs_layer_is_one_step() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    graph = cc.analyze(nn.Sequential(nn.Linear(3, 8), Alone(layer)), torch.rand(2, 5, 3)).graph
    assert [n.name for n in graph.calls if "attention" in n.name] == ["aten.scaled_dot_product_attention"]
    assert F.scaled_dot_product_attention is torch._C._nn.scaled_dot_product_attention


class Alone(nn.Module):
    """A layer of attention over itself."""

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x, need_weights=False)[0]


def test_the_output_is_pinned_with_its_place() -> None:
    (pin,) = cc.analyze(build("Chain"), example()).pins
    assert (pin.reason, pin.op, pin.module, len(pin.channels)) == ("network output", "aten.convolution", "head", 5)
    assert "networks.py:" in pin.source


def test_a_hard_coded_width_is_pinned_at_its_line() -> None:
    groups = cc.analyze(build("Literal"), example())
    held = [
        p for p in groups.pins if p.reason == "the forward hard-codes this width" and p.op == "aten.split_with_sizes"
    ]
    assert len(held) == 1
    assert len(held[0].channels) == 16
    assert "networks.py:" in held[0].source
    assert [g.name for g in groups.groups] == ["a.0.weight", "free.0.weight"] or [g.name for g in groups.groups] == [
        "free.0.weight"
    ]


@pytest.mark.parametrize(
    ("name", "path", "attribute", "before", "after"),
    [
        ("HardCoded", "", "c", 8, 4),
        ("C2fWithWidth", "block", "c", 12, 6),
        ("SlicedBySelf", "", "widths.0", 6, 3),
        ("ConfiguredHeads", "", "config.head_dim", 8, 4),
        ("OwnNorm", "norm", "shape.0", 12, 6),
        ("Closure", "", "fold.width", 8, 4),
    ],
)
def test_an_attribute_that_holds_a_width_follows(name: str, path: str, attribute: str, before: int, after: int) -> None:
    model = build(name)
    result = cc.prune(model, example(), keep=0.5)
    assert get_attribute(result.model.get_submodule(path), attribute) == after
    assert get_attribute(model.get_submodule(path), attribute) == before
    assert type(get_attribute(model.get_submodule(path), attribute)) is int
    assert result.plan.attributes[path][attribute] == after


def test_widths_that_must_agree_keep_one_share() -> None:
    """view(b, c, h, w) with the c of another tensor: the values' heads and the residual stream lose the same share."""
    groups = cc.analyze(build("ConfiguredHeads"), example()).groups
    (tied,) = [g for g in groups if {len(lane) for lane in g.lanes} == {8, 16}]
    assert tied.width == 8
    kept = cc.prune(build("ConfiguredHeads"), example(), keep=0.5).plan.kept
    assert len(kept["stem.0.weight"][0]) == 8
    assert len(kept["qkv.weight"][0]) == 24


CACHE: dict[str, int] = {}


class Caching(nn.Module):
    """A forward that keeps a width in a cache outside of the model, as a decorated function would."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        width = CACHE.setdefault("width", x.shape[1])
        return self.c(F.relu(self.b(x.view(x.shape[0], width, -1).view(x.shape))))


def test_a_number_of_an_earlier_recording_is_a_plain_one() -> None:
    CACHE.clear()
    cc.analyze(Caching(), example())
    assert [g.name for g in cc.analyze(Caching(), example()).groups] == ["b.weight"]


def test_a_branch_that_only_training_runs_is_coupled() -> None:
    result = cc.prune(build("AuxiliaryHead"), example(), keep=0.5)
    assert result.model.aux[0].weight.shape == (3, 6, 3, 3)
    assert result.proof.training == "passed"
    outputs = result.model.train()(example())
    assert [tuple(o.shape) for o in outputs] == [(2, 3, 16, 16), (2, 3, 16, 16)]


def test_a_number_that_follows_a_width_is_found() -> None:
    groups = cc.analyze(build("WidthScale"), example())
    assert [g.name for g in groups.groups] == ["a.0.weight"]
    held = {p.source for p in groups.pins if p.reason == "the forward computes with a number that follows this width"}
    assert len(held) == 2
    by_probe = cc.analyze(build("WidthScale"), example(), tracer="export")
    assert [g.name for g in by_probe.groups] == ["a.0.weight"]
    assert len({p.source for p in by_probe.pins if p.reason == "the forward hard-codes this width"}) == 2


def test_a_line_that_holds_everything_is_bisected() -> None:
    groups = cc.analyze(build("Dense"), example())
    assert [g.name for g in groups.groups] == ["b.weight"]


def test_padded_zero_channels_pin_only_what_they_meet() -> None:
    groups = cc.analyze(build("OptionA"), example())
    assert {g.name: g.width for g in groups.groups} == {"stem.0.weight": 8, "a.weight": 12}
    assert [len(p.channels) for p in groups.pins if p.reason == "combined with a fixed tensor"] == [8]


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(torch.linalg.matrix_exp(self.a(x)))))


def test_an_op_without_a_rule_is_pinned_never_guessed() -> None:
    groups = cc.analyze(Unknown(), example())
    (pin,) = [p for p in groups.pins if p.reason == "an op without a rule"]
    assert pin.op == "aten.linalg_matrix_exp"
    assert len(pin.channels) == 8
    assert "register a rule for aten.linalg_matrix_exp" in pin.remedy
    assert [g.name for g in groups.groups] == ["b.weight"]


class Softmax(nn.Module):
    """Distribution focal loss: softmax over sixteen channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)).softmax(1))


def test_a_gain_of_computed_weights_goes_with_them() -> None:
    """The rows of the weight, their gains and the channels that they give are one thing."""
    groups = cc.analyze(build("StandardisedWeights"), example())
    (gain,) = [slot for slot in groups.slots if slot.tensor == "a.gain"]
    (group,) = [group for group in groups.groups if group.name == "a.weight"]
    assert gain.channels.tolist() == group.channels.tolist()
    assert not [pin for pin in groups.pins if pin.module == "a"]


class Started(nn.Module):
    """A recurrent layer from a state that the forward makes of zeros, and one that it then writes into."""

    def __init__(self, *, written: bool) -> None:
        super().__init__()
        self.written, self.a, self.gru, self.out = written, nn.Conv2d(3, 6, 1), nn.GRU(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        lines = self.a(x).mean(3).permute(2, 0, 1)
        state = torch.zeros(1, lines.shape[1], self.gru.hidden_size)
        if self.written:
            state[:, 1:] = 1.0
        return self.out(self.gru(lines, state)[0])


@pytest.mark.parametrize("front_end", ["export", "dispatch"])
def test_a_state_of_zeros_is_one_that_nothing_was_written_into(front_end: str) -> None:
    model = Started(written=False).eval()
    groups = cc.analyze(model, example(), tracer=front_end).groups
    assert {g.name: g.width for g in groups} == {"a.weight": 6, "gru.weight_ih_l0": 8}
    assert cc.prune(model, example(), keep=0.5, tracer=front_end).proof.passed
    groups = cc.analyze(Started(written=True).eval(), example(), tracer=front_end, probe=False).groups
    assert "gru.weight_ih_l0" not in {group.name for group in groups}


class Divided(nn.Module):
    """The first and the last of three pieces."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how, self.a, self.c = how, nn.Conv2d(3, width, 1), nn.Conv2d(4, 2, 1)
        first, _, last = getattr(torch, how)(torch.zeros(1, width), 3, dim=1)
        self.b = nn.Conv2d(first.shape[1] + last.shape[1], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, _, last = getattr(torch, self.how)(self.a(x), 3, dim=1)
        return self.c(F.relu(self.b(torch.cat([first, last], 1))))


@pytest.mark.parametrize("front_end", ["export", "dispatch"])
@pytest.mark.parametrize("how", ["chunk", "tensor_split"])
def test_unequal_pieces_of_a_division_stay(how: str, front_end: str) -> None:
    """16 channels in three pieces are 6, 5 and 5; of 13 they would be 5, 4 and 4, whichever went."""
    equal = cc.analyze(Divided(15, how).eval(), example(), tracer=front_end, probe=False).groups
    assert [(len(group.lanes), group.width) for group in equal] == [(3, 5), (1, 4)]
    unequal = cc.analyze(Divided(16, how).eval(), example(), tracer=front_end, probe=False).groups
    assert [(len(group.lanes), group.width) for group in unequal] == [(1, 4)]


class Quarters(nn.Module):
    """Pieces whose sizes are one number, taken from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.b(torch.cat(x.split([x.shape[1] // 4] * 4, 1)[::-1], 1))


@pytest.mark.parametrize("front_end", ["export", "dispatch"])
def test_pieces_of_one_size_keep_equal_shares(front_end: str) -> None:
    """A probe that takes one of two from each of them cannot tell."""
    (group,) = cc.analyze(Quarters().eval(), example(), tracer=front_end).groups
    assert (len(group.lanes), group.width) == (4, 2)


class ShuffledGroups(nn.Module):
    """Four groups of channels, normalised apart, and a shuffle of their halves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 16, 1), nn.Conv2d(40, 3, 1)
        self.norm, self.shuffle = nn.GroupNorm(4, 16), nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.c(torch.cat([x, F.relu(self.shuffle(self.norm(self.b(x))))], 1))


@pytest.mark.parametrize("front_end", ["export", "dispatch"])
def test_lanes_that_a_shuffle_brings_together_keep_the_same_positions(front_end: str) -> None:
    torch.manual_seed(0)
    model = ShuffledGroups().eval()
    _, group = cc.analyze(model, example(), tracer=front_end).groups
    assert (len(group.lanes), group.width) == (1, 4)
    assert cc.prune(model, example(), keep=0.5, importance="random", tracer=front_end).proof.passed


def test_all_mismatches_of_other_lanes_are_mended_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    found: list[int] = []
    replay, tightened = replaying.replay, replaying.tightened

    def counted(draft: Draft) -> list[Request]:
        requests = list(replay(draft))
        rounds.append(len(requests))
        assert all(isinstance(request, Bind) and request.check == "replay" for request in requests)
        return requests

    def noted(draft: Draft, problems: list[Mismatch]) -> list[Request]:
        found.append(len(problems))
        return tightened(draft, problems)

    stage = sys.modules["channelcut.coupling.couple"]
    monkeypatch.setattr(replaying, "tightened", noted)
    monkeypatch.setattr(stage, "CHEAP", (stage.equations, counted))
    model = nn.Sequential(*(ShuffledGroups() for _ in range(3))).eval()
    groups = cc.analyze(model, example(), probe=False).groups
    assert found == [3]
    assert rounds == [6, 0]  # the groups of each norm, and the halves of each shuffle
    assert [(len(g.lanes), g.width) for g in groups if g.name.endswith("b.weight")] == [(1, 4)] * 3


def test_to_bind_an_axis_costs_what_varies_not_the_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotary embedding takes every other element of each head, at thousands of positions."""
    heads = torch.arange(1, 13, dtype=torch.int32).reshape(3, 1, 4).expand(3, 5000, 4)
    handled: list[int] = []
    monkeypatch.setattr(I, "shrink", lambda a, b: handled.append((pair := shrink(a, b))[0].numel()) or pair)
    collector = Collector()
    Call(Node(0, "call", "some.op", None), {}, Graph((), {}, {}, False, "none"), 0, collector).bind_along(heads, 2)
    assert max(handled) == 3 * 3
    assert sorted(map(tuple, np.concatenate(collector.edges))) == [(b, b + i) for b in (1, 5, 9) for i in (1, 2, 3)]


def test_softmax_over_channels_pins_them() -> None:
    groups = cc.analyze(Softmax(), example())
    assert [g.name for g in groups.groups] == ["a.weight"]
    assert "every channel decides about the others" in [p.reason for p in groups.pins]


class Detached(nn.Module):
    """As in YOLO26: one head reads the features through detach, which autograd does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.many = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        return self.one(x.detach()), self.many(x)


def test_a_detached_branch_is_coupled() -> None:
    (group,) = cc.analyze(Detached(), example()).groups
    assert group.width == 8
    assert len(group.slots) == 4  # weight and bias of a, and both heads


def test_two_rules_for_one_op_fail_and_name_both() -> None:
    with pytest.raises(ValueError, match=r"Two rules for aten.conv2d: .*convolution.* and .*second"):

        @rule("aten.conv2d")
        def second(call: object) -> None: ...

    assert rules()["aten.conv2d"].__qualname__ == "convolution"


def test_the_users_model_is_untouched() -> None:
    model = build("C2f").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {name: set(vars(m)) for name, m in model.named_modules()}
    cc.prune(model, example(), keep=0.5, calibration=torch.randn(8, 3, 16, 16))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert attributes == {name: set(vars(m)) for name, m in model.named_modules()}


def test_groups_print_as_a_table() -> None:
    text = str(cc.analyze(build("C2f"), example()))
    assert "3 groups, 42 removable channels, 1 pins" in text
    assert "24 channels in 2 lanes  cv1.0.weight" in text
    assert "pinned: network output (1 places)" in text


class MaskedTokens(nn.Module):
    """Tokens times a mask of one number for each, which is a buffer: its elements look like channels of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.p, self.h = nn.Conv2d(3, 32, 1), nn.Linear(32, 32), nn.Linear(32, 4)
        self.register_buffer("mask", torch.ones(1, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.p(self.mask * self.a(x).flatten(2).transpose(1, 2)))


class TwoSources(nn.Module):
    """Masks of two sources times one encoding: what varies along the sources does so no more once they are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.m, self.d = nn.Conv1d(1, 32, 16, 8), nn.Conv1d(32, 64, 1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        e = self.e(x)
        m = self.m(e).view(1, 2, -1, e.shape[-1])
        return self.d((m * e.unsqueeze(1)).flatten(0, 1).transpose(1, 2))


@pytest.mark.parametrize(("model", "x"), [(MaskedTokens(), example()), (TwoSources(), torch.rand(1, 1, 160))])
def test_a_rule_goes_the_same_way_once_channels_are_joined(model: nn.Module, x: Tensor) -> None:
    """Else the replay would look for slots that were never made."""
    groups = cc.analyze(model.eval(), x)
    known = {reasons.MIXES_OTHER_AXIS.text, reasons.ONE_FOR_ALL.text}
    assert groups.groups or known & {pin.reason for pin in groups.pins}
    if groups.groups:
        assert cc.prune(model, x, keep=0.5).proof.passed
