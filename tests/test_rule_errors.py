"""A wrong rule is told what is wrong with it: an error that names the rule, never a pin or a word about the model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.errors import RuleError
from channelcut.ops.registry import OPS

GATE = "channelcut_rule_errors.gate"
PARTS = "channelcut_rule_errors.parts"
TRACERS = ("dispatch", "export")


@torch.library.custom_op("channelcut_rule_errors::gate", mutates_args=())
def gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * torch.sigmoid(b)


@gate.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2, *x.shape[2:])


@torch.library.custom_op("channelcut_rule_errors::parts", mutates_args=())
def parts(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x.chunk(2, 1)
    return a.clone(), b.clone()


@parts.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.new_empty(x.shape[0], x.shape[1] // 2, *x.shape[2:])
    return half, torch.empty_like(half)


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return gate(x)  # the line that an error names


class Parts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = parts(x)
        return a + b


def network(middle: nn.Module | None = None) -> nn.Module:
    layers = (nn.Conv2d(3, 16, 3), middle or Gate(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1))
    return nn.Sequential(*layers).eval()


def inputs() -> Tensor:
    return torch.randn(1, 3, 16, 16)


@pytest.fixture(autouse=True)
def same_rules_afterwards() -> Iterator[None]:
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def right(call: cc.Call) -> Any:
    a, b = call.ids("x").chunk(2, 1)
    return call.bind(a, b)


def wrong_shape(call: cc.Call) -> Any:
    return call.ids("x")


def wrong_dimensions(call: cc.Call) -> Any:
    return right(call).flatten(2)


def nothing(call: cc.Call) -> Any:
    right(call)


def an_array(call: cc.Call) -> Any:
    return right(call).numpy()


def floats(call: cc.Call) -> Any:
    return right(call).float()


def made_up(call: cc.Call) -> Any:
    return right(call) + 1_000_000


def negative(call: cc.Call) -> Any:
    return -right(call)


def without_values(call: cc.Call) -> Any:
    return right(call).to("meta")


def two_for_one(call: cc.Call) -> Any:
    return right(call), right(call)


def wrong_name(call: cc.Call) -> Any:
    return call.ids("input")


def no_parameter(call: cc.Call) -> Any:
    call.slot(call.ids("x"), 0, None, "param")
    return right(call)


def bug(call: cc.Call) -> Any:
    raise TypeError("unsupported operand")


def bug_when_narrow(call: cc.Call) -> Any:
    if call.ids("x").shape[1] < 16:
        raise ValueError("my rule has a bug for other widths")
    return right(call)


def wrong_shape_when_narrow(call: cc.Call) -> Any:
    return right(call) if call.ids("x").shape[1] == 16 else None


WRONG: dict[Callable[..., Any], str] = {
    wrong_shape: r"gave ids of shape \(1, 16, 14, 14\) for an output of shape \(1, 8, 14, 14\)",
    wrong_dimensions: r"gave ids of shape \(1, 8, 196\) for an output of shape \(1, 8, 14, 14\)",
    nothing: r"gave \S*None",
    an_array: r"gave .*(numpy|ndarray)",
    floats: r"gave .*float32",
    made_up: "gave numbers that are no ids",
    negative: "gave numbers that are no ids",
    without_values: "gave numbers that are no ids",
    two_for_one: r"gave .* for an output of shape \(1, 8, 14, 14\)",
    wrong_name: r"raised KeyError: 'input'",
    no_parameter: r"raised TypeError: only parameters and buffers have slots",
    bug: r"raised TypeError: unsupported operand",
    bug_when_narrow: r"raised ValueError: my rule has a bug for other widths",
    wrong_shape_when_narrow: r"gave \S*None",
}


def test_the_right_rule_is_proven() -> None:
    cc.rule(GATE)(right)
    result = cc.prune(network(), inputs(), keep=0.5)
    assert result.proof.passed
    assert result.model[0].out_channels == 8


@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("function", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_rule_is_an_error_that_names_it(function: Callable[..., Any], tracer: str) -> None:
    """Its name, its file and line, the op, the place in the model, its line, and what the rule was given."""
    cc.rule(GATE)(function)
    with pytest.raises(RuleError, match=WRONG[function]) as caught:
        cc.analyze(network(), inputs(), tracer=tracer)
    text = str(caught.value)
    first = inspect.getsourcelines(function)[1]
    line = inspect.getsourcelines(Gate)[1] + 2
    assert function.__name__ in text
    assert f"test_rule_errors.py:{first}" in text
    assert GATE in text
    assert re.search(rf"in 1 \(\S*test_rule_errors\.py:{line}\)", text)
    assert re.search(r"x: ids of shape \(1, \d+, 14, 14\)", text)
    assert "\n" not in text


@pytest.mark.parametrize("function", WRONG, ids=lambda f: f.__name__)
def test_it_is_no_error_of_the_user_and_comes_once(function: Callable[..., Any]) -> None:
    """`prune` does not try again: it starts one stage after another, and none twice."""
    cc.rule(GATE)(function)
    stages: list[str] = []
    with pytest.raises(RuleError) as caught:
        cc.prune(network(), inputs(), keep=0.5, progress=lambda stage, done, total: stages.append(f"{stage} {done}"))
    assert not isinstance(caught.value, cc.UserError)
    assert len(stages) == len(set(stages))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda call: call.ids("x"), r"gave ids of shape .* for 2 outputs"),
        (lambda call: (call.ids("x").chunk(2, 1)[0],), r"for 2 outputs"),
        (lambda call: call.ids("x").chunk(4, 1)[:3], r"for 2 outputs"),
        (lambda call: (call.ids("x").chunk(2, 1)[0], None), r"gave .*None"),
    ],
    ids=["one", "too few", "too many", "none of them"],
)
def test_so_is_a_wrong_number_of_outputs(function: Callable[..., Any], message: str) -> None:
    cc.rule(PARTS)(function)
    with pytest.raises(RuleError, match=message):
        cc.analyze(network(Parts()), inputs())


def test_what_caused_it_is_kept() -> None:
    cc.rule(GATE)(bug)
    with pytest.raises(RuleError) as caught:
        cc.analyze(network(), inputs())
    assert isinstance(caught.value.__cause__, TypeError)
    assert caught.value.__cause__.__traceback__ is not None
