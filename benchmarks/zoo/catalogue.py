"""Which models there are: a zoo is a module with `names()` and `example(name)`, found by its short name or its path."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, cast

from torch import nn

from channelcut.core.files import write_atomically

ZOOS = ("ultralytics", "torchvision", "timm", "transformers", "packages")
CACHE = "catalogue.json"


@dataclass(frozen=True)
class Example:
    """A model with random weights and inputs that its forward takes.

    `inputs` is a tuple of positional or a dict of keyword inputs. `peer_ignores` names the modules that a pruner with
    a list of layers to ignore is told to leave alone, beside the layers that give the outputs.
    """

    model: nn.Module
    inputs: tuple[Any, ...] | dict[str, Any]
    peer_ignores: tuple[str, ...] = ()

    def run(self) -> Any:
        """One forward."""
        return self.model(**self.inputs) if isinstance(self.inputs, dict) else self.model(*self.inputs)


class Zoo(Protocol):
    """What a zoo's module offers."""

    def names(self) -> list[str]:
        """Every model, by asking the library."""
        ...

    def example(self, name: str) -> Example:
        """Build one with random weights, in evaluation mode."""
        ...


def open_zoo(name: str) -> Zoo:
    """A zoo by its short name, or any module by its import path."""
    path = f"benchmarks.zoo.from_{name}" if name in ZOOS else name
    return cast("Zoo", importlib.import_module(path))


def version(zoo: str) -> str:
    """The version of a zoo's library, beside the figures; a zoo of several libraries says them itself."""
    if zoo == "packages":
        from benchmarks.zoo import from_packages

        return from_packages.version()
    try:
        return metadata.version(zoo)
    except metadata.PackageNotFoundError:
        return "of the working tree"


def names(zoo: str, results: Path) -> list[str]:
    """The names of a zoo; kept beside the results, because asking timm which models are small takes minutes."""
    if zoo not in ZOOS:
        return open_zoo(zoo).names()
    found = version(zoo)
    path = results / CACHE
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if known.get(zoo, {}).get("version") != found:
        known[zoo] = {"version": found, "names": open_zoo(zoo).names()}
        write_atomically(path, json.dumps(known, indent=1).encode())
    return list(known[zoo]["names"])
