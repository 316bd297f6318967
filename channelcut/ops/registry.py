"""The table of ops: all that channelcut knows of an op stands in one entry.

Rules are registered by `rule`, and with them, or by `know`, what other stages have to know of the op. Two rules for one
op fail at import, and both are named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from channelcut.core.graph import Graph, Node
from channelcut.ops.call import Call

Rule = Callable[[Call], Any]
Shapes = Mapping[str, tuple[int, ...]]
Refresh = Callable[[Any, Shapes, bool], dict[str, Any]]
"""refresh(layer, shapes of its tensors after a cut, whole groups went) -> attributes of the layer."""


@dataclass(frozen=True)
class Op:
    """What is known of one op.

    rule: what it does to channels; None pins.
    over_kept: it mixes channels along this axis (or along the `channels`, wherever they lie) without weights, so that
        zeros would count: the proof computes it over the kept ones.
    contracts: it sums over channels of two activations, so that its inputs are compared in a proof.
    direction: the argument that is divided by its length, and so cannot be masked by zeros.
    ties: the order of equal values is open, so that a proof compares values and takes the order of one side.
    statistics: it updates the running statistics that it is given.
    checked: it only asserts something of a tensor's type, which is another one in float64.
    decides: whether the number of its results depends on values.
    layout: which of these torch takes depends on strides: a `reshape` with or without a copy, or a `copy`.
    operands: integers among its arguments are operands rather than axes or sizes.
    sizes: how the forward's numbers are read where they become its sizes, see tracing.widths.
    shape: its result without the arithmetic, see ops.shapes.
    weights: its rule where it computes with parameters alone, see ops.weights; None: that of all values.
    statistics_of_weights: what it reduces of a computed weight: the axes in `dim`, or all but the `rows`.
    convolves: it is a convolution, a `transposed` one, or `either`, as its argument says.
    affine: it is a matrix product with a weight, and a bias.
    averages: it divides by the number of elements that it sums.
    proportional: it gives s · f(x) for s · x where s is positive, and an element stays on its axis, moves, joins others
        along one, or is multiplied with a number.
    sums: it adds two values. scales: it multiplies two.
    stored_statistics: it normalises by statistics that are stored, where it is not told to take those of the batch.
    own_layout: torch calls it pointwise, and yet its result is not laid out like its operands.
    """

    name: str
    rule: Rule | None = None
    over_kept: int | Literal["channels"] | None = None
    contracts: bool = False
    direction: str = ""
    ties: bool = False
    statistics: bool = False
    checked: bool = False
    decides: Callable[[Graph, Node], bool] | None = None
    layout: Literal["reshape", "copy"] | None = None
    operands: bool = False
    sizes: str = ""
    shape: Callable[..., Any] | None = None
    convolves: Literal["forward", "transposed", "either"] | None = None
    affine: bool = False
    averages: bool = False
    proportional: Literal["stays", "moves", "joins", "by a number"] | None = None
    own_layout: bool = False
    sums: bool = False
    scales: bool = False
    stored_statistics: bool = False
    weights: Rule | None = None
    statistics_of_weights: Literal["dim", "rows"] | None = None


OPS: dict[str, Op] = {}
LAYERS: dict[type[nn.Module], Refresh] = {}
"""Layers of torch that repeat the shapes of their tensors in attributes, each beside the rule of its op."""


def op(name: str) -> Op:
    """What is known of an op; nothing, for one that nobody has told of.

    A write in place is the op that it writes: `aten.relu_` is known as `aten.relu`, and so are torch's copies of views.
    """
    return OPS.get(name) or OPS.get(_plain(name)) or Op(name)


def _plain(name: str) -> str:
    """The op of torch that this one is a variant of."""
    if not name.startswith("aten.") or name == "aten.index_copy":
        return name
    return name.removesuffix("_") if name.endswith("_") else name.removesuffix("_copy")


def rule(*ops: str, layers: Mapping[type[nn.Module], Refresh] | None = None, **known: Any) -> Callable[[Rule], Rule]:
    """Register a rule for ops by name, as pins write it: `aten.conv2d`, or `mylib.gate` for the op `mylib::gate`.

    Args:
        ops: names of ops; every overload has the name of its op.
        layers: modules whose attributes repeat the shapes that the op reads, with the function that says them anew.
        known: fields of `Op`, such as over_kept=1 for a norm over axis 1.

    Returns:
        A decorator. A rule is called as rule(call) for every call of its ops and returns the ids of the outputs: one
        tensor, or a tuple for an op with several.

    Raises:
        ValueError: an op has a rule already; the text names both.

    Example:
        @cc.rule("mylib.scale")
        def scale(call):
            line = call.line("x", 1)
            call.slot(call["factor"], 0, line, "param")
            return call.ids("x")
    """

    def register(function: Rule) -> Rule:
        for name in ops:
            before = OPS[name].rule if name in OPS else None
            if before is not None:
                raise ValueError(
                    f"Two rules for {name}: {before.__module__}.{before.__qualname__} and "
                    f"{function.__module__}.{function.__qualname__}."
                )
            know(name, rule=function, **known)
        LAYERS.update(layers or {})
        return function

    return register


def know(*ops: str, **known: Any) -> None:
    """Add to what is known of ops; `known` are fields of `Op`."""
    for name in ops:
        OPS[name] = replace(op(name), name=name, **known)


def rules() -> dict[str, Rule]:
    """Every op that has a rule."""
    return {name: known.rule for name, known in OPS.items() if known.rule is not None}
