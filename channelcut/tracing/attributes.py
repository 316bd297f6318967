"""The integers that modules keep, tagged before a recording."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from channelcut.core.attributes import closure, set_entry, with_closure
from channelcut.core.graph import Attribute
from channelcut.tracing.numbers import Fraction, Recording, Width

_OF_ACTIVATIONS = (nn.Unflatten,)  # the layers of torch that keep sizes of activations
_DEPTH = 3  # of plain objects and containers below a module's attribute


def tag_attributes(model: nn.Module, recording: Recording) -> dict[tuple[str, str], int]:
    """Replace the integers above 1 that modules of `model` (a copy) keep by numbers that remember their attribute.

    Items of tuples, lists and dicts and fields of plain objects are named with dots (`widths.1`, `config.dim`). The
    layers of torch itself are left out, whose numbers follow from the shapes of their tensors, but for those that have
    no tensors. The numbers belong to `recording`. Returns what was tagged, by module path and attribute.
    """
    found: dict[tuple[str, str], int] = {}

    def number(path: str, name: str, value: int) -> Width:
        found[path, name] = value
        return Width(value, Attribute(path, name, value), recording)

    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.") and not isinstance(module, _OF_ACTIVATIONS):
            continue
        for name, value in list(vars(module).items()):
            if not name.startswith("_") and name != "training":
                new = _tag(value, path, name, number)
                if new is not value:
                    vars(module)[name] = new
    return found


def _tag(value: Any, path: str, name: str, number: Callable[[str, str, int], Width]) -> Any:
    """The value with its integers tagged; lists, dicts and objects are changed in place, because they are copies."""
    if type(value) is int and value > 1:
        return number(path, name, value)
    if name.count(".") == _DEPTH or isinstance(value, (nn.Module, torch.Tensor, type, Width, Fraction)):
        return value
    if type(value) is tuple:
        items = [_tag(item, path, f"{name}.{i}", number) for i, item in enumerate(value)]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else tuple(items)
    if isinstance(value, types.FunctionType):
        cells = {k: _tag(v, path, f"{name}.{k}", number) for k, v in closure(value).items() if type(v) is int}
        return with_closure(value, cells) if cells else value
    for key, item in _entries(value):
        new = _tag(item, path, f"{name}.{key}", number)
        if new is not item:
            set_entry(value, key, new)
    return value


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
