"""`trace`: try torch.export, then record an eager run; say which op or line stopped both."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from channelcut.core.errors import TraceError, UserError
from channelcut.core.graph import Graph
from channelcut.trace.dispatch import record
from channelcut.trace.export import export
from channelcut.trace.source import innermost_line


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    training: bool = False,
    front_end: str = "auto",
) -> Graph:
    """Turn one forward of `model` into a `Graph`.

    Args:
        model: any module; a copy is traced, the original keeps its mode, buffers and attributes.
        args: positional inputs of the forward, as the user would pass them.
        kwargs: keyword inputs.
        training: trace the forward of training mode (auxiliary heads) instead of evaluation.
        front_end: `export` (torch.export), `dispatch` (record the ATen ops of one eager run) or `auto`
            (export first; where it refuses, record).

    Raises:
        UserError: the forward itself fails on these inputs.
        TraceError: the forward runs, but no front end can follow it.
    """
    if front_end not in ("auto", "export", "dispatch"):
        raise UserError(f"There is no front end {front_end!r}: use 'auto', 'export' or 'dispatch'.")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UserError(f"The model is wrapped in {type(model).__name__}. Pass the network itself: model.module.")
    keywords = dict(kwargs or {})
    refusal = ""
    if front_end != "dispatch":
        try:
            return export(_copy(model, training), args, keywords, training=training)
        except Exception as error:
            refusal = f"{type(error).__name__}: {_first_line(error)}"
            _check_forward(_copy(model, training), args, keywords)
            if front_end == "export":
                raise TraceError(
                    f"torch.export cannot follow this model ({refusal}). Try front_end='dispatch'."
                ) from error
    try:
        return record(_copy(model, training), args, keywords, training=training)
    except TraceError as error:
        raise TraceError(f"{error}" + (f" torch.export refused first ({refusal})." if refusal else "")) from error
    except Exception as error:
        _check_forward(_copy(model, training), args, keywords)
        raise TraceError(f"The forward runs, but not while its ops are recorded ({_first_line(error)}).") from error


def _copy(model: nn.Module, training: bool) -> nn.Module:
    try:
        clone = copy.deepcopy(model)
    except Exception as error:
        raise UserError(
            f"The model cannot be copied ({type(error).__name__}: {_first_line(error)}). channelcut works on a copy so "
            "that yours stays as it is: remove handles, open files or non-leaf tensors from the module's attributes."
        ) from error
    return clone.train(training)


def _check_forward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run the forward once, so that a model that cannot run is told apart from one that cannot be traced."""
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(describe(a) for a in (*args, *kwargs.values()))
        raise UserError(
            f"The model's own forward fails on the example inputs ({shapes}): {type(error).__name__}: "
            f"{_first_line(error)}, at {innermost_line(error.__traceback__) or 'an unknown line'}. Expected: inputs "
            f"of the "
            "shape and dtype that the model takes in deployment. Check --input (or example_inputs), then run the "
            "model on "
            "them once by hand."
        ) from error


def describe(value: Any) -> str:
    """Name a value by shape and dtype for an error message, as in `1x3x640x640 float32`."""
    if isinstance(value, torch.Tensor):
        return "x".join(map(str, value.shape)) + " " + str(value.dtype).removeprefix("torch.")
    return type(value).__name__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
