"""Blocks: lanes that must keep equal shares and have no common divisor, cut up into as many blocks each.

Where 116 channels are shuffled four times, the halves of halves have 7, 8, 14, 15, 29 and 58 channels, and half of each
is no whole number. Yet the pattern of lanes repeats along every slot, and a narrower network is one that repeats it
less often. So lanes are cut into blocks of neighbours, as many as the shortest one allows; blocks of one number live
and die together, and what is left over at the end of a lane stays. Whether that is legal the other checks say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from channelcut.core.groups import Group
from channelcut.core.reasons import LEFT_OVER, NO_COMMON_STEP
from channelcut.coupling.facts import Bind, PinRequest, Request
from channelcut.coupling.replay import Checker
from channelcut.coupling.settle import Check, Draft, Settling, first_use, free_channels

CHECK = "steps"
_TRIES = 64  # for each group; most fail by the equations alone, which is quick


@dataclass(eq=False)
class Blocks:
    """The check of groups whose lanes have no common divisor.

    Args:
        settling: settles the constraints of the model.
        cheaper: the checks before this one, which say whether blocks are legal.
    """

    settling: Settling
    cheaper: Sequence[Check]

    def __call__(self, draft: Draft) -> Sequence[Request]:
        """What makes blocks of the first such group that can lose some; nothing, where there is none."""
        free = free_channels(draft)
        for group in draft.groups:
            if group.width > 1 or group.step > 1 or len(group.lanes) == 1:
                continue
            for count, sizes in islice(_cuts([len(lane) for lane in group.lanes]), _TRIES):
                requests = _blocks(draft, group, count, sizes)
                given = draft.given.refined(requests)
                if self.settling.settle((), given).solution.requests:
                    continue
                settled = self.settling.settle(self.cheaper, given)
                if free_channels(settled) > free and _any_may_go(settled, requests):
                    return requests
        return ()


def _any_may_go(draft: Draft, requests: Sequence[Request]) -> bool:
    """Whether the rules go through whichever blocks are kept: the first, the last, every other, some that are drawn.

    A replay tries one selection of a group that has one lane, because its channels lie alike everywhere. Blocks do not:
    what is left of them closes up, and may come out of order where others are kept.
    """
    bind = next(request for request in requests if isinstance(request, Bind))
    channels = draft.partition.footprints.channel_of[bind.lines[0].numpy()]
    count, generator = len(channels), np.random.default_rng(0)
    places = np.arange(count)
    kept_blocks = [places < 1, places > 0, places >= count - 1, places < count - 1, places % 2 == 0, places % 2 == 1]
    kept_blocks += [generator.random(count) < share for share in (0.3, 0.5, 0.7)]
    for blocks in kept_blocks:
        kept = np.ones(len(draft.partition.pinned), dtype=bool)
        kept[channels[~blocks]] = False
        runs = range(len(draft.facts.runs))
        if blocks.any() and any(Checker(draft.facts, draft.partition.footprints, kept, run).run() for run in runs):
            return False
    return True


def _cuts(lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Into how many blocks lanes of these lengths can be cut, most first, and the size of a block in each lane.

    Sizes are in proportion to the lengths, as they are in a wider network that has nothing left over.
    """
    longest = max(lengths)
    for count in range(min(lengths), 1, -1):
        for most in range(longest // count, longest // (count + 1), -1):
            sizes = [(2 * length * most + longest) // (2 * longest) for length in lengths]  # rounded
            if all(0 < count * size <= length for size, length in zip(sizes, lengths, strict=True)):
                yield count, sizes


def _blocks(draft: Draft, group: Group, count: int, sizes: Sequence[int]) -> list[Request]:
    """Bind block by block, `count` of them in each lane; what is left over at the ends stays."""
    first, site = draft.partition.first, first_use(draft.facts, group.name)
    lines, rest = [], []
    for lane, size in zip(group.lanes, sizes, strict=True):
        blocks = first[lane[: size * count]].reshape(count, size)
        lines += [torch.from_numpy(column.astype(np.int32)) for column in blocks.T]
        rest.append(first[lane[size * count :]])
    left = np.concatenate(rest)
    found: list[Request] = [Bind(tuple(lines), None, NO_COMMON_STEP, site, CHECK)]
    if len(left):
        found.append(PinRequest(LEFT_OVER, site, left, LEFT_OVER.remedy, CHECK))
    return found
