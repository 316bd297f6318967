"""Rules of one's own: pinned before, free and proven after, refused where wrong; the pages in docs/ are true."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import example
from torch import Tensor, nn

import channelcut as cc
from channelcut.core import reasons
from channelcut.ops.registry import OPS, Op, rules
from channelcut.ops.table import page

DOCS = Path(__file__).parent.parent / "docs"
FRONT_ENDS = ("dispatch", "export")


@pytest.fixture(autouse=True)
def same_rules_afterwards() -> Iterator[None]:
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


@torch.library.custom_op("channelcut_tests::shift", mutates_args=())
def shift(x: Tensor, offset: Tensor) -> Tensor:
    return x + offset.view(1, -1, 1, 1)


@shift.register_fake
def _(x: Tensor, offset: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("channelcut_tests::turned", mutates_args=())
def turned(x: Tensor) -> Tensor:
    return x.flip(1)


class Shift(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return shift(x, self.offset)


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return turned(x)


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3), middle, nn.Conv2d(12, 4, 1)).eval()


def follow(call: cc.Call) -> Any:
    """y = x + offset."""
    line = call.line("x", 1)
    assert line is not None
    call.slot(call["offset"], 0, line, "param")
    return call.along(line, 1)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_an_op_of_ones_own_is_pinned_then_free_and_proven(front_end: str) -> None:
    model = network(Shift(12))
    before = cc.analyze(model, example(), tracer=front_end)
    assert not before.groups
    (pin,) = [pin for pin in before.pins if pin.op == "channelcut_tests.shift"]
    assert pin.remedy == "register a rule for channelcut_tests.shift (see docs/rules.md)"
    cc.rule("channelcut_tests.shift")(follow)
    result = cc.prune(model, example(), keep=0.5, tracer=front_end)
    assert result.proof.passed
    assert result.model[1].offset.shape == (6,)
    assert not [pin for pin in result.groups.pins if pin.op == "channelcut_tests.shift"]


def test_two_rules_for_one_op_are_an_error_that_names_both() -> None:
    cc.rule("channelcut_tests.shift")(follow)
    with pytest.raises(ValueError, match=r"Two rules for channelcut_tests\.shift: test_rules\.follow and test_rules"):
        cc.rule("channelcut_tests.shift")(follow)


def test_a_wrong_rule_is_refused_by_the_proof() -> None:
    """The op turns the channels around; the rule says that it leaves them where they are."""
    cc.rule("channelcut_tests.turned")(lambda call: call.ids("x"))
    with pytest.raises(cc.ProofError, match="could not be proven"):
        cc.prune(network(Turned()), example(), keep=0.5)
    OPS["channelcut_tests.turned"] = Op("channelcut_tests.turned", lambda call: call.ids("x").flip(1))
    assert cc.prune(network(Turned()), example(), keep=0.5).proof.passed


def test_line_is_none_where_channels_vary_along_another_axis() -> None:
    found = []
    before = rules()["aten.linear"]

    def spy(call: cc.Call) -> Any:
        found.append((call.line("input", -1), call.line("input", 1)))
        return before(call)

    OPS["aten.linear"] = replace(OPS["aten.linear"], rule=spy)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2), nn.Linear(256, 5), nn.Linear(5, 2)).eval()
    cc.analyze(model, example(), tracer="export", probe=False)
    (last, first), *_ = found
    assert last is None
    assert first is not None and first.shape == (4,) and len(first.unique()) == 4


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_python_of_a_page_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of a page are one program."""
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.S)
    room: dict[str, Any] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, path.name, "exec"), room)  # noqa: S102  the page's own code
    if path.name == "rules.md":
        assert len(blocks) == 4
        out = capsys.readouterr().out
        assert "0 groups, 0 removable" in out and "1 groups, 16 removable" in out and "hard-codes this width" in out


def test_links_between_pages_lead_somewhere() -> None:
    root = DOCS.parent
    for path in [*DOCS.glob("*.md"), root / "README.md", root / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} points to {target}"


def test_the_list_of_ops_is_the_table_of_rules() -> None:
    assert (DOCS / "ops.md").read_text() == page(), "python -m channelcut.ops.table > docs/ops.md"


def test_the_list_of_ops_has_every_op_and_no_rule_of_others() -> None:
    cc.rule("channelcut_tests.shift")(follow)
    text = page()
    assert "channelcut_tests" not in text
    assert set(re.findall(r"`([\w.]+?)`", text)) >= {op for op in rules() if not op.startswith("channelcut_tests")}


def test_the_list_of_pins_is_the_table_of_reasons() -> None:
    assert (DOCS / "pins.md").read_text() == reasons.page(), "python -m channelcut.core.reasons > docs/pins.md"


def test_every_reason_is_in_the_list_with_its_meaning_and_a_remedy() -> None:
    found = reasons.REASONS
    assert len({r.text for r in found}) == len(found) > 40
    for reason in found:
        assert reason.meaning and reason.remedy and reason.family in reasons.FAMILIES
        assert f"| {reason.text} | {reason.meaning} | {reason.remedy} |\n" in reasons.page()


