"""An analysis changes nothing of the process: two threads prune at once, and a third one sees no change meanwhile."""

from __future__ import annotations

import math
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _python_dispatch

import channelcut as cc

PATIENCE = 60  # seconds; who waits longer waits for a lock


def threads_of_a_new_thread() -> int:
    """How many threads torch uses in a thread that starts now; one that has asked before keeps its number."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def state() -> dict[str, Any]:
    """What belongs to the process and could have been changed by an analysis."""
    return {
        "math.sqrt": math.sqrt,
        "default dtype": torch.get_default_dtype(),
        "threads": threads_of_a_new_thread(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "attention": F.scaled_dot_product_attention,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "compiler": torch._dynamo.eval_frame._stance.stance,
        "dispatch modes": _python_dispatch.is_in_torch_dispatch_mode(),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "Python's generator": random.getstate(),
        "NumPy's generator": np.random.get_state()[1].tobytes(),  # type: ignore[union-attr, index]
    }


class Sampler:
    """A thread that looks at the state of the process whenever another thread has made so many calls.

    Not after a time: how often a patch is seen would then depend on the machine.
    """

    def __init__(self, every: int) -> None:
        self.every, self.samples, self.changed = every, 0, dict[str, Any]()
        self._first = state()
        self._asked, self._answered = threading.Semaphore(0), threading.Semaphore(0)
        self._one, self._ended = threading.Lock(), False

    def _sample(self) -> None:
        while self._asked.acquire() and not self._ended:
            now = state()
            self.changed |= {name: now[name] for name in now if now[name] != self._first[name]}
            self.samples += 1
            self._answered.release()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        yield
        self._ended = True
        self._asked.release()
        thread.join(PATIENCE)

    def watched(self, work: Callable[[], Any]) -> Any:
        """Do some work in this thread, interrupted by samples."""
        calls = 0

        def call(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if calls % self.every == 0:
                with self._one:
                    self._asked.release()
                    self._answered.acquire()

        sys.setprofile(call)
        try:
            return work()
        finally:
            sys.setprofile(None)


MEETING: list[threading.Barrier] = []


class Everything(nn.Module):
    """All that ever was recorded with a setting of the process: roots, grids, attention, recurrence, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.stem = 8, nn.Conv2d(3, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.5)
        self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        for meeting in MEETING:
            meeting.wait(PATIENCE)  # the forwards of both threads run at the same time, or not at all
        x = F.dropout(F.relu(self.stem(x)), 0.5, self.training).flatten(2).transpose(1, 2)
        x = (
            x / math.sqrt(self.dim)
            + torch.arange(x.shape[1])[:, None] * 0.1
            + torch.linspace(0, 1, x.shape[1])[:, None]
        )
        x = self.encoder(x + self.attention(x, x, x)[0])
        return self.head(self.lstm(x)[0])


def example() -> Tensor:
    return torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def pruned(model: nn.Module) -> Any:
    result = cc.prune(model, example(), keep=0.5)
    return result.plan.kept, result.proof.passed


def in_threads(work: Callable[[], Any], count: int) -> list[Any]:
    """What the work gives in each of several threads at once; its error, if there is one."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001  an error in a thread is looked at in the test
            found.append(error)
        for meeting in MEETING:
            meeting.abort()  # nobody comes to it any more

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 5)
    return found


@pytest.fixture
def meeting() -> Iterator[None]:
    """Both threads wait for each other in every forward: were one thread kept out by a lock, they would not meet."""
    MEETING.append(threading.Barrier(2))
    yield
    MEETING.clear()


def test_two_threads_prune_at_once_and_a_third_sees_no_change(request: pytest.FixtureRequest) -> None:
    model = Everything().eval()
    before, sampler = state(), Sampler(every=1000)
    alone = pruned(model)
    assert alone[1] and alone[0], "or this shows nothing"
    request.getfixturevalue("meeting")
    with sampler.running():
        found = in_threads(lambda: sampler.watched(lambda: pruned(model)), 2)
    assert found == [alone, alone]
    assert sampler.samples > 500 and not sampler.changed
    assert state() == before
