"""A recurrent layer as one step.

torch runs an LSTM, GRU or RNN as a dozen ops for every layer and moment. Here a layer is one op,
`channelcut::recurrence`, so that a trace does not grow with the length of the sequence, and states of zeros are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from channelcut.core.graph import Node
from channelcut.ops.recurrent import GATES
from channelcut.ops.writes import written
from channelcut.tracing.functions import Table

_LIBRARY = torch.library.Library("channelcut", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "recurrence(Tensor input, Tensor?[] states, Tensor[] weights, str kind, bool has_biases, int num_layers, "
    "bool bidirectional, bool batch_first) -> Tensor[]"
)


@torch.library.impl(_LIBRARY, "recurrence", "CompositeExplicitAutograd")  # type: ignore[untyped-decorator]
def recurrence(
    source: Tensor,
    given: list[Tensor | None],
    weights: list[Tensor],
    kind: str,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """Run torch's layer `kind` over `source` (T, N, I), or (N, T, I) with `batch_first`.

    Returns its output (T, N, directions · H) and its last states (layers · directions, N, H), two of an LSTM and else
    one, as many as are `given` to start from; None stands for zeros. Dropout between the layers is left out: a random
    mask couples nothing.
    """
    directions, batch = 1 + bidirectional, source.shape[0 if batch_first else 1]
    zero = source.new_zeros(num_layers * directions, batch, weights[1].shape[1])
    states = [zero if state is None else state for state in given]
    function = getattr(torch, kind)
    start = states if kind == "lstm" else states[0]
    return [*function(source, start, weights, has_biases, num_layers, 0.0, False, bidirectional, batch_first)]


@torch.library.impl(_LIBRARY, "recurrence", "Autograd")  # type: ignore[untyped-decorator]
def _differentiable(*args: Any) -> list[Tensor]:
    """The same, as what torch's own layer is made of where gradients are asked for."""
    if torch.is_grad_enabled():
        return recurrence(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return list(RECURRENCE(*args))


@torch.library.impl(_LIBRARY, "recurrence", "Meta")  # type: ignore[untyped-decorator]
def _shapes(
    source: Tensor,
    given: list[Tensor | None],
    weights: list[Tensor],
    kind: str,  # noqa: ARG001  a kernel has all arguments of its op
    has_biases: bool,  # noqa: ARG001
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """The same without arithmetic, in one step."""
    directions, units = 1 + bidirectional, weights[1].shape[1]
    output = source.new_empty(*source.shape[:2], directions * units)
    batch = source.shape[0 if batch_first else 1]
    return [output, *(source.new_empty(num_layers * directions, batch, units) for _ in given)]


def zeros(nodes: Sequence[Node], index: int) -> bool:
    """Whether a step gives a tensor of zeros that no later one writes into."""
    node = nodes[index]
    if node.kind != "call" or node.name not in ("aten.zeros", "aten.new_zeros", "aten.zeros_like"):
        return False
    return not any(index in written(nodes, later) for later in nodes[index + 1 :])


RECURRENCE = torch.ops.channelcut.recurrence.default


def whole(kind: str, args: Sequence[Any], zero: Callable[[Any], bool]) -> tuple[Any, ...] | None:
    """The arguments of `channelcut::recurrence` for those of torch's layer `kind`; None where it is no such step.

    `zero` tells which states the forward made of zeros. The moments of a packed sequence come in another form, and a
    projected state has other weights.
    """
    if kind not in GATES or len(args) != 9 or not isinstance(args[2], (list, tuple)):
        return None
    source, start, weights, has_biases, num_layers, _, _, bidirectional, batch_first = args
    states = start if isinstance(start, (tuple, list)) else [start]
    if len(weights) != num_layers * (1 + bidirectional) * (4 if has_biases else 2):
        return None
    given = [None if zero(state) else state for state in states]
    return source, given, list(weights), kind, has_biases, num_layers, bidirectional, batch_first


def recurrent(zero: Callable[[Tensor], bool]) -> Table:
    """Recurrent layers as `channelcut::recurrence`; `zero(tensor)` tells what the forward made of zeros."""

    def layer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = None if kwargs else whole(func.__name__, args, zero)
        return func(*args, **kwargs) if arguments is None else tuple(RECURRENCE(*arguments))

    return {getattr(torch, name): layer for name in GATES}