def test_public_names_of_rules_are_those_of_the_package() -> None:
    from channelcut.core import errors
    from channelcut.ops import call, pointwise, registry

    assert (cc.rule, cc.Call, cc.RuleError) == (registry.rule, call.Call, errors.RuleError)
    assert (cc.pointwise, cc.elementwise) == (pointwise.pointwise, pointwise.elementwise)
    assert {"rule", "Call", "RuleError", "pointwise", "elementwise"} <= set(cc.__all__)


@torch.library.custom_op("channelcut_tests::act", mutates_args=())
def act(x: Tensor) -> Tensor:
    return x.tanh() + 0.5


@torch.library.custom_op("channelcut_tests::gated", mutates_args=())
def gated(x: Tensor, y: Tensor) -> Tensor:
    return x * y.sigmoid()


@act.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@gated.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


class Common(nn.Module):
    """An op of one tensor, and one of two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(gated(act(self.a(x)), self.b(x)))


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_common_kinds_of_ops_need_one_line(front_end: str) -> None:
    torch.manual_seed(0)
    model = Common().eval()
    assert not cc.analyze(model, example(), tracer=front_end).groups
    cc.pointwise("channelcut_tests.act")
    cc.elementwise("channelcut_tests.gated")
    result = cc.prune(model, example(), keep=0.5, tracer=front_end)
    (group,) = result.groups.groups
    assert result.proof.passed and len(group.slots) == 5  # two layers that go together, and the one that reads them
    assert "channelcut_tests" not in page()
    with pytest.raises(ValueError, match=r"Two rules for channelcut_tests\.act: channelcut\.ops\.pointwise\.unary"):
        cc.elementwise("channelcut_tests.act")


def raising(call: cc.Call) -> Any:
    return call["no such argument"]


def slot_of_an_activation(call: cc.Call) -> Any:
    return call.slot(call["x"], 0, None, "param")


NONSENSE: dict[str, tuple[Callable[[cc.Call], Any], str]] = {
    "raises": (raising, r"\(raising, test_rules\.py:\d+\) raised KeyError: 'no such argument'"),
    "slot of an activation": (slot_of_an_activation, "raised TypeError: only parameters and buffers have slots"),
    "unknown role": (lambda call: call.slot(call["offset"], 0, None, "weight"), "raised ValueError: 'weight' is not"),
    "unknown axis": (lambda call: call.ids("x").select(7, 0), "raised IndexError"),
    "nothing": (lambda call: None, r"gave None for an output of shape \(2, 12, 14, 14\)"),
    "no ids": (lambda call: call.shape, "gave .*int"),
    "several": (lambda call: (call.ids("x"),) * 2, r"gave \(ids of shape \(2, 12, 14, 14\), ids"),
    "another shape": (lambda call: call.ids("x")[:, :6], r"gave ids of shape \(2, 6, 14, 14\) for an output of shape"),
    "fewer axes": (lambda call: call.ids("x")[0], r"gave ids of shape \(12, 14, 14\)"),
    "numbers": (lambda call: call.ids("x").double(), "gave ids of shape"),
    "a parameter": (lambda call: call["offset"], "gave the parameter 1.offset of shape"),
    "unequal operands": (lambda call: call.bind(call.ids("x"), call.ids("x")[:, :6]), "raised ValueError"),
    "another size": (lambda call: call.reshaped(call.ids("x"), 5, -1), "raised RuntimeError: shape"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_from_a_rule_is_an_error_that_names_it(name: str) -> None:
    rule, problem = NONSENSE[name]
    cc.rule("channelcut_tests.shift")(rule)
    with pytest.raises(cc.RuleError, match=problem) as raised:
        cc.analyze(network(Shift(12)), example())
    text = str(raised.value)
    assert text.startswith("The rule for channelcut_tests.shift (") and "test_rules.py:" in text.partition(")")[0]
    assert "at channelcut_tests.shift in 1 (" in text
    assert "x: ids of shape (2, 12, 14, 14), offset: the parameter 1.offset of shape (12,)" in text
    assert not isinstance(raised.value, cc.UserError)


def test_a_rule_that_breaks_on_fewer_ids_is_an_error_and_no_pin() -> None:
    """It takes twelve channels for granted, which the replay, on fewer, does not have."""

    def counting(call: cc.Call) -> Any:
        return call.ids("x").unflatten(1, (12, 1)).flatten(1, 2)

    cc.rule("channelcut_tests.turned")(counting)
    with pytest.raises(cc.RuleError, match=r"counting, test_rules\.py:\d+\) raised RuntimeError: .*\b7\b") as raised:
        cc.analyze(network(Turned()), example(), probe=False)
    assert "rules run again on what a selection keeps, with fewer ids" in str(raised.value)


def test_a_misfit_of_the_selection_is_no_error_of_the_rule() -> None:
    """The same through `call.reshaped`: these sizes are the op's, so that it is the channels that stay."""

    def in_twelves(call: cc.Call) -> Any:
        return call.reshaped(call.ids("x"), 2, 12, 14, 14)

    cc.rule("channelcut_tests.turned")(in_twelves)
    groups = cc.analyze(network(Turned()), example(), probe=False)
    assert not groups.groups
    assert reasons.ORDER.text in {pin.reason for pin in groups.pins if pin.op == "channelcut_tests.turned"}
    assert ("replay", "pin") in {(finding.check, finding.effect) for finding in groups.findings}
