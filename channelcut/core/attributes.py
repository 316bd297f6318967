"""Attributes of modules by dotted names, into containers, plain objects and the closures of functions."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from torch import nn


def set_attribute(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute of a module by its dotted name, as `tag_attributes` names them.

    Raises:
        AttributeError: there is no such attribute.
    """
    head, *rest = name.split(".")
    if not hasattr(module, head):
        raise AttributeError(name)
    setattr(module, head, _replaced(getattr(module, head), rest, value))


def get_attribute(module: nn.Module, name: str) -> Any:
    """Read an attribute of a module by its dotted name."""
    value: Any = module
    for step in name.split("."):
        if isinstance(value, (list, tuple)):
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value[step] if step in value else value[int(step)]
        elif isinstance(value, types.FunctionType):
            value = closure(value)[step]
        else:
            value = getattr(value, step)
    return value


def _replaced(owner: Any, steps: list[str], value: Any) -> Any:
    """`owner` with the entry at `steps` replaced; tuples are made anew, all else is changed in place."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(owner, tuple):
        owner[int(step)]  # there is such an entry
        return tuple(_replaced(v, rest, value) if i == int(step) else v for i, v in enumerate(owner))
    if isinstance(owner, types.FunctionType):
        return with_closure(owner, {step: _replaced(closure(owner)[step], rest, value)})
    key: Any = step
    if isinstance(owner, list) or (isinstance(owner, dict) and step not in owner):
        key = int(step)
    inner = owner[key] if isinstance(owner, (list, dict)) else getattr(owner, key)
    set_entry(owner, key, _replaced(inner, rest, value))
    return owner


def closure(function: types.FunctionType) -> dict[str, Any]:
    """The variables of the enclosing scope that a function uses, where they are set."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def with_closure(function: types.FunctionType, values: Mapping[str, Any]) -> types.FunctionType:
    """A function with other values in its closure; a copy of a model shares its functions, so they are made anew."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closure = tuple(types.CellType(values[name]) if name in values else cell for name, cell in cells)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def set_entry(owner: Any, key: Any, value: Any) -> None:
    """Set an item of a list or a dict, or an attribute of an object."""
    if isinstance(owner, (list, dict)):
        owner[key] = value
    else:
        object.__setattr__(owner, key, value)  # a frozen dataclass on a copy is refreshed as well
