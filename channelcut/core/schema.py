"""The arguments of an op by the names in its schema; what an op writes into."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any


def bound_arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Bind positional and keyword arguments, and the defaults of those not given, to the names of the op's schema.

    An op without a schema has its positional arguments under their positions, `"0"`, `"1"`, ...
    """
    given = kwargs or {}
    if target is operator.getitem:
        return {"self": args[0], "index": args[1]}
    schema = getattr(target, "_schema", None)
    if schema is None:
        return {str(position): value for position, value in enumerate(args)} | dict(given)
    bound: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in given:
            bound[argument.name] = given[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def written_arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The values of the arguments that an op writes into in place."""
    if not writes(target):
        return []
    bound = bound_arguments(target, args, kwargs)
    aliases = {a.name: a.alias_info for a in target._schema.arguments}
    return [value for name, value in bound.items() if (alias := aliases.get(name)) is not None and alias.is_write]


def writes(target: Any) -> bool:
    """Whether an op writes into any of its arguments."""
    schema = getattr(target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def keyword_only(target: Any) -> set[str]:
    """The names of the arguments that an op takes by keyword alone."""
    return {argument.name for argument in target._schema.arguments if argument.kwarg_only}
