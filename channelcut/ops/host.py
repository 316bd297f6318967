"""What a rule talks to: the protocol of the two hosts, of which one collects what rules say and the other checks it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.groups import Role
from channelcut.core.reasons import Reason

if TYPE_CHECKING:
    from channelcut.ops.call import Call


@dataclass(frozen=True)
class Stored:
    """An axis of a parameter or buffer, as it is stored."""

    name: str
    axis: int


@dataclass(frozen=True)
class Factor:
    """A part of an axis: `extent` positions, which are those of every axis in `stored`.

    Without such an axis they are all alike, as in an expanded value, or `held`: none of them may go.
    """

    extent: int
    stored: tuple[Stored, ...] = ()
    held: bool = False


@dataclass(frozen=True)
class State:
    """A parameter or buffer as a value, or what the forward computes of parameters and buffers alone.

    Every axis is a product of factors, the last of which changes fastest: w (O, I, k, k) is viewed as (O, I·k·k), the
    merged B A of two matrices has the rows of B and the columns of A, and w times a mask has each axis of both.
    """

    name: str
    factors: tuple[tuple[Factor, ...], ...]

    @classmethod
    def of(cls, name: str, shape: Sequence[int]) -> State:
        """A parameter or buffer itself."""
        return cls(name, tuple((Factor(extent, (Stored(name, axis),)),) for axis, extent in enumerate(shape)))

    def __str__(self) -> str:
        """The name, and the stored axes behind every axis: the same before and after a cut."""
        axes = ["·".join(f"{s.name}[{s.axis}]" for factor in axis for s in factor.stored) for axis in self.factors]
        return f"{self.name} ({', '.join(axes)})"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(math.prod(factor.extent for factor in axis) for axis in self.factors)

    @cached_property
    def stored(self) -> tuple[Stored, ...]:
        """The stored axes that its axes are made of."""
        return tuple(dict.fromkeys(s for factors in self.factors for factor in factors for s in factor.stored))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters and buffers that it is made of."""
        return tuple(dict.fromkeys((self.name, *(stored.name for stored in self.stored))))

    def transposed(self) -> State:
        """The same matrix with its axes exchanged."""
        return State(self.name, self.factors[::-1])

    def first(self, axis: int) -> Stored | None:
        """The stored axis that `axis` is, or the first of several; None where it is none."""
        return next((stored for factor in self.factors[axis] for stored in factor.stored), None)


class Bound(str, Enum):
    """An end of a slice."""

    START = "start"
    STOP = "stop"


class Host(Protocol):
    """What a rule may say through its `call`, see `Call` for what each means.

    The collector (coupling.collect) writes down what it is told. The checker (coupling.replay) runs the same rules on
    what a selection keeps, and raises where that does not fit. Rules cannot tell them apart.
    """

    @property
    def limit(self) -> int:
        """One more than the largest id."""

    def whole_groups(self, weight: State) -> bool:
        """Whether a grouped layer with this weight loses whole groups, or as many channels of every group."""

    def mint(self, call: Call, count: int) -> Tensor:
        """Fresh ids for `count` channels."""

    def slot(self, call: Call, stored: Stored, extent: int, ids: Tensor | None, role: Role) -> Tensor:
        """An axis of a parameter follows ids, shape (extent,)."""

    def slot_of(self, state: State, axis: int) -> tuple[Tensor, Role] | None:
        """The ids and the role of a slot that some rule has named before."""

    def positions(self, call: Call, index: Stored, line: Tensor) -> NDArray[np.int64]:
        """The positions along a line that a tensor of whole numbers holds, and that are numbered anew after a cut."""

    def goes_alone(self, index: Stored) -> bool:
        """Whether a tensor of positions loses positions by itself, or with the channels that it picks."""

    def bind(self, call: Call, a: Tensor, b: Tensor, reason: Reason | str) -> Tensor:
        """Elements at one place live or die together."""

    def bind_equal(self, call: Call, pieces: Sequence[Tensor], axis: int) -> None:
        """Pieces keep equal counts."""

    def rectangle(self, call: Call, ids: Tensor) -> None:
        """Every row keeps the same share."""

    def divide(self, call: Call, axis: int, lines: Sequence[Tensor]) -> None:
        """A value is cut into pieces along the channels."""

    def bound(self, call: Call, which: Bound, line: Tensor, position: int, sign: int) -> None:
        """A slice along the channels starts or stops at a position."""

    def slice(self, call: Call, ids: Tensor, axis: int) -> Tensor:
        """The ids that a slice picks."""

    def varies(self, node: int, axis: int) -> bool:
        """Whether channels lie along an axis of an earlier value of this run."""

    def decide(self, call: Call, question: str, answer: bool) -> bool:
        """The answer to a question about the ids, the same in both hosts."""

    def pin(self, call: Call, ids: Tensor, reason: Reason | str, remedy: str) -> None:
        """These channels stay."""

    def fix(self, call: Call, stored: Stored, reason: Reason | str, remedy: str) -> None:
        """Every position along a stored axis stays."""

    def account(self, call: Call, macs: float, rows: Tensor, columns: Tensor) -> None:
        """Charge multiply-accumulates."""

    def misfit(self, call: Call, ids: Sequence[Tensor], problem: Exception) -> NoReturn:
        """Raise because ids do not have the shape that the op asks for."""


def structure(value: Any) -> str:
    """A value of a rule for an error message: shapes of ids, names of everything else."""
    if isinstance(value, Tensor):
        kind = "" if value.dtype in (torch.int32, torch.int64) else f" ({str(value.dtype).removeprefix('torch.')})"
        return f"ids of shape {tuple(value.shape)}{kind}"
    if isinstance(value, State):
        return f"the parameter {value.name} of shape {value.shape}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(structure(item) for item in value)})"
    return type(value).__name__ if value is not None else "None"
