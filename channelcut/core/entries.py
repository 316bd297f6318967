"""Entries: the methods of a model that are run, `forward` first, and what each is given.

What trains a part of a model that `forward` never reaches, such as an auxiliary head, may be a method of its own. All
entries are run one after another wherever a model with one entry is run once: they are one computation.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs, finite_inputs, split_inputs

FORWARD = "forward"
Entries = Mapping[str, Any] | Sequence[str]
"""Names of methods, which take what `forward` takes, or the example inputs of each by its name."""


class Calls(NamedTuple):
    """Stands in the place of the inputs where a model has several entries: the inputs of each, `forward` first."""

    inputs: dict[str, Inputs]


def with_entries(model: nn.Module, inputs: Inputs, entries: Entries | None) -> Inputs:
    """The inputs of `forward`, together with those of further entries where there are any.

    Raises:
        UserError: an entry is no method of the model, or its inputs are none.
    """
    if not entries:
        return inputs
    if isinstance(entries, str):
        entries = (entries,)
    if not isinstance(entries, (Mapping, Sequence)) or not all(isinstance(name, str) for name in entries):
        raise UserError(
            f"entries={entries!r}: expected the names of methods that take what forward takes, such as "
            "['forward_train'], or example inputs by name, such as {'forward_train': (x, targets)}."
        )
    calls = {FORWARD: inputs}
    for name in entries:
        if name == FORWARD:
            _check_forward(entries, inputs)
        else:
            _check_method(model, name)
            calls[name] = _own_inputs(name, entries[name]) if isinstance(entries, Mapping) else inputs
    return ((Calls(calls),), {}) if len(calls) > 1 else inputs


def calls_of(inputs: Inputs) -> dict[str, Inputs]:
    """The inputs of every entry by its name, `forward` first."""
    args, _ = inputs
    return args[0].inputs if len(args) == 1 and isinstance(args[0], Calls) else {FORWARD: inputs}


def further_entries(inputs: Inputs) -> tuple[str, ...]:
    """The names of the entries beside `forward`."""
    return tuple(name for name in calls_of(inputs) if name != FORWARD)


def called(model: nn.Module, inputs: Inputs) -> Any:
    """Run every entry of a model; the result of `forward`, or where there are several entries all results by name."""
    results = {name: call_entry(model, name, given) for name, given in calls_of(inputs).items()}
    return results if len(results) > 1 else results[FORWARD]


def call_entry(model: nn.Module, name: str, inputs: Inputs) -> Any:
    """Run one entry of a model on inputs of its own."""
    args, kwargs = inputs
    return model(*args, **kwargs) if name == FORWARD else getattr(model, name)(*args, **kwargs)


def result_path(path: str) -> str:
    """The path of an output in the results of several entries; those of `forward` are named as without the others."""
    first, _, rest = path.partition(".")
    return (rest or "0") if first == FORWARD else path


def _check_forward(entries: Entries, inputs: Inputs) -> None:
    """Refuse a second example of `forward`; that it is named is no mistake."""
    if not isinstance(entries, Mapping):
        return
    args, kwargs = split_inputs(entries[FORWARD])
    pairs = zip((*args, *kwargs.values()), (*inputs[0], *inputs[1].values()), strict=False)
    if len(args) != len(inputs[0]) or [*kwargs] != [*inputs[1]] or not all(_same(a, b) for a, b in pairs):
        raise UserError(
            "entries gives forward other inputs than x. Expected one example of forward, which is x: leave 'forward' "
            "out of entries."
        )


def _same(one: Any, other: Any) -> bool:
    tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
    return one is other or (tensors and one.shape == other.shape and torch.equal(one, other))


def _check_method(model: nn.Module, name: str) -> None:
    """Refuse what is no method of the model's own.

    Raises:
        UserError: names the nearest ones.
    """
    found = inspect.getattr_static(model, name, None)
    found = getattr(found, "__func__", found)
    if callable(found) and not isinstance(found, (type, nn.Module)) and not hasattr(nn.Module, name):
        return
    own = _methods(model)
    near = difflib.get_close_matches(name, own, 3, 0.4) or own[:8]
    kind = type(model).__name__
    if isinstance(vars(model)["_modules"].get(name), nn.Module):
        said = f"{name!r} is a module of {kind}, not a method. Write a method that computes what the module is given"
    elif hasattr(nn.Module, name):
        said = f"{name!r} is a method of every module, which computes nothing of an input"
    else:
        said = f"{kind} has no method {name!r}"
    hint = f" The nearest are {', '.join(near)}." if near else f" {kind} has no methods beside forward."
    raise UserError(f"entries: {said}.{hint} An entry is a method that runs a part of the model on example inputs.")


def _methods(model: nn.Module) -> list[str]:
    """The public methods that a model's classes define, and functions that were put on the model."""
    names = [name for name in dir(type(model)) if callable(inspect.getattr_static(type(model), name))]
    names += [name for name, value in vars(model).items() if callable(value)]
    return [name for name in dict.fromkeys(names) if not name.startswith("_") and not hasattr(nn.Module, name)]


def _own_inputs(name: str, given: Any) -> Inputs:
    try:
        return finite_inputs(split_inputs(given))
    except UserError as error:
        raise UserError(f"entries[{name!r}]: {error}") from error
