"""`trace`: record an eager run, or else torch.export; say which op or line stopped both."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from channelcut.core.copies import cloned, doubled, private_copy
from channelcut.core.entries import FORWARD, call_entry, called, calls_of, further_entries
from channelcut.core.errors import TraceError, UserError
from channelcut.core.graph import Graph
from channelcut.core.inputs import Inputs
from channelcut.core.randomness import OwnRandom
from channelcut.tracing.dispatch import record
from channelcut.tracing.eager import uncompiled
from channelcut.tracing.hollow import weightless_copy
from channelcut.tracing.numbers import Recording
from channelcut.tracing.resolution import multiple_needed
from channelcut.tracing.source import innermost_line
from channelcut.tracing.torch_export import export


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    training: bool = False,
    warm: bool = False,
    front_end: str = "auto",
    arithmetic: bool = False,
) -> Graph:
    """Turn one forward of `model` into a `Graph`.

    Args:
        model: any module; a copy is traced, the original keeps its mode, buffers and attributes.
        args: positional inputs of the forward, as the user would pass them; or a lone `Calls` of several entries, which
            are recorded one after another.
        kwargs: keyword inputs.
        training: trace the forward of training mode (auxiliary heads) instead of evaluation.
        warm: trace the second forward, which finds what the first one has stored (anchors of a shape).
        front_end: `dispatch` (record the ATen ops of one eager run), `export` (torch.export) or `auto` (record; where
            that refuses, export).
        arithmetic: run the forward with its arithmetic. Without, it is run so where values decide how it goes on.

    Raises:
        UserError: the forward itself fails on these inputs.
        TraceError: the forward runs, but no front end can follow it.
    """
    if front_end not in FRONT_ENDS:
        raise UserError(f"There is no front end {front_end!r}: use 'auto', 'export' or 'dispatch'.")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UserError(f"The model is wrapped in {type(model).__name__}. Pass the network itself: model.module.")
    keywords = dict(kwargs or {})
    if further_entries((args, keywords)):
        front_end = _recorder_alone(front_end)
    warm_up = (args, keywords) if warm else None
    if not (arithmetic or warm or front_end == "export"):
        found = _hollow(model, (args, keywords), training=training)
        if found is not None:
            return found
    refusals: list[str] = []
    for name, follow in FRONT_ENDS[front_end]:
        try:
            return follow(lambda: _copy(model, training, warm_up), (args, keywords), training=training)
        except Exception as error:  # noqa: BLE001  the user's forward may raise anything; it is reported below
            if not refusals:
                _check_forward(_copy(model, training), args, keywords)
            reason = str(error) if isinstance(error, TraceError) else f"{type(error).__name__}: {_first_line(error)}"
            refusals.append(f"{name}: {reason}")
    raise TraceError(
        f"The forward runs, but no front end can follow it. {' '.join(dict.fromkeys(refusals))} See the remedy at the "
        "line that is named, or take that part out of the model that is pruned."
    )


def _recorded(make: Callable[[], nn.Module], inputs: Inputs, **options: Any) -> Graph:
    """Record the forward of the copy that `make` gives; see `record` for the options.

    A forward may keep a number beyond the model, as the key of a cache for instance, and find a plain one there the
    next time. So where a number of a recording is still in somebody's hands when the copy is gone, the forward is
    recorded once more: as every later analysis will find it.
    """
    recording = Recording()
    graph = record(make(), *cloned(inputs), recording=recording, **options)
    kept = weakref.ref(recording)
    del recording
    if kept() is not None:
        gc.collect()  # it may only be in a cycle of references
    return graph if kept() is None else record(make(), *cloned(inputs), **options)


def _exported(make: Callable[[], nn.Module], inputs: Inputs, *, training: bool) -> Graph:
    """The graph of torch.export."""
    return export(make(), *cloned(inputs), training=training)


FRONT_ENDS: dict[str, list[tuple[str, Callable[..., Graph]]]] = {
    "dispatch": [("recording its ops", _recorded), ("recording its ops", partial(_recorded, widths=False))],
    "export": [("torch.export", _exported)],
}
FRONT_ENDS["auto"] = FRONT_ENDS["dispatch"] + FRONT_ENDS["export"]


def trace_modes(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    front_end: str = "auto",
    arithmetic: bool = False,
) -> list[Graph]:
    """Trace the forward of evaluation mode and, where it does something else, that of training mode.

    Auxiliary and one-to-many heads may run in training alone; their layers lose the channels that the others lose. A
    forward that needs targets in training mode cannot be traced there; the first graph is then the only one.
    """
    first = trace(model, args, kwargs, front_end=front_end, arithmetic=arithmetic)
    second = _trained(model, args, dict(kwargs or {}), arithmetic=arithmetic)
    ops = second is not None and first.front_end == second.front_end  # front ends name ops differently
    return [first] if second is None or _reads(second, ops) <= _reads(first, ops) else [first, second]


def _trained(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, arithmetic: bool) -> Graph | None:
    """The forward of training mode, or None where it does not run."""
    once = (args, kwargs)
    both = (once, doubled(once))  # batch norm needs more than one value a channel; some fix their batch
    for inputs in () if arithmetic else both:
        graph = _hollow(model, inputs, training=True)
        if graph is not None:
            return graph
    for inputs in both:
        try:
            return _recorded(lambda: _copy(model, True), inputs, training=True)
        except Exception:  # noqa: BLE001  whatever the forward raises without targets
            continue
    return None


def _hollow(model: nn.Module, inputs: Inputs, *, training: bool) -> Graph | None:
    """The ops of a forward without its arithmetic; None where it fails so, or where values decide how it goes on."""
    try:
        graph = _recorded(lambda: weightless_copy(model).train(training), inputs, training=training, hollow=True)
    except Exception:  # noqa: BLE001  the forward with its arithmetic tells whose fault it is
        return None
    return None if graph.unsettled else graph


def _reads(graph: Graph, ops: bool) -> set[tuple[str, str]]:
    """The parameters that a graph reads, and the ops that read them."""
    nodes = graph.nodes
    return {
        (node.name.removeprefix("aten.native_").removeprefix("aten.") if ops else "", nodes[ref.index].name)
        for node in graph.calls
        for ref in node.inputs
        if nodes[ref.index].kind == "state" and nodes[ref.index].value.dtype.is_floating_point
    }


def _copy(model: nn.Module, training: bool, warm_up: Inputs | None = None) -> nn.Module:
    """A copy to run, which has run once on `warm_up`."""
    copy = private_copy(model).train(training)
    if warm_up is not None:
        _run(copy, *cloned(warm_up))
    return copy


def result_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the forward of a copy returns in evaluation mode."""
    return _run(_copy(model, False), *cloned((args, dict(kwargs))))


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One forward of a copy on copies of the inputs, which it may write into."""
    with torch.no_grad(), uncompiled(), OwnRandom():
        return called(model, (args, kwargs))


def _recorder_alone(front_end: str) -> str:
    """The front end that follows several entries.

    Raises:
        UserError: another one is asked for.
    """
    if front_end == "export":
        raise UserError(
            "torch.export follows forward alone, and entries names further methods. Expected tracer='auto' or "
            "'dispatch' (--tracer), which record them all."
        )
    return "dispatch"


def _check_forward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run each entry once, so that a model that cannot run is told apart from one that cannot be traced."""
    for name, inputs in calls_of((args, kwargs)).items():
        _check_entry(model, name, *inputs)


