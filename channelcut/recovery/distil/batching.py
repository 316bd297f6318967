"""Which items a step is about, and what becomes of them on the way to the network: all of it follows from its number.

Nothing here has a state that a checkpoint would have to hold: the order of an epoch and the augmentation of a batch are
drawn from generators that the seed and the step name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs
from channelcut.recovery.batches import mapped, put_back, taken
from channelcut.recovery.distil.augment import augmented, draws, generator, mixed
from channelcut.recovery.distil.lesson import Given
from channelcut.recovery.distil.options import RecoverOptions
from channelcut.recovery.distil.pool import Pool
from channelcut.recovery.distil.processes import Processes

_MOST_HELD = 256  # items that are held back, and that the end is recalibrated on
_SPLIT, _ORDER, _AUGMENT, _VARY = range(4)  # what is drawn: a stream of its own each


class Batches:
    """The batches of a recovery, in the order in which they teach; used as a context, which ends its threads.

    Args:
        pool: the items.
        options: sizes and seeds.
        augment: what is done to images.
        all_: the processes that share a batch.
    """

    def __init__(self, pool: Pool, options: RecoverOptions, augment: Sequence[str], all_: Processes) -> None:
        self.pool, self.seed, self.augment, self.all = pool, options.seed, tuple(augment), all_
        order = torch.randperm(pool.size, generator=generator(options.seed, _SPLIT)).tolist()
        held = min(_MOST_HELD, math.ceil(options.held_back * pool.size), pool.size // 2)
        self.held, self.trained = order[:held], order[held:]
        size = all_.count if pool.whole else options.batch_size
        self.per_epoch = math.ceil(len(self.trained) / size)
        self._vary = None if pool.varied is None else pool.varied(self.trained)
        self._threads = ThreadPoolExecutor(options.workers) if pool.threads else None
        self._ahead: tuple[int, list[Future[Any]]] = (-1, [])

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def numbers(self, step: int) -> list[int]:
        """The items of a step over all processes: an epoch in parts that are as equal as can be."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.trained), generator=generator(self.seed, _ORDER, epoch))
        return [self.trained[i] for i in torch.tensor_split(order, self.per_epoch)[place].tolist()]

    def positions(self, step: int) -> list[int]:
        """Which of them are this process's, by their places among them."""
        return list(range(self.all.rank, len(self.numbers(step)), self.all.count))

    def items(self, step: int) -> list[Any]:
        """The items of a step that are this process's, read while the step before was computed."""
        if self._threads is None:
            return self._read(step)
        begun, futures = self._ahead
        if begun != step:
            futures = self._submitted(step)
        self._ahead = (step + 1, self._submitted(step + 1))
        return [future.result() for future in futures]

    def chunk(self, items: Sequence[Any], step: int, positions: Sequence[int]) -> Given:
        """Items of a step as a batch, augmented; `positions` are theirs in the step."""
        given = self.given(items)
        images = [v for v in _values(given.inputs) if isinstance(v, Tensor) and v.dim() == 4 and v.is_floating_point()]
        if not self.augment or len(images) != 1:
            return given
        if self.pool.whole:
            numbers = draws(given.count, self.seed, _AUGMENT, step, positions[0])
        else:  # the same for an input whichever process has it
            numbers = draws(max(positions) + 1, self.seed, _AUGMENT, step)[list(positions)]
        changed = augmented(images[0], self.augment, numbers)
        inputs = mapped(given.inputs, lambda t: changed if t is images[0] else t)
        return Given(put_back(given.whole, inputs), inputs, given.count)

    def given(self, items: Sequence[Any]) -> Given:
        """Items as a batch on the device, as they are."""
        device = self.all.device
        try:
            whole = self.pool.joined(items)
        except (RuntimeError, TypeError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"Items of the data do not make one batch ({said}). Expected inputs of one size."
            ) from error
        inputs = mapped(taken(whole, self.pool.example, 0), lambda t: t.to(device))
        count = next((len(v) for v in _values(inputs) if isinstance(v, Tensor) and v.dim()), len(items))
        whole = pytree.tree_map_only(Tensor, lambda t: t.to(device), whole)
        return Given(put_back(whole, inputs), inputs, count)

    def plain(self, *, held: bool, size: int) -> list[list[int]]:
        """Items to be looked at as they are, in batches: those held back, or as many of the others."""
        numbers = self.held if held and self.held else self.trained[:_MOST_HELD]
        size = 1 if self.pool.whole else size
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]

    def _read(self, step: int) -> list[Any]:
        numbers = self.numbers(step)
        return [self._item(numbers[position], step) for position in self.positions(step)]

    def _submitted(self, step: int) -> list[Future[Any]]:
        assert self._threads is not None
        numbers = self.numbers(step)
        return [self._threads.submit(self._item, numbers[position], step) for position in self.positions(step)]

    def _item(self, number: int, step: int) -> Any:
        """An item as a step has it."""
        if self._vary is None:
            return self.pool.item(number)
        return self._vary(number, mixed(self.seed, _VARY, step, number), step // self.per_epoch)


def _values(inputs: Inputs) -> list[Any]:
    return [*inputs[0], *inputs[1].values()]
