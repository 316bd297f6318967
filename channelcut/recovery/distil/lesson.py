"""The lesson of a batch: what the teacher says, what the student says, and how far the two are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs
from channelcut.core.labels import Loss, checked
from channelcut.core.randomness import OwnRandom
from channelcut.recovery.distil.losses import Teaching, outputs_of, relative, variance
from channelcut.recovery.distil.options import RecoverOptions
from channelcut.recovery.distil.places import Place, Tapped

# Of a cut layer that is twice as far from the original's as any unrelated one: it gives something else by now, in
# another size behind a spectral norm, say, and what reads it has been fitted to that.
_STRAYED = 4.0


@dataclass(frozen=True)
class Given:
    """A batch: as the data gives it, for the task loss; as the network takes it; and how many inputs it holds."""

    whole: Any
    inputs: Inputs
    count: int


class Lesson:
    """Teacher, places and losses; the students come with each call.

    Args:
        teacher: a copy of the original that may be used up.
        found: the layers whose outputs are compared.
        paths: the outputs that are compared by themselves.
        teaching: what the library of the network knows.
        task: the task loss, where there is one.
        options: the weights of the parts.
    """

    def __init__(
        self,
        teacher: nn.Module,
        found: Sequence[Place],
        paths: Sequence[str],
        teaching: Teaching,
        task: Loss | None,
        options: RecoverOptions,
    ) -> None:
        self.teacher = Tapped(teacher.eval().requires_grad_(False), [place.path for place in found])
        self.places, self.paths, self.heads = tuple(found), tuple(paths), teaching.output
        self.task = task if options.task else None
        self.options = options
        self.scales: dict[str, Tensor] = {}
        self.random = False  # whether a forward draws numbers

    def measure(self, given: Given, student: Tapped) -> None:
        """Take the scales of all parts from a first batch, and leave out the outputs that do not compare.

        Raises:
            UserError: nothing is left that could be learnt.
        """
        with torch.no_grad(), OwnRandom() as random:
            wanted, mine = self.teacher(given.inputs), student(given.inputs)
        self.random = random.generators.used
        if self.heads is not None and self.heads(wanted, mine) is None:
            self.heads = None
        theirs, ours = outputs_of(wanted, self.paths), outputs_of(mine, self.paths)
        self.paths = tuple(p for p in self.paths if p in theirs and p in ours and theirs[p].shape == ours[p].shape)
        self.scales = {f"output {path}": variance(theirs[path]) for path in self.paths}
        self.places = tuple(p for p in self.places if self.teacher.seen.get(p.path))
        for place in self.places:
            self.scales[place.path] = variance(_kept(self.teacher.seen[place.path][0], place))
        if self.options.init == "cut":
            self.places = tuple(place for place in self.places if self._apart(place, student) <= _STRAYED)
        if not self.compares and self.task is None:
            raise UserError(
                "There is nothing to learn from: no floating output of the original can be compared with the cut's "
                "(they are sorted, chosen by values, or of other shapes), and no layer that lost channels is seen. "
                "Give a task loss: loss=lambda model, batch: ..., a tensor of one number."
            )

    def _apart(self, place: Place, student: Tapped) -> float:
        """How far a layer is from the original's before it learns, in units of its variance."""
        pairs = zip(student.seen[place.path], self.teacher.seen[place.path], strict=True)
        return max(float(relative(own, _kept(his, place), self.scales[place.path])) for own, his in pairs)

    @property
    def compares(self) -> bool:
        """Whether the teacher has a say, beside or without a task loss."""
        outputs = self.options.output and (self.paths or self.heads)
        return bool(outputs or (self.options.features and self.places))

    def parts(self, student: Tapped, given: Given, seed: int, *, task: bool = True) -> dict[str, Tensor]:
        """The losses of a batch by name: `output`, `features`, `task`, those that there are."""
        found: dict[str, Tensor] = {}
        task = task and self.task is not None
        with OwnRandom(seed) if task or self.random else nullcontext():
            if self.compares:
                with torch.no_grad():
                    wanted = self.teacher(given.inputs)
                mine = student(given.inputs)
                found |= self._compared(wanted, mine, student)
            if task and self.task is not None:
                found["task"] = checked(self.task(student.module, given.whole))
        student.seen, self.teacher.seen = {}, {}  # they would be kept, and the forwards of the task loss add to them
        return found

    def weighted(self, parts: dict[str, Tensor]) -> Tensor:
        """Their sum, each with its weight."""
        return torch.stack([getattr(self.options, name) * part.float() for name, part in parts.items()]).sum()

    def _compared(self, wanted: Any, mine: Any, student: Tapped) -> dict[str, Tensor]:
        found = {}
        if self.options.output and self.heads is not None:
            said = self.heads(wanted, mine)
            assert said is not None
            found["output"] = said
        elif self.options.output and self.paths:
            theirs, ours = outputs_of(wanted, self.paths), outputs_of(mine, self.paths)
            found["output"] = torch.stack(
                [relative(ours[path], theirs[path], self.scales[f"output {path}"]) for path in self.paths]
            ).mean()
        if self.options.features and self.places:
            found["features"] = torch.stack(
                [
                    relative(own, _kept(his, place), self.scales[place.path])
                    for place in self.places
                    for own, his in zip(student.seen[place.path], self.teacher.seen[place.path], strict=True)
                ]
            ).mean()
        return found


def _kept(output: Tensor, place: Place) -> Tensor:
    return output.index_select(place.axis, _positions(place.kept, output.device))


@lru_cache(maxsize=256)
def _positions(kept: tuple[int, ...], device: torch.device) -> Tensor:
    """Positions on a device: a GPU would wait for their copy at every step."""
    return torch.tensor(kept, device=device)
