"""The arguments of an op by the names in its schema; what an op writes into."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


def bound_arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Bind positional and keyword arguments, and the defaults of those not given, to the names of the op's schema.

    An op without a schema has its positional arguments under their positions, `"0"`, `"1"`, ...
    """
    given = kwargs or {}
    if target is operator.getitem:
        return {"self": args[0], "index": args[1]}
    if getattr(target, "_schema", None) is None:
        return {str(position): value for position, value in enumerate(args)} | dict(given)
    names, defaults = _parameters(target)
    bound = dict(zip(names, args, strict=False))
    for name in names[len(bound) :]:
        if name in given:
            bound[name] = given[name]
        elif name in defaults:
            default = defaults[name]
            bound[name] = list(default) if isinstance(default, list) else default
    return bound


@cache  # to read a schema costs more than to bind by it
def _parameters(target: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of an op's arguments, and the defaults of those that have one."""
    arguments = target._schema.arguments
    return tuple(a.name for a in arguments), {a.name: a.default_value for a in arguments if a.has_default_value()}


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


@cache
def keyword_only(target: Any) -> frozenset[str]:
    """The names of the arguments that an op takes by keyword alone."""
    return frozenset(argument.name for argument in target._schema.arguments if argument.kwarg_only)
