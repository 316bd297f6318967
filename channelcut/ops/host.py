"""What a rule talks to: the protocol of the two hosts, of which one collects what rules say and the other checks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor

from channelcut.core.groups import Role
from channelcut.core.reasons import Reason

if TYPE_CHECKING:
    from channelcut.ops.call import Call


@dataclass(frozen=True)
class State:
    """A parameter or buffer as a value; `flipped` after a transpose of a matrix."""

    name: str
    shape: tuple[int, ...]
    flipped: bool = False

    def axis(self, axis: int) -> int:
        """The axis of the stored tensor that `axis` of this value is."""
        return 1 - axis if self.flipped else axis

    def transposed(self) -> State:
        """The same matrix with its axes exchanged."""
        return State(self.name, self.shape[::-1], not self.flipped)


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

    def slot(self, call: Call, state: State, axis: int, ids: Tensor | None, role: Role) -> Tensor:
        """An axis of a parameter follows ids."""

    def slot_of(self, state: State, axis: int) -> tuple[Tensor, Role] | None:
        """The ids and the role of a slot that some rule has named before."""

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

    def decide(self, call: Call, question: str, answer: bool) -> bool:
        """The answer to a question about the ids, the same in both hosts."""

    def pin(self, call: Call, ids: Tensor, reason: Reason | str, remedy: str) -> None:
        """These channels stay."""

    def fix(self, call: Call, state: State) -> None:
        """Every slot of a parameter stays."""

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
