"""Rules broken on purpose: the proof must see every one of them, so that a rule that is wrong by mistake is seen too.

The probe is off for that: it would often pin what a broken rule gets wrong, and the proof would have nothing to catch.
With the probe on, whatever is returned must still be right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, build, example
from random_check import difference
from torch import Tensor, nn

import channelcut as cc
from channelcut.core import reasons
from channelcut.core.graph import Graph
from channelcut.core.groups import Role
from channelcut.core.reasons import Reason
from channelcut.coupling.collect import Collector
from channelcut.coupling.facts import Run
from channelcut.ops.call import Call
from channelcut.ops.registry import OPS, op

Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]


class Tiny(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], wide: int = 8, left: int | None = None) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, wide, 3), nn.Conv2d(left or wide, 6, 1), nn.Conv2d(6, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.between(self.a(x)))))


class Joined(nn.Module):
    """Unequal widths, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(14, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x), self.b(x).tanh()], 1))


class Normed(nn.Module):
    """Groups of channels, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 1), nn.GroupNorm(4, 16), nn.Conv2d(16, 2, 1)
        nn.init.uniform_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.norm(self.a(x))))


class Embedded(nn.Module):
    """A position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.position = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Parameter(torch.randn(1, 8, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x) + self.position))


TINY: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: Tiny(lambda x: x.softmax(1)),
    "argmax": lambda: Tiny(lambda x: x + x.argmax(1, keepdim=True)),
    "cummax": lambda: Tiny(lambda x: torch.cummax(x, 1).values),
    "logsumexp": lambda: Tiny(lambda x: x - x.logsumexp(1, keepdim=True)),
    "slice": lambda: Tiny(lambda x: x[:, 2:], left=6),
    "repeat": lambda: Tiny(lambda x: x.repeat(1, 2, 1, 1), left=16),
    "constant": lambda: Tiny(lambda x: x + torch.arange(8, dtype=x.dtype).view(1, 8, 1, 1)),
    "joined": Joined,
    "embedded": Embedded,
    "normed": Normed,
}


def network(name: str) -> nn.Module:
    if name in NETWORKS:
        return build(name)
    torch.manual_seed(1)
    return TINY[name]().eval()


def rewrite(patch: Patch, ops: str, rule: Callable[[Any, Call], Any]) -> None:
    """Replace rules by `rule(original, call)`; what else is known of the ops stays."""
    for name in [f"aten.{name}" for name in ops.split()]:
        patch.setitem(OPS, name, replace(op(name), rule=partial(rule, op(name).rule)))


def with_argument(call: Call, name: str, value: Any) -> Call:
    return replace(call, arguments={**call.arguments, name: value})


# These change the host that collects, and not the one that checks, which gets to see what a wrong rule has said.


def shift_slots(patch: Patch, wanted: Callable[[str, Role], bool]) -> None:
    """Slots of (tensor, role) follow the channels one position off."""
    original = Collector.slot

    def slot(self: Collector, call: Call, stored: Any, extent: int, ids: Tensor | None, role: Role) -> Tensor:
        if not wanted(stored.name, role):
            return original(self, call, stored, extent, ids, role)
        if ids is None:
            return original(self, call, stored, extent, None, role).roll(1)
        return original(self, call, stored, extent, ids.roll(1), role)

    patch.setattr(Collector, "slot", slot)


def forget_pins(patch: Patch, reason: Reason) -> None:
    """Whatever a run pins for this reason is free: what rules pin, outputs, and partners in a binding."""
    original = Collector.run

    def run(self: Collector, number: int, graph: Graph, free_outputs: Any = ()) -> Run:
        found = original(self, number, graph, free_outputs)
        self.pins = [pin for pin in self.pins if pin.reason is not reason]
        return found

    patch.setattr(Collector, "run", run)


def unbound(original: Any, call: Call) -> Any:
    """A rule that binds nothing."""

    def passed(self: Collector, call: Call, a: Tensor, b: Tensor, reason: Any) -> Tensor:
        return a.expand(torch.broadcast_shapes(a.shape, b.shape))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collector, "bind_equal", lambda self, call, pieces, axis: None)
        patch.setattr(Collector, "bind", passed)
        return original(call)


def concat_order_swapped(patch: Patch) -> None:
    rewrite(patch, "cat", lambda o, call: o(with_argument(call, "tensors", call["tensors"][::-1])))


