"""The inputs of a file: their names, types and shapes, with what the caller chooses and what is left to guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from channelcut.core.errors import UserError

# ONNX element types by number. Half precision is widened: it is a way to store weights, not to train them.
DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.int32, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float32, 11: torch.float64, 12: torch.int64, 13: torch.int64, 16: torch.float32,
}  # fmt: skip
Shapes = Mapping[str, Sequence[int]] | Sequence[int]
"""Shape by input name, or the shape of the only input."""

_SIDE = 640  # of an image, where nothing is said
_MOST_CHANNELS = 4  # an axis of at most so many may be the channels of an image


@dataclass(frozen=True)
class InputSpec:
    """One input of the network. `stored`: its shape with the extents that the file fixes, in place of chosen ones."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    stored: tuple[int, ...]


def input_specs(
    items: Sequence[Any], shapes: Shapes | None, size: tuple[int, int] | None, path: Path
) -> tuple[InputSpec, ...]:
    """The inputs with their shapes: those given, else what the file says, else 1 for an open batch and `size`.

    Raises:
        UserError: an axis is open and neither given nor to be had from `size`, or what is given does not fit.
    """
    given = _by_name(shapes, [item.name for item in items], path)
    unknown = sorted(set(given) - {item.name for item in items})
    if unknown:
        names = ", ".join(item.name for item in items)
        raise UserError(f"{path} has no input {unknown[0]!r}. Its inputs are: {names or 'none'}.")
    specs = []
    for item in items:
        declared = _declared(item, path)
        chosen = given.get(item.name)
        if chosen is None:
            chosen = _filled(declared, size)
        if declared is not None and len(chosen or declared) != len(declared):
            raise UserError(
                f"{path}: the input {item.name!r} has {len(declared)} axes ({_text(item)}), but "
                f"{'x'.join(map(str, chosen or ()))} was given. Give as many extents as it has axes."
            )
        if chosen is None:
            _refuse_open(items, item, given, path)
        shape = tuple(int(extent) for extent in chosen)
        stored = tuple(own or extent for own, extent in zip(declared or [None] * len(shape), shape, strict=True))
        specs.append(InputSpec(item.name, shape, DTYPES[item.type.tensor_type.elem_type], stored))
    return tuple(specs)


def _by_name(shapes: Shapes | None, names: Sequence[str], path: Path) -> dict[str, Sequence[int]]:
    if shapes is None or isinstance(shapes, Mapping):
        return dict(shapes or {})
    if len(names) != 1:
        raise UserError(
            f"{path} has {len(names)} inputs ({', '.join(names)}), but one shape was given. Give shapes by name: "
            "input_shapes={'name': (1, 3, 640, 640), ...}."
        )
    return {names[0]: shapes}


def _declared(item: Any, path: Path) -> list[int | None] | None:
    """The extents that the file says, None for open ones; None where it says not even how many there are."""
    kind = item.type.tensor_type
    if not item.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        raise UserError(
            f"{path}: the input {item.name!r} is not a tensor of numbers. Expected a network whose inputs are tensors."
        )
    if not kind.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]


def _filled(declared: list[int | None] | None, size: tuple[int, int] | None) -> list[int] | None:
    """The declared extents with 1 for an open batch, and `size` for the rest; None where some stay open."""
    if declared is None:
        return None
    filled = [1 if axis == 0 and extent is None else extent for axis, extent in enumerate(declared)]
    if size is not None:
        filled = _guessed(filled, size)
    whole = [extent for extent in filled if extent is not None]
    return whole if len(whole) == len(filled) else None


def _guessed(extents: list[int | None], size: tuple[int, int]) -> list[int | None]:
    """Height and width of an image, (N, C, H, W) or with its channels last; the one open axis of anything else."""
    guess: list[int | None] = list(extents)
    if len(guess) == 4:
        last = guess[1] is None and (guess[3] or _MOST_CHANNELS + 1) <= _MOST_CHANNELS
        for axis, extent in zip((1, 2) if last else (2, 3), size, strict=True):
            guess[axis] = guess[axis] or extent
        guess[1] = guess[1] or 3
        return guess
    return [extent or size[1] for extent in guess]


def _refuse_open(items: Sequence[Any], item: Any, given: Mapping[str, Sequence[int]], path: Path) -> NoReturn:
    """Say which axis is open, with the shapes of all inputs in a form that can be pasted."""
    guesses: dict[str, Sequence[int]] = {}
    for other in items:
        known = _declared(other, path) or [None] * 4
        filled = [1 if axis == 0 and extent is None else extent for axis, extent in enumerate(known)]
        guess = [extent or 1 for extent in _guessed(filled, (_SIDE, _SIDE))]
        guesses[other.name] = tuple(given.get(other.name, guess))
    declared = _declared(item, path)
    alone = len(items) == 1
    flags = [f"--input {'' if alone else name + '='}{'x'.join(map(str, shape))}" for name, shape in guesses.items()]
    if declared is None:
        what = f"the input {item.name!r} has no shape"
    else:
        axis = next(axis for axis, extent in enumerate(declared) if extent is None and axis)
        what = (
            f"axis {axis} of the input {item.name!r} is open (its shape is {_text(item)}); only an open batch, axis 0, "
            "is filled in (with 1)"
        )
    raise UserError(
        f"{path}: {what}. Give the size to work at, for example {' '.join(flags)} on the command line, or in Python "
        f"input_shapes={guesses!r} or, for images, size=({_SIDE}, {_SIDE})."
    )


def _text(item: Any) -> str:
    dims = item.type.tensor_type.shape.dim
    return "x".join(
        str(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?" for d in dims
    )
