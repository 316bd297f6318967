"""Sources that other packages bring: entry points of the group `channelcut.sources`.

A package that declares

    [project.entry-points."channelcut.sources"]
    mylib = "mylib.channelcut:open_model"

makes `mylib:yolo` a model of every command, which is `open_model("yolo", weights, trust)`: a module, or (module,
inputs). `weights` is "pretrained", "random" or empty; `trust` allows what is a pickle with code in it.
"""

from __future__ import annotations

import traceback
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.words import kind_of
from channelcut.sources.weights import first_line

GROUP = "channelcut.sources"


def names() -> list[str]:
    """The prefixes that installed packages bring."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def brought(prefix: str) -> EntryPoint | None:
    """The entry point of a prefix.

    Raises:
        UserError: two packages bring it.
    """
    found = list({(p.value, _distribution(p)): p for p in entry_points(group=GROUP, name=prefix)}.values())
    if len(found) > 1:
        raise UserError(
            f"{prefix}: is brought by several packages: {', '.join(map(_said, found))}. Uninstall all but one."
        )
    return found[0] if found else None


def made(point: EntryPoint, rest: str, weights: str, trust: bool) -> Any:
    """What the function of an entry point returns for the rest of a name: the model in evaluation mode, or with inputs.

    Raises:
        UserError: it cannot be imported, fails, or returns something else.
    """
    name = f"{point.name}:{rest}"
    try:
        function = point.load()
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{name!r}: the entry point {_said(point)} cannot be loaded: {type(error).__name__}: {first_line(error)}. "
            "Install a version of that package that fits, or uninstall it."
        ) from error
    if not callable(function):
        raise UserError(f"{name!r}: the entry point {_said(point)} is {kind_of(function)}. {_EXPECTED}")
    try:
        found = function(rest, weights, trust)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        raise UserError(
            f"{name!r}: {_said(point)} fails with {type(error).__name__}: {first_line(error)} ({frames[-1].filename}, "
            f"line {frames[-1].lineno}). {_EXPECTED}"
        ) from error
    model, *inputs = found if isinstance(found, (tuple, list)) else (found,)
    if not isinstance(model, nn.Module) or len(inputs) > 1:
        raise UserError(f"{name!r}: {_said(point)} returns {kind_of(found)}. {_EXPECTED}")
    return (model.eval(), inputs[0]) if inputs else model.eval()


_EXPECTED = (
    "Expected a function (rest, weights, trust) that returns a torch.nn.Module, or (module, inputs) with inputs as "
    "channelcut.prune takes them."
)


def version_of(prefix: str) -> str:
    """The package that brings a prefix, with its version; empty where none does."""
    point = brought(prefix)
    return _distribution(point) if point is not None else ""


def _said(point: EntryPoint) -> str:
    package = _distribution(point)
    return f"{point.value}{f' of {package}' if package else ''}"


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""
