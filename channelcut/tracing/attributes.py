"""The integers that modules keep: tagged before a recording, refreshed after a cut, by dotted names."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from channelcut.core.graph import Attribute
from channelcut.tracing.numbers import Width

_DEPTH = 3  # of plain objects and containers below a module's attribute


def tag_attributes(model: nn.Module) -> dict[tuple[str, str], int]:
    """Replace the integers above 1 that modules of `model` (a copy) keep by numbers that remember their attribute.

    Items of tuples, lists and dicts and fields of plain objects are named with dots (`widths.1`, `config.dim`). The
    layers of torch itself are left out: what they keep follows from the shapes of their tensors. Returns what was
    tagged, by module path and attribute.
    """
    found: dict[tuple[str, str], int] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        for name, value in list(vars(module).items()):
            if not name.startswith("_") and name != "training":
                new = _tag(value, path, name, found)
                if new is not value:
                    vars(module)[name] = new
    return found


def _tag(value: Any, path: str, name: str, found: dict[tuple[str, str], int]) -> Any:
    """The value with its integers tagged; lists, dicts and objects are changed in place, because they are copies."""
    if type(value) is int and value > 1:
        found[path, name] = value
        return Width(value, Attribute(path, name, value))
    if name.count(".") == _DEPTH or isinstance(value, (nn.Module, torch.Tensor, type)):
        return value
    if type(value) is tuple:
        items = [_tag(item, path, f"{name}.{i}", found) for i, item in enumerate(value)]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else tuple(items)
    if isinstance(value, types.FunctionType):
        cells = {k: _tag(v, path, f"{name}.{k}", found) for k, v in _closure(value).items() if type(v) is int}
        return _with_closure(value, cells) if cells else value
    for key, item in _entries(value):
        new = _tag(item, path, f"{name}.{key}", found)
        if new is not item:
            _set_entry(value, key, new)
    return value


def _closure(function: types.FunctionType) -> dict[str, Any]:
    """The variables of the enclosing scope that a function uses, where they are set."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _with_closure(function: types.FunctionType, values: Mapping[str, Any]) -> types.FunctionType:
    """A function with other values in its closure; a copy of a model shares its functions, so they are made anew."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closure = tuple(types.CellType(values[name]) if name in values else cell for name, cell in cells)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _entries(value: Any) -> list[tuple[Any, Any]]:
    """What may be tagged inside a container or a plain object; only of kinds that a copy of the model has copied."""
    if type(value) is list:
        return list(enumerate(value))
    if type(value) is dict:
        return [(k, v) for k, v in value.items() if isinstance(k, (str, int)) and "." not in str(k)]
    kind = type(value)
    plain: Any = object.__reduce_ex__
    copied = kind.__reduce_ex__ is plain and not hasattr(kind, "__deepcopy__")
    if not copied or isinstance(value, enum.Enum) or kind.__module__ in ("builtins", "types"):
        return []
    return [(k, v) for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")]


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
            value = _closure(value)[step]
        else:
            value = getattr(value, step)
    return value


def _replaced(owner: Any, steps: list[str], value: Any) -> Any:
    """`owner` with the entry at `steps` replaced; tuples are made anew, all else is changed in place."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(owner, tuple):
        return tuple(_replaced(v, rest, value) if i == int(step) else v for i, v in enumerate(owner))
    if isinstance(owner, types.FunctionType):
        return _with_closure(owner, {step: _replaced(_closure(owner)[step], rest, value)})
    key: Any = step
    if isinstance(owner, list) or (isinstance(owner, dict) and step not in owner):
        key = int(step)
    inner = owner[key] if isinstance(owner, (list, dict)) else getattr(owner, key)
    _set_entry(owner, key, _replaced(inner, rest, value))
    return owner


def _set_entry(owner: Any, key: Any, value: Any) -> None:
    if isinstance(owner, (list, dict)):
        owner[key] = value
    else:
        object.__setattr__(owner, key, value)  # a frozen dataclass on a copy is refreshed as well
