"""What callers hand in: a network and the inputs of its forward."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.core.errors import UserError
from channelcut.core.words import kind_of, with_article

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the keyword inputs of a forward."""


def split_inputs(x: Any) -> Inputs:
    """Positional and keyword inputs: a tensor, a tuple or list of positional ones, or a dict of keyword ones.

    Raises:
        UserError: `x` is something else.
    """
    given = [x] if isinstance(x, Tensor) else list(x.values()) if isinstance(x, Mapping) else x
    if isinstance(given, (tuple, list)):
        for value in given:
            if isinstance(value, Tensor) and not value.numel():
                raise UserError(
                    f"The example input x holds a tensor of shape {tuple(value.shape)}, which has no elements. "
                    "Expected inputs as the model takes them in deployment, with a batch of at least one."
                )
        return ((), dict(x)) if isinstance(x, Mapping) else (tuple(given), {})
    raise UserError(
        f"The example input x is {kind_of(x)}. Expected a tensor, a tuple of positional inputs or a dict of "
        "keyword inputs, as the model's forward takes them."
    )


def positional_inputs(model: nn.Module, x: Any) -> tuple[Any, ...]:
    """The inputs of a forward by position, those with names too.

    Raises:
        UserError: an input can only be passed by its name, or one before it is missing.
    """
    args, kwargs = split_inputs(x)
    if not kwargs:
        return args
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise UserError(
            f"The inputs {', '.join(kwargs)} do not fit the forward of {type(model).__name__} ({error}). Expected the "
            "names of its parameters."
        ) from error
    if bound.kwargs:
        raise UserError(
            f"An ONNX file has positional inputs, and {', '.join(bound.kwargs)} can only be passed to the forward of "
            f"{type(model).__name__} by name, or after inputs that are not given. Pass every input of the forward up "
            "to "
            "the last one."
        )
    return bound.args


def shapes_of(inputs: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of the tensors in inputs, in their order."""
    return tuple(tuple(value.shape) for value in pytree.tree_leaves(inputs) if isinstance(value, Tensor))


def of_batch(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The inputs with another batch: the first item, repeated.

    Raises:
        UserError: that is no number of items.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise UserError(f"batch={batch!r}: expected a number of items, at least 1.")
    repeated: tuple[Any, ...] = pytree.tree_map_only(
        Tensor, lambda t: torch.cat([t[:1]] * batch) if t.ndim else t, inputs
    )
    return repeated


def check_kind(value: Any, kind: type, name: str, made_by: str) -> None:
    """Refuse a value that is not what another step makes.

    Raises:
        UserError: says what it is, and what makes the right one.
    """
    if not isinstance(value, kind):
        raise UserError(f"{name} is {kind_of(value)}. Expected {with_article(kind.__name__)}, as {made_by} makes it.")


def check_whole(value: Any, name: str, least: int = 1) -> None:
    """Refuse what is no whole number of at least so many."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}={value!r}: expected a whole number from {least} on.")


