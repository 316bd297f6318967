"""Golden analyses: what is found in every network of `networks.py`, channel by channel, as a file that one can read.

    pytest tests/test_golden.py --update-golden

writes the files in `golden/` anew; the diff is what a change to a rule has changed.

Some networks are here for one line of the analysis, which was broken once to see them red:

- ShuffledThirds, NarrowShuffle: more than one selection is tried, and every two lanes both ways (coupling.replay);
- EqualHalves: equations between two lanes come before longer ones (coupling.system);
- QuarterOfTen: a number that does not hold before a cut says nothing of one after it (coupling.system);
- CountedThirds: counts of lanes are exact (coupling.lanes);
- BorrowedWidth: the probe takes other steps in every group (coupling.probe);
- TwoChannels: an axis with one channel left is still that axis (ops.call);
- Stacked, Rolled, SharesOfChannels, Patches, and Norms by torch.export: a bind, two pins, an order, a slot.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest
from golden_text import text_of
from networks import NETWORKS, build, example

import channelcut as cc

GOLDEN = Path(__file__).parent / "golden"
# torch.export does not show where a size comes from, so that the probe pins what recorded numbers let follow; and it
# unrolls a recurrent layer.
EXPORT_DIFFERS = set(
    "CountedThirds WholeHeads HandWrittenHeads HardCoded SlicedBySelf ConfiguredHeads OwnNorm Closure Recurrent".split()
)


@pytest.mark.parametrize("name", NETWORKS)
def test_analysis_is_the_golden_one(name: str, request: pytest.FixtureRequest) -> None:
    model = build(name)
    found = text_of(model, cc.analyze(model, example()))
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(found, encoding="utf-8")
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    if found != expected:
        lines = difflib.unified_diff(
            expected.splitlines(), found.splitlines(), f"golden/{name}.txt", "found", n=2, lineterm=""
        )
        pytest.fail("the analysis has changed (if it should: --update-golden)\n" + "\n".join(lines), pytrace=False)


def groups_in(text: str) -> list[str]:
    """The groups without the roles of slots, which depend on the op that reads them (a PReLU is one op or several)."""
    parts = [part for part in text.strip().split("\n\n") if part.startswith("group ")]
    return [re.sub(r"(\[\d+\]) [a-z]+:", r"\1:", part) for part in parts]


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - EXPORT_DIFFERS))
def test_torch_export_finds_the_same_groups(name: str) -> None:
    """It names other ops, such as conv2d, prelu and layer_norm, which have rules that recording never runs."""
    model = build(name)
    found = text_of(model, cc.analyze(model, example(), tracer="export"))
    assert groups_in(found) == groups_in((GOLDEN / f"{name}.txt").read_text(encoding="utf-8"))


def test_every_golden_file_has_its_network() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(NETWORKS)
