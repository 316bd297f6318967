"""The table of op rules. Two rules for one op fail at import, and both are named."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from channelcut.core.graph import Node, Spec, specs
from channelcut.coupling.collect import Coupler, State
from channelcut.ops import ids as I

Rule = Callable[[Coupler, "Call"], Any]
RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Call:
    """One op with its arguments by their schema names; tensors are replaced by ids, parameters by `State`."""

    node: Node
    arguments: Mapping[str, Any]
    coupler: Coupler

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that some overloads lack."""
        return self.arguments.get(name, default)

    def ids(self, name: str) -> torch.Tensor:
        """The ids of a tensor argument; a parameter used as an activation gets ids of its own."""
        return activation(self.coupler, self.arguments[name])

    def line(self, name: str, axis: int) -> torch.Tensor | None:
        """The ids of a tensor argument along one axis, shape (extent,); None where they vary along another as well."""
        return I.line(self.ids(name), axis)

    def along(self, line: torch.Tensor, axis: int) -> torch.Tensor:
        """Ids of the (first) output that follow `line`, shape (extent,), along `axis` and vary along no other."""
        return I.along(line, axis % len(self.shape), self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) output."""
        found = specs(self.node.value)
        return found[0].shape if found else ()

    def fixed(self) -> Any:
        """Ids of an output without removable channels, in the output's structure."""
        return fixed_like(self.node.value)


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops by name, as pins write it: `aten.conv2d`, or `mylib.gate` for the op `mylib::gate`.

    A rule is called as rule(coupler, call) for every call of its ops and returns the ids of the outputs.
    """

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(
                    f"Two rules for {op}: {RULES[op].__module__}.{RULES[op].__qualname__} and "
                    f"{function.__module__}.{function.__qualname__}."
                )
            RULES[op] = function
        return function

    return register


def fixed_like(value: Any) -> Any:
    """Replace every `Spec` in a node's value by ids without removable channels."""
    if isinstance(value, Spec):
        return I.zeros(value.shape)
    if isinstance(value, (list, tuple)):
        return tuple(fixed_like(item) for item in value)
    return value


def activation(coupler: Coupler, value: Any) -> torch.Tensor:
    """The ids of a value; a parameter or buffer with one long axis owns its elements, any other is fixed."""
    if not isinstance(value, State):
        return value  # type: ignore[no-any-return]
    long = [axis for axis, extent in enumerate(value.shape) if extent > 1]
    if len(long) != 1:
        if long:
            coupler.fix(value)
        return I.zeros(value.shape)
    return I.along(coupler.slot(value, long[0], None, "param"), long[0], value.shape)


def named_arguments(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Bind positional arguments and defaults to the names of the op's schema."""
    if node.target is operator.getitem:
        return {"self": args[0], "index": args[1]}
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(position): value for position, value in enumerate(args)} | dict(kwargs)
    bound: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound
