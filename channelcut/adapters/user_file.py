"""A network of the user's own: what beside its factory evaluates it, reads its outputs, gives loss and inputs."""

from __future__ import annotations

import inspect
import numbers
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from channelcut.adapters.base import Adapter
from channelcut.core.copies import private_copy
from channelcut.core.detections import Detections
from channelcut.core.errors import UserError
from channelcut.core.words import kind_of
from channelcut.recovery.distil.pool import Labelled
from channelcut.recovery.images import Preprocessing

Functions = Mapping[str, Callable[..., Any]]

SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "evaluate": ("model",),
    "loss": ("model", "batch"),
    "batches": (),
    "detections": ("outputs",),
}
"""What may stand beside a factory, and what each is called with."""


def functions_beside(module: ModuleType) -> tuple[Functions, list[str]]:
    """The functions of a module that can be called as `SIGNATURES` says, and why others of these names are not."""
    found: dict[str, Callable[..., Any]] = {}
    left = []
    for name, given in SIGNATURES.items():
        function = getattr(module, name, None)
        if not inspect.isfunction(function):
            continue
        try:
            inspect.signature(function).bind(*given)
        except TypeError:
            left.append(
                f"{name}{inspect.signature(function)} of {_file(function).name} was not called: beside a factory "
                f"channelcut calls {name}({', '.join(given)})."
            )
        else:
            found[name] = function
    return found, left


class UserFile(Adapter):
    """The functions beside a factory; all else is the affair of the library's adapter, see `with_functions`."""

    functions: Functions = MappingProxyType({})

    def said(self, name: str) -> str:
        """One of the functions in words, with its file."""
        return f"{name}() of {_file(self.functions[name]).name}"

    def evaluate(self, model: nn.Module | str | Path, data: Any = None, **_: Any) -> dict[str, float] | None:  # noqa: ARG002
        """What `evaluate(model)` says of a copy in evaluation mode, by name; a number alone is called `score`.

        Raises:
            UserError: it fails, or returns something else; names the function, the file and the line.
        """
        function = self.functions.get("evaluate")
        if function is None or not isinstance(model, nn.Module):
            return None
        found = _called(function, private_copy(model).eval())
        named = found if isinstance(found, Mapping) else {"score": found}
        scores = {str(name): _number(value) for name, value in named.items()}
        if not scores or None in scores.values():
            raise UserError(
                f"{_place(function)} returns {kind_of(found)}{_contents(found)}. Expected a number, or a dict of "
                "numbers by name, such as {'map': 0.37}."
            )
        return {name: value for name, value in scores.items() if value is not None}

    def loss(self, model: nn.Module, batch: Any) -> Tensor | None:
        """What `loss(model, batch)` returns, a tensor of one number; None where there is no such function.

        Raises:
            UserError: it fails, or returns something else; names the function, the file and the line.
        """
        function = self.functions.get("loss")
        if function is None:
            return None
        found = _called(function, model, batch)
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            raise UserError(
                f"{_place(function)} returns {kind_of(found)}{_contents(found)}. Expected a tensor of one "
                "floating-point number, which gradients can be taken of."
            )
        return found.reshape(())

    def labelled(
        self,
        model: nn.Module,
        data: Any,
        shape: tuple[int, ...],
        preprocessing: Preprocessing | None = None,
        epochs: int = 1,
        *,
        plain: bool = False,
    ) -> Labelled | None:
        """Where nothing is given: what `batches` gives, with `loss` where there is one; else the library's labels."""
        if data is not None or "batches" not in self.functions:
            return super().labelled(model, data, shape, preprocessing, epochs, plain=plain)
        loss: Any = self.loss if "loss" in self.functions else None  # it is there, and so returns a tensor
        return Labelled(self.batches(), loss)

    def batches(self) -> Iterator[Any] | None:
        """What `batches()` gives, one after the other; None where there is no such function.

        Raises:
            UserError: it fails, at once or later, or returns nothing to go through; names the function and the line.
        """
        function = self.functions.get("batches")
        if function is None:
            return None
        found = _called(function)
        if not isinstance(found, Iterable) or isinstance(found, (Tensor, np.ndarray, str, bytes, Mapping)):
            raise UserError(
                f"{_place(function)} returns {kind_of(found)}. Expected an iterable of batches, each what the network "
                "takes, or (what it takes, targets)."
            )
        return _watched(function, found)


def detections_beside(owner: Adapter) -> Detections | None:
    """What reads detections in the outputs, of the functions beside a factory; None where there is no such function.

    What it raises comes out as an error that names it and the line.
    """
    function = owner.functions.get("detections") if isinstance(owner, UserFile) else None
    return None if function is None else partial(_called, function)


def with_functions(adapter: Adapter, functions: Functions) -> UserFile:
    """An adapter that does as the library's, and has the functions beside a factory."""

    class Both(UserFile, type(adapter)):  # type: ignore[misc]  # the library's class is known at run time only
        pass

    found: UserFile = Both()
    found.functions = functions
    return found


def _watched(function: Callable[..., Any], found: Iterable[Any]) -> Iterator[Any]:
    """The items, with errors on the way told as those of the call."""
    items = _called(iter, found, said_of=function)
    end = object()
    while (item := _called(next, items, end, said_of=function)) is not end:
        yield item


def _called(function: Callable[..., Any], *given: Any, said_of: Callable[..., Any] | None = None) -> Any:
    try:
        return function(*given)
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:300]
        said = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise UserError(
            f"{_place(said_of or function, error)} fails with {said}. Call it from Python to see where it comes from."
        ) from error


def _place(function: Callable[..., Any], error: BaseException | None = None) -> str:
    """The function with its file and line: that of the error, as far as the user's own file was in it."""
    code: Any = inspect.unwrap(function).__code__  # type: ignore[attr-defined]
    frames = traceback.walk_tb(error.__traceback__) if error is not None else ()
    lines = [line for frame, line in frames if frame.f_code.co_filename == code.co_filename]
    return f"{code.co_name}() of {code.co_filename}, line {lines[-1] if lines else code.co_firstlineno},"


def _file(function: Callable[..., Any]) -> Path:
    return Path(inspect.unwrap(function).__code__.co_filename)  # type: ignore[attr-defined]


def _number(value: Any) -> float | None:
    """A number of Python, NumPy or torch; NaN, which a score of nothing is, is one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, (numbers.Real, np.floating, np.integer)) else None


def _contents(found: Any) -> str:
    if isinstance(found, Mapping):
        return f" ({', '.join(f'{name}: {kind_of(value)}' for name, value in list(found.items())[:4]) or 'empty'})"
    return f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
