"""Golden analyses: what is found in every network of `networks.py`, channel by channel, as a file that one can read.

    pytest tests/test_golden.py --update-golden

writes the files in `golden/` anew; the diff is what a change to a rule has changed.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from golden_text import text_of
from networks import NETWORKS, build, example

import channelcut as cc

GOLDEN = Path(__file__).parent / "golden"


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


def test_every_golden_file_has_its_network() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(NETWORKS)