def _check_entry(model: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with torch.no_grad(), uncompiled(), OwnRandom():
            call_entry(private_copy(model), name, (args, kwargs))

    try:
        try:
            run(*cloned((args, kwargs)))
        except Exception:  # noqa: BLE001  some forwards refuse to run in a mode: that one is on is not their fault
            with torch.no_grad():
                call_entry(model, name, (args, kwargs))
    except Exception as error:
        shapes = ", ".join(describe(a) for a in (*args, *kwargs.values()))
        multiple, size = multiple_needed(run, args, kwargs)
        given = "--input (or example_inputs)" if name == FORWARD else f"what entries gives {name}"
        if multiple:
            raise UserError(
                f"The model's own {name} fails on the example inputs ({shapes}) and runs on {size}: height and width "
                f"have to be multiples of {multiple} ({type(error).__name__}: {_first_line(error)}). Give such a size, "
                f"--input {size} on the command line."
            ) from error
        raise UserError(
            f"The model's own {name} fails on the example inputs ({shapes}): {type(error).__name__}: "
            f"{_first_line(error)}, at {innermost_line(error.__traceback__) or 'an unknown line'}. Expected: inputs "
            f"of the shape and dtype that it takes, in evaluation mode. Check {given}, then run it on them by hand."
        ) from error


def describe(value: Any) -> str:
    """Name a value by shape and dtype for an error message, as in `1x3x640x640 float32`."""
    if isinstance(value, torch.Tensor):
        return "x".join(map(str, value.shape)) + " " + str(value.dtype).removeprefix("torch.")
    return type(value).__name__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
