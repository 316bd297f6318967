"""What callers hand in: a network and the inputs of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from channelcut.core.errors import UserError

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
        f"The example input x is a {type(x).__name__}. Expected a tensor, a tuple of positional inputs or a dict of "
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


def check_kind(value: Any, kind: type, name: str, made_by: str) -> None:
    """Refuse a value that is not what another step makes.

    Raises:
        UserError: says what it is, and what makes the right one.
    """
    if not isinstance(value, kind):
        raise UserError(f"{name} is a {type(value).__name__}. Expected a {kind.__name__}, as {made_by} makes it.")


def check_network(model: Any) -> None:
    """Refuse what is not a network itself, but a wrapper that trains, distributes or compiles one.

    Nothing of the model is called for that: the `train` of Ultralytics' `YOLO` starts a training.

    Raises:
        UserError: names the wrapper and where the network is.
    """
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise UserError(f"The model is a {kind}. Expected a torch.nn.Module{_remedy(model)}.")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UserError(f"The model is wrapped in {kind}. Pass the network itself: model.module.")
    if kind == "OptimizedModule" and "_orig_mod" in model._modules:
        raise UserError("The model is wrapped by torch.compile. Pass the network itself: model._orig_mod.")
    for path, module in model.named_modules():
        if not _switches(type(module)):
            where = f"{path} in the model" if path else "The model"
            raise UserError(
                f"{where} is a {type(module).__name__}, whose train() is no switch between training and evaluation "
                f"mode: calling it may start a training. Expected the network itself{_remedy(module)}."
            )
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        raise UserError(f"The model is a {kind}, which has no forward. Expected the network itself{_remedy(model)}.")


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
