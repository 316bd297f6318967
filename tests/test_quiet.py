"""Silence is of one thread: the others are heard while it lasts, and all are heard afterwards."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from channelcut.core.quiet import quietly


def elsewhere(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)


def talk(who: str) -> None:
    print(f"{who} prints")  # noqa: T201  what the exporters do
    sys.stderr.write(f"{who} errs\n")
    sys.stdout.writelines([f"{who} lists\n"])
    warnings.warn(f"{who} warns", stacklevel=1)
    logging.getLogger("onnxscript.inner").warning(f"{who} logs")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings and log lines that get through."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener, root = Listener(), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [listener])
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: lines.append(str(message)))
    return lines


def test_only_the_thread_that_asks_for_it_is_silent(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with quietly():
            talk("the quiet one")
            elsewhere(lambda: talk("the other"))
        talk("everybody")
    out, err = capsys.readouterr()
    assert out.splitlines() == ["the other prints", "the other lists", "everybody prints", "everybody lists"]
    assert err.splitlines() == ["the other errs", "everybody errs"]
    assert heard == ["the other warns", "the other logs", "everybody warns", "everybody logs"]


def test_a_warning_that_is_an_error_is_one_for_the_others_alone() -> None:
    raised: list[bool] = []

    def warn() -> None:
        try:
            warnings.warn("loud", stacklevel=1)
        except UserWarning:
            raised.append(True)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quietly():
            warn()
            assert not raised
            elsewhere(warn)
    assert raised == [True]


def test_overlapping_silences_end_as_it_was_before(capsys: pytest.CaptureFixture[str]) -> None:
    """The first to come is the first to go, so that neither can put back what it found."""
    stdout, stderr, filters = sys.stdout, sys.stderr, list(warnings.filters)
    handlers = {handler: list(handler.filters) for handler in logging.getLogger().handlers}
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with quietly():
            first_in.set()
            second_in.wait(60)
        first_out.set()

    def second() -> None:
        first_in.wait(60)
        with quietly():
            second_in.set()
            first_out.wait(60)
            sys.stdout.write("still quiet\n")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    sys.stdout.write("heard\n")
    assert capsys.readouterr().out == "heard\n"
    assert (sys.stdout, sys.stderr, list(warnings.filters)) == (stdout, stderr, filters)
    assert {handler: list(handler.filters) for handler in logging.getLogger().handlers} == handlers


def test_an_error_ends_the_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="on purpose"), quietly(), quietly():
        raise ValueError("on purpose")
    sys.stdout.write("heard\n")
    assert capsys.readouterr().out == "heard\n"


def test_who_takes_the_stream_away_meanwhile_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with quietly():
        monkeypatch.setattr(sys, "stdout", mine := sys.__stdout__)
    assert sys.stdout is mine