def chunk_pieces_swapped(patch: Patch) -> None:
    rewrite(patch, "chunk split split_with_sizes", lambda o, call: o(call)[::-1])


def sum_not_bound(patch: Patch) -> None:
    rewrite(patch, "add add_", unbound)


def product_not_bound(patch: Patch) -> None:
    rewrite(patch, "mul", unbound)


def contraction_not_bound(patch: Patch) -> None:
    rewrite(patch, "matmul bmm", unbound)


def depthwise_shifted(patch: Patch) -> None:
    def rule(original: Any, call: Call) -> Any:
        ids = original(call)
        return ids.roll(1, 1) if call["groups"] > 1 else ids

    rewrite(patch, "conv2d convolution", rule)


def grouped_reads_the_next_group(patch: Patch) -> None:
    def rule(original: Any, call: Call) -> Any:
        ids = call.ids("input")
        return original(with_argument(call, "input", ids.roll(ids.shape[1] // call["groups"], 1)))

    rewrite(patch, "conv2d convolution", lambda o, c: rule(o, c) if c["groups"] > 1 else o(c))


def flatten_repeats_as_a_whole(patch: Patch) -> None:
    def rule(original: Any, call: Call) -> Any:
        ids = call.ids("self")
        if ids.dim() == 4 and len(call.shape) == 2:
            return ids[0, :, 0, 0].repeat(ids.shape[2] * ids.shape[3]).expand(call.shape)
        return original(call)

    rewrite(patch, "flatten view reshape _unsafe_view", rule)


def pixel_shuffle_transposed(patch: Patch) -> None:
    def rule(original: Any, call: Call) -> Any:
        square = call["upscale_factor"] ** 2
        ids = call.ids("self").unflatten(1, (square, -1)).transpose(1, 2).flatten(1, 2)
        return original(with_argument(call, "self", ids))

    rewrite(patch, "pixel_shuffle", rule)


def running_mean_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: name.endswith("running_mean"))


def running_variance_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: name.endswith("running_var"))


def bias_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: role is Role.BIAS)


def inputs_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: role is Role.IN)


def slope_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: name == "slope.weight")


def gamma_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: name == "gamma")


def position_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: name == "position")


def layer_norm_shifted(patch: Patch) -> None:
    shift_slots(patch, lambda name, role: name.startswith("ln."))


def second_use_not_bound(patch: Patch) -> None:
    original = Collector.slot

    def slot(self: Collector, call: Call, stored: Any, extent: int, ids: Tensor | None, role: Role) -> Tensor:
        known = (stored.name, stored.axis) in self.slots
        return original(self, call, stored, extent, None if known else ids, role)

    patch.setattr(Collector, "slot", slot)


def softmax_passed(patch: Patch) -> None:
    rewrite(patch, "softmax _softmax", lambda o, call: call.ids("self"))


def argmax_not_pinned(patch: Patch) -> None:
    forget_pins(patch, reasons.DECIDE_ABOUT_OTHERS)


def reduction_over_channels_not_pinned(patch: Patch) -> None:
    rewrite(patch, "logsumexp", lambda o, call: call.fixed())


def unknown_op_passed(patch: Patch) -> None:
    rewrite(patch, "cummax", lambda o, call: (call.ids("self"), call.ids("self")))


def output_not_pinned(patch: Patch) -> None:
    forget_pins(patch, reasons.OUTPUT)


def slice_not_pinned(patch: Patch) -> None:
    forget_pins(patch, reasons.HARD_CODED_POSITION)


def fixed_partner_not_pinned(patch: Patch) -> None:
    forget_pins(patch, reasons.FIXED_TENSOR)


def transpose_not_permuted(patch: Patch) -> None:
    rewrite(patch, "transpose permute", lambda o, call: call.ids("self").reshape(call.shape))


def repeat_interleaved(patch: Patch) -> None:
    rewrite(patch, "repeat", lambda o, call: call.ids("self").repeat_interleave(call["repeats"][1], 1))


def norm_groups_not_equal(patch: Patch) -> None:
    rewrite(patch, "group_norm native_group_norm", unbound)


def attention_not_bound(patch: Patch) -> None:
    rewrite(patch, "scaled_dot_product_attention", unbound)


def default_scale_not_pinned(patch: Patch) -> None:
    forget_pins(patch, reasons.DEFAULT_SCALE)


