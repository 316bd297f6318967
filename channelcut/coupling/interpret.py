"""One call on ids: the op's rule is run, and what it returns is held against the op's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.errors import RuleError
from channelcut.core.graph import Graph, Node, Ref, Spec
from channelcut.core.reasons import NO_RULE
from channelcut.core.schema import bound_arguments
from channelcut.core.trees import leaves, mapped_only
from channelcut.ops.call import Call
from channelcut.ops.host import Host, State, structure
from channelcut.ops.registry import Rule, op

_INTEGERS = (torch.int32, torch.int64)
_OWN = "channelcut."  # whose rules the tests hold
Adapt = Callable[[Node, dict[str, Any]], tuple[Node, dict[str, Any]]]


class Misfit(Exception):
    """Raised by a host where what a selection keeps does not fit; it is no fault of the rule."""


def beginning(node: Node) -> State | Tensor:
    """What stands for a parameter, buffer, input or constant."""
    return State.of(node.name, node.value.shape) if node.kind == "state" else I.zeros(node.value.shape)


def run_rule(
    host: Host, graph: Graph, run: int, node: Node, values: Mapping[int, Any], adapt: Adapt | None = None
) -> Any:
    """The ids of what a call gives, with stride 0 along constant axes.

    `adapt(node, arguments)` may change what the rule gets to see.

    Raises:
        RuleError: the rule raises, or returns what does not fit the op's outputs.
        Misfit: the host says that a selection does not fit.
    """
    args, kwargs = mapped_only(Ref, lambda ref: values[ref.index], (node.args, dict(node.kwargs)))
    arguments = bound_arguments(node.target, args, kwargs)
    known, call = op(node.name), Call(node, arguments, graph, run, host)
    function = known.weights if known.weights is not None and call.computes_a_weight else known.rule
    if function is None:
        for leaf in leaves(arguments):
            call.pin_value(leaf, NO_RULE)
        return call.fixed()
    if adapt is not None:
        call = Call(*adapt(node, arguments), graph, run, host)
    try:
        result = function(call)
    except (Misfit, RuleError):
        raise
    except Exception as error:
        raise RuleError(_text(call, function, f"raised {type(error).__name__}: {error}")) from error
    return _fitting(call, function, result)


def _fitting(call: Call, function: Rule, result: Any) -> Any:
    """The result with stride 0 along constant axes, if it has the structure and shapes of the op's outputs."""
    return _fitted(call, function, result, result, call.node.value)


def _fitted(call: Call, function: Rule, result: Any, value: Any, expected: Any) -> Any:
    """The same for `value`, which is the result or a part of it."""
    if isinstance(expected, Spec):
        if isinstance(value, Tensor) and value.dtype in _INTEGERS and len(expected.shape) == value.dim():
            if value.shape != expected.shape:
                _misshapen(call, function, value)
            if not function.__module__.startswith(_OWN) and not _are_ids(value, call.host.limit):
                raise RuleError(_text(call, function, "gave numbers that are no ids: none is negative or made up"))
            given = any(value is argument for argument in call.arguments.values())  # then it is compressed already
            return value if given else I.compress(value)
        if isinstance(value, State) and value.shape == expected.shape:
            return value
    elif not isinstance(expected, (list, tuple)):
        return value
    elif isinstance(value, (list, tuple)) and len(value) == len(expected):
        return tuple(_fitted(call, function, result, v, e) for v, e in zip(value, expected, strict=True))
    raise RuleError(_text(call, function, f"gave {structure(result)} for {_expected(call.node.value)}"))


def _are_ids(value: Tensor, limit: int) -> bool:
    """Whether a tensor holds nothing but numbers of channels."""
    if value.device.type != "cpu":
        return False
    small = I.compact(value)
    return not small.numel() or (int(small.min()) >= 0 and int(small.max()) < limit)


def _misshapen(call: Call, function: Rule, value: Tensor) -> None:
    """Ids of another shape: of all ids it is the rule's fault, of those that a selection keeps they do not fit."""
    problem = RuntimeError(f"gave {structure(value)} for {_expected(call.node.value)}")
    try:
        call.host.misfit(call, [value], problem)
    except RuntimeError:
        raise RuleError(_text(call, function, str(problem))) from None


def _text(call: Call, function: Rule, problem: str) -> str:
    code = getattr(function, "__code__", None)
    where = f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}" if code is not None else "unknown file"
    given = ", ".join(f"{name}: {structure(value)}" for name, value in call.arguments.items() if _has_shape(value))
    return (
        f"The rule for {call.name} ({getattr(function, '__qualname__', 'rule')}, {where}) {problem}, at {call.site}. "
        f"It was given {given or 'no tensors'}. Expected: ids (int32) in the shape of each output, made of those of "
        "the inputs; rules run again on what a selection keeps, with fewer ids. See docs/rules.md."
    )


def _has_shape(value: Any) -> bool:
    return any(isinstance(leaf, (Tensor, State)) for leaf in leaves(value))


def _expected(value: Any) -> str:
    if isinstance(value, Spec):
        return f"an output of shape {value.shape}"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} outputs ({', '.join(_expected(item) for item in value)})"
    return type(value).__name__
