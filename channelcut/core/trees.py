"""Nested arguments and results of ops: lists, tuples and dictionaries.

`torch.utils._pytree` also knows what users register, and costs ten times as much. It is right for what a model's
forward takes and returns; between ops there is nothing but these three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any


def leaves(tree: Any) -> list[Any]:
    """Everything in `tree` that is no container, in order."""
    found: list[Any] = []
    _collect((tree,), found)
    return found


def _collect(items: Iterable[Any], found: list[Any]) -> None:
    for item in items:
        if isinstance(item, (list, tuple)):
            _collect(item, found)
        elif isinstance(item, dict):
            _collect(item.values(), found)
        else:
            found.append(item)


def opened(tree: Any) -> Any:
    """A forward's result with dataclasses, which pytrees take for leaves, as dictionaries of their fields."""
    if is_dataclass(tree) and not isinstance(tree, (type, dict)):
        return {field.name: opened(getattr(tree, field.name)) for field in fields(tree)}
    return mapped_only(object, lambda leaf: opened(leaf) if is_dataclass(leaf) else leaf, tree)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with `function` applied to every leaf; containers become plain ones, named tuples keep their class."""
    return mapped_only(object, function, tree)


def mapped_only(kind: type, function: Callable[[Any], Any], tree: Any) -> Any:
    """The same for the leaves of one class."""
    if isinstance(tree, (list, tuple)):
        items = _mapped_items(kind, function, tree)
        if isinstance(tree, list):
            return items
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, dict):
        return dict(zip(tree, _mapped_items(kind, function, tree.values()), strict=True)) if tree else {}
    return function(tree) if isinstance(tree, kind) else tree


def _mapped_items(kind: type, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [
        mapped_only(kind, function, item)
        if isinstance(item, (list, tuple, dict))
        else (function(item) if isinstance(item, kind) else item)
        for item in items
    ]