MUTATIONS: list[tuple[Mutation, str]] = [
    (concat_order_swapped, "joined"),
    (concat_order_swapped, "C2f"),
    (chunk_pieces_swapped, "C2f"),
    (sum_not_bound, "Residual"),
    (product_not_bound, "Squeeze"),
    (contraction_not_bound, "Attention"),
    (depthwise_shifted, "Depthwise"),
    (grouped_reads_the_next_group, "Grouped"),
    (flatten_repeats_as_a_whole, "Flattened"),
    (pixel_shuffle_transposed, "Transposed"),
    (running_mean_shifted, "Chain"),
    (running_variance_shifted, "Chain"),
    (bias_shifted, "Attention"),
    (inputs_shifted, "Chain"),
    (bias_shifted, "Recurrent"),
    (inputs_shifted, "Recurrent"),
    (slope_shifted, "Norms"),
    (gamma_shifted, "Shared"),
    (position_shifted, "embedded"),
    (layer_norm_shifted, "Norms"),
    (second_use_not_bound, "Shared"),
    (softmax_passed, "softmax"),
    (argmax_not_pinned, "argmax"),
    (reduction_over_channels_not_pinned, "logsumexp"),
    (unknown_op_passed, "cummax"),
    (output_not_pinned, "Chain"),
    (slice_not_pinned, "slice"),
    (fixed_partner_not_pinned, "constant"),
    (transpose_not_permuted, "Shuffle"),
    (repeat_interleaved, "repeat"),
    (norm_groups_not_equal, "normed"),
    (attention_not_bound, "SharedKeys"),
    (default_scale_not_pinned, "FusedAttention"),
]

# What these leave unbound, or bind one off, other rules need: the replay finds that no selection fits, and that no pin
# would mend it, so that the rule itself is refused. None returns another shape, which would be a RuleError as well.
CONTRADICTIONS = (
    sum_not_bound,
    product_not_bound,
    contraction_not_bound,
    attention_not_bound,
    second_use_not_bound,
    bias_shifted,
    slope_shifted,
    gamma_shifted,
    running_mean_shifted,
    running_variance_shifted,
    inputs_shifted,
    position_shifted,
    layer_norm_shifted,
)


@pytest.mark.parametrize("front_end", ["export", "dispatch"])
@pytest.mark.parametrize("name", sorted({name for _, name in MUTATIONS}))
def test_unbroken_rules_are_proven(name: str, front_end: str, monkeypatch: Patch) -> None:
    """So that the refusals below are of the mutation."""
    result = cc.prune(network(name), example(), keep=0.5, tracer=front_end, probe=False)
    assert result.proof.passed
    assert result.plan.after.params < result.plan.before.params


@pytest.mark.parametrize("front_end", ["export", "dispatch"])
@pytest.mark.parametrize(("mutation", "name"), MUTATIONS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_broken_rule_is_caught(mutation: Mutation, name: str, front_end: str, monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    model = network(name)
    try:
        result = cc.prune(model, example(), keep=0.5, tracer=front_end, probe=False, grouped="groups")
    except cc.ProofError:
        return
    except cc.RuleError as error:
        assert mutation in CONTRADICTIONS
        assert "The coupling contradicts itself" in str(error)
        return
    except cc.UserError as error:  # the replay met what does not fit, and of a small network nothing else is left
        assert reasons.ORDER.text in str(error)
        return
    # Or the replay met what does not fit, and these channels stay.
    assert reasons.ORDER.text in {pin.reason for pin in result.groups.pins}
    error = difference(model, result, (example(seed=3),), masks=True)
    assert error is not None
    assert error < 1e-9


@pytest.mark.parametrize(("mutation", "name"), MUTATIONS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_with_the_probe_nothing_wrong_is_returned(mutation: Mutation, name: str, monkeypatch: Patch) -> None:
    """The probe may pin what the rule got wrong; then the cut is smaller, and right."""
    mutation(monkeypatch)
    model = network(name)
    try:
        result = cc.prune(model, example(), keep=0.5)
    except (cc.ProofError, cc.UserError) as error:
        assert str(error)
        return
    except cc.RuleError as error:
        assert mutation in CONTRADICTIONS
        assert "The coupling contradicts itself" in str(error)
        return
    error = difference(model, result, (example(seed=3),), masks=name != "Norms")
    assert error is None if name == "Norms" else error is not None and error < 1e-9