def check_above_zero(value: Any, name: str, unit: str) -> None:
    """Refuse what is no number above 0; infinity is one. `unit` says what it counts."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UserError(f"{name}={value!r}: expected {unit} above 0.")


def finite_inputs(inputs: Inputs) -> Inputs:
    """The same inputs, which a proof can compare outputs on.

    Minus infinity among other values is left alone: masks of attention hold it.

    Raises:
        UserError: a tensor holds NaN or infinity.
    """
    args, kwargs = inputs
    named = [(f"input {place}", value) for place, value in enumerate(args)] + list(kwargs.items())
    for name, value in named:
        if not isinstance(value, Tensor) or value.is_meta or not (value.is_floating_point() or value.is_complex()):
            continue
        parts = torch.view_as_real(value) if value.is_complex() else value
        wrong = parts.isnan() | (parts == float("inf"))
        if bool(wrong.any()) or bool(parts.isinf().all()):
            raise UserError(
                f"The example input x is not finite: {name} ({'x'.join(map(str, value.shape))}) holds NaN or infinity, "
                "on which no outputs can be compared. Expected values as the model gets them in deployment, such as "
                "torch.rand for images."
            )
    return inputs


def check_values(model: nn.Module) -> None:
    """Refuse a model whose tensors have shapes and no values.

    Raises:
        UserError: names the first ones.
    """
    empty = [name for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if empty:
        raise UserError(
            f"The model has no weights: {', '.join(empty[:3])}{' and others' if len(empty) > 3 else ''} are on the "
            "meta "
            "device, so nothing can be ranked or proven. Load the weights first: model.to_empty(device='cpu'), then "
            "model.load_state_dict(...), or load_state_dict(..., assign=True)."
        )


def check_callable(value: Any, name: str, call: str) -> None:
    """Refuse what is neither None nor a function; `call` shows how it is called."""
    if value is not None and not callable(value):
        raise UserError(f"{name} is {kind_of(value)}. Expected a function that is called as {call}, or None.")


def check_patterns(value: Any, name: str, on: str) -> None:
    """Refuse what is neither None nor a sequence of texts; `on` says what they are compared with."""
    if value is None:
        return
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{name}={value!r}: expected a sequence of patterns on {on}.")


def check_path(value: Any, name: str) -> None:
    """Refuse what names no file or folder."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise UserError(f"{name} is {value!r}, {kind_of(value)}. Expected a path.")


def check_network(model: Any) -> None:
    """Refuse what is not a network itself, but a wrapper that trains, distributes or compiles one.

    Nothing of the model is called for that: the `train` of Ultralytics' `YOLO` starts a training.

    Raises:
        UserError: names the wrapper and where the network is.
    """
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise UserError(f"The model is {with_article(kind)}. Expected a torch.nn.Module{_remedy(model)}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            f"The model is {with_article(kind)}, which torch.jit has compiled: its code cannot be followed or cut. "
            "Pass the module that it was made from; where there is only the file, export it as ONNX and use "
            "channelcut.from_onnx."
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UserError(f"The model is wrapped in {kind}. Pass the network itself: model.module.")
    if kind == "OptimizedModule" and "_orig_mod" in model._modules:
        raise UserError("The model is wrapped by torch.compile. Pass the network itself: model._orig_mod.")
    for path, module in model.named_modules():
        if not _switches(type(module)):
            where = f"{path} in the model" if path else "The model"
            raise UserError(
                f"{where} is {kind_of(module)}, whose train() is no switch between training and evaluation "
                f"mode: calling it may start a training. Expected the network itself{_remedy(module)}."
            )
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        raise UserError(
            f"The model is {with_article(kind)}, which has no forward. Expected the network itself{_remedy(model)}."
        )


def _remedy(model: Any) -> str:
    """Where the network is, as far as can be seen without running a property."""
    held = {**getattr(model, "__dict__", {}), **vars(model).get("_modules", {})} if hasattr(model, "__dict__") else {}
    for name in ("model", "module", "net", "network"):
        described = inspect.getattr_static(type(model), name, None)
        if isinstance(held.get(name), nn.Module) or (isinstance(described, property) and name == "model"):
            return f": pass model.{name}"
    return ""


def _switches(kind: type[nn.Module]) -> bool:
    """Whether `train` of a class takes a mode: one argument that is a bool, or is called mode, or whatever is given."""
    try:
        parameters = list(inspect.signature(kind.train).parameters.values())[1:]
    except (TypeError, ValueError):  # not written in Python
        return True
    if not parameters:
        return False
    first, *others = parameters
    if first.kind in (first.VAR_POSITIONAL, first.VAR_KEYWORD):
        return True
    needed = [p for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    is_mode = first.name == "mode" or first.annotation in (bool, "bool") or isinstance(first.default, bool)
    return is_mode and not needed


def evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, ascending, from the first to the last."""
    chosen: list[int] = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist() if count else []
    return chosen
