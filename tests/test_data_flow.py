"""Calls run the way imports do: in one `prune`, no stage calls into an earlier one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from networks import build, example

import channelcut as cc

PACKAGE = str(Path(cc.__file__).parent) + "/"
STAGES = "tracing coupling scoring allocation cutting proof recovery".split()


def calls_of(function: Callable[[], Any]) -> set[tuple[str, str]]:
    """The files of the package, relative to it, that call each other while a function runs.

    What runs between two files of the package, such as torch calling a mode of ours, is left out: the file that stands
    next above on the stack counts as the caller.
    """
    found: set[tuple[str, str]] = set()

    def ours(frame: Any) -> bool:
        return (
            frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code.co_name != "<module>"
        )  # an import is no call

    def note(frame: Any, event: str, argument: Any) -> None:
        if event != "call" or not ours(frame):
            return
        caller = frame.f_back
        while caller is not None and not ours(caller):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != frame.f_code.co_filename:
            found.add((caller.f_code.co_filename[len(PACKAGE) :], frame.f_code.co_filename[len(PACKAGE) :]))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return found


def backward(calls: set[tuple[str, str]], stages: list[str]) -> list[str]:
    """Those from a stage into an earlier one; what is no stage (core, ops, cost, the entry files) has no place."""
    place = {stage: number for number, stage in enumerate(stages)}
    return sorted(
        f"{caller} calls {callee}"
        for caller, callee in calls
        if place.get(callee.partition("/")[0], len(stages)) < place.get(caller.partition("/")[0], -1)
    )


def test_no_stage_calls_into_an_earlier_one() -> None:
    model = build("C2f")
    assert not backward(calls_of(lambda: cc.prune(model, example(), keep=0.5)), STAGES)


def test_a_backward_call_is_seen() -> None:
    calls = {
        ("proof/prover.py", "tracing/dispatch.py"),
        ("proof/prover.py", "ops/ids.py"),
        ("api.py", "proof/prover.py"),
    }
    assert backward(calls, STAGES) == ["proof/prover.py calls tracing/dispatch.py"]
