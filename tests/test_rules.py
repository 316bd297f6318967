"""Rules of one's own: pinned before, free and proven after, refused where wrong; the pages in docs/ are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import example
from torch import Tensor, nn

import channelcut as cc
from channelcut.ops.registry import RULES
from channelcut.ops.table import page

DOCS = Path(__file__).parent.parent / "docs"
FRONT_ENDS = ("dispatch", "export")


@pytest.fixture(autouse=True)
def same_rules_afterwards() -> Iterator[None]:
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


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


def follow(coupler: cc.Coupler, call: cc.Call) -> Any:
    """y = x + offset."""
    line = call.line("x", 1)
    assert line is not None
    coupler.slot(call["offset"], 0, line, "param")
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
    cc.rule("channelcut_tests.turned")(lambda coupler, call: call.ids("x"))
    with pytest.raises(cc.ProofError, match="could not be proven"):
        cc.prune(network(Turned()), example(), keep=0.5)
    RULES["channelcut_tests.turned"] = lambda coupler, call: call.ids("x").flip(1)
    assert cc.prune(network(Turned()), example(), keep=0.5).proof.passed


def test_line_is_none_where_channels_vary_along_another_axis() -> None:
    found = []
    before = RULES["aten.linear"]

    def spy(coupler: cc.Coupler, call: cc.Call) -> Any:
        found.append((call.line("input", -1), call.line("input", 1)))
        return before(coupler, call)

    RULES["aten.linear"] = spy
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
    assert set(re.findall(r"`([\w.]+?)`", text)) >= {op for op in RULES if not op.startswith("channelcut_tests")}


def test_public_names_of_rules_are_those_of_the_package() -> None:
    from channelcut.coupling import collect
    from channelcut.ops import registry

    assert (cc.rule, cc.Call, cc.Coupler) == (registry.rule, registry.Call, collect.Coupler)
    assert {"rule", "Call", "Coupler"} <= set(cc.__all__)
