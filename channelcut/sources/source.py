"""A named model, and the inputs that it is run on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.adapters import Adapter, adapter_of
from channelcut.adapters.user_file import functions_beside, with_functions
from channelcut.core.errors import UserError
from channelcut.core.specs import InputSpec

RANDOM = "random"


@dataclass(frozen=True)
class Source:
    """A named model.

    make: makes it with its weights, in evaluation mode; alone, or with example inputs as (model, inputs).
    inputs: those that were asked for, else the customary ones.
    weights: which weights it has, in words that begin with `random` where nothing was trained; empty: not known.
    weights_file: the file that they were asked to be loaded from.
    beside: the module that the factory is in, whose functions belong to the model.
    """

    name: str
    make: Callable[[], Any]
    inputs: tuple[InputSpec, ...] = ()
    weights: str = ""
    weights_file: Path | None = None
    beside: Callable[[], ModuleType] | None = None

    def adapter(self, model: nn.Module) -> tuple[Adapter, list[str]]:
        """What knows how the model is deployed, prepared and evaluated; and what a reader of a report has to know.

        Args:
            model: what `open` made.
        """
        inner = adapter_of(model)
        if self.beside is None:
            return inner, []
        functions, left = functions_beside(self.beside())
        return (with_functions(inner, functions) if functions else inner), left

    def build(self) -> nn.Module:
        """Make the model."""
        return _parts(self.make())[0]

    def open(self) -> tuple[nn.Module, Any]:
        """Make the model and an example input for it, as `channelcut.prune` takes it.

        What its own code gives is taken unless inputs of another shape, type or name were asked for.

        Raises:
            UserError: nobody says which input it takes.
        """
        model, own = _parts(self.make())
        if own is not None and (not self.inputs or specs_of(own) == self.inputs):
            return model, own
        if not self.inputs:
            raise UserError(
                f"The input shape of {self.name} is not known. Give it, batch first: --input 1x3x640x640; several "
                "inputs as --input NAME=SHAPE each, other types as 1x3x640x640:uint8. Or let the factory return "
                "(model, inputs)."
            )
        return model, example_inputs(self.inputs, model)


def example_inputs(specs: Sequence[InputSpec], model: nn.Module | None = None) -> Any:
    """Inputs of these kinds, the same in every run, by a generator of its own.

    Floats are uniform in [0, 1) as images are, uint8 from 0 to 255, truth values drawn; other integers, which are
    often indices, are zero. One input is a tensor, several are a tuple; with names they are a dict, for which unnamed
    ones get the names of the forward's first parameters.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = [_drawn(spec, generator) for spec in specs]
    if not any(spec.name for spec in specs):
        return tensors[0] if len(tensors) == 1 else tuple(tensors)
    parameters = list(inspect.signature(model.forward).parameters) if model is not None else []
    names = [spec.name or (parameters[i] if i < len(parameters) else "") for i, spec in enumerate(specs)]
    if len(set(names)) != len(names) or "" in names:
        raise UserError(
            f"The inputs {', '.join(map(str, specs))} do not name each one once. Expected --input NAME=SHAPE for every "
            f"input, by the names of the forward's parameters: {', '.join(parameters) or 'not known'}."
        )
    return dict(zip(names, tensors, strict=True))


def specs_of(x: Any) -> tuple[InputSpec, ...] | None:
    """What an example input consists of; None where it is more than tensors side by side."""
    named = [("", x)] if isinstance(x, Tensor) else list(x.items()) if isinstance(x, Mapping) else None
    if named is None:
        named = [("", value) for value in x] if isinstance(x, (tuple, list)) else [("", x)]
    if not named or not all(isinstance(value, Tensor) and value.dim() for _, value in named):
        return None
    return tuple(InputSpec(tuple(t.shape), str(t.dtype).removeprefix("torch."), str(name)) for name, t in named)


def _parts(made: Any) -> tuple[nn.Module, Any]:
    return made if isinstance(made, tuple) else (made, None)


def _drawn(spec: InputSpec, generator: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.rand(spec.shape, generator=generator).to(dtype)
    if dtype == torch.uint8:
        return torch.randint(0, 256, spec.shape, generator=generator, dtype=dtype)
    if dtype == torch.bool:
        return torch.rand(spec.shape, generator=generator) < 0.5
    return torch.zeros(spec.shape, dtype=dtype)
