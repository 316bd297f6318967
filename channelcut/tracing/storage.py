"""What a forward does to `.data`, which no op shows: a parameter is read without its history, or is given other values.

A layer that computes the weight of its deployed form from those that were trained writes it so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from channelcut.tracing.functions import Record, Table
from channelcut.tracing.hollow import is_hollow, mark

_LIBRARY = torch.library.Library("channelcut", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("assigned(Tensor parameter, Tensor value) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_LIBRARY, "assigned", "CompositeExplicitAutograd")  # type: ignore[untyped-decorator]
def assigned(parameter: Tensor, value: Tensor) -> Tensor:  # noqa: ARG001  it is written over
    """What a parameter holds after `parameter.data = value`."""
    return value.clone()


_LIBRARY.define("emptied(Tensor value) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_LIBRARY, "emptied", "CompositeExplicitAutograd")  # type: ignore[untyped-decorator]
def emptied(value: Tensor) -> Tensor:
    """What a tensor is after `value.set_()`, which gives its memory back; other tensors on the memory keep it."""
    return value.new_empty(0)


def data(same: Callable[[Tensor, Tensor], None], record: Record) -> Table:
    """Notes what is read from and written to `.data`; `same(new, old)`: one tensor stands for the other."""

    def read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = func(*args, **kwargs)
        same(found, args[0])
        if is_hollow(args[0]):
            mark(found)
        return found

    def assign(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parameter, value = args[0], args[1]

        def write() -> Tensor:
            func(*args, **kwargs)
            if is_hollow(value):
                mark(parameter)
            return parameter  # type: ignore[no-any-return]

        record(torch.ops.channelcut.assigned.default, (parameter, value), {}, write)

    return {Tensor.data.__get__: read, Tensor.data.__set__: assign}  # type: ignore[attr-defined]
