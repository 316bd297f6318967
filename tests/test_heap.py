"""What an analysis does to the garbage collector, and how it leaves it."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

import channelcut as cc
from channelcut.core.heap import frozen_heap
from tests.networks import build


def test_the_heap_is_frozen_within_and_free_after() -> None:
    with frozen_heap():
        assert gc.get_freeze_count() > 0
        with frozen_heap():
            pass
        assert gc.get_freeze_count() > 0, "an inner one must not end the outer one"
    assert gc.get_freeze_count() == 0


def test_a_heap_that_the_user_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        cc.analyze(build("Residual"), torch.rand(1, 3, 16, 16))
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_an_error_frees_the_heap() -> None:
    with pytest.raises(cc.UserError):
        cc.prune(build("Residual"), torch.rand(1, 5, 16, 16), keep=0.5)
    assert gc.get_freeze_count() == 0


def test_overlapping_threads_free_the_heap_with_the_last_one() -> None:
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    seen: list[bool] = []

    def first() -> None:
        with frozen_heap():
            first_in.set()
            second_in.wait(60)
        first_out.set()

    def second() -> None:
        first_in.wait(60)
        with frozen_heap():
            second_in.set()
            first_out.wait(60)
            seen.append(gc.get_freeze_count() > 0)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [True], "the first to go must not free what the second still needs frozen"
    assert gc.get_freeze_count() == 0
