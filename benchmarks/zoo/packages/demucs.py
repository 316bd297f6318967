"""demucs: the three generations, thin, on half a second of stereo sound."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.packages.recipe import Recipe

DISTRIBUTION = "demucs"
SOUND = ((1, 2, 22050),)
SOURCES: dict[str, Any] = {"sources": ["voice", "rest"], "channels": 16}
RECIPES: dict[str, Recipe] = {
    "Demucs": Recipe("demucs.demucs:Demucs", {**SOURCES, "depth": 4}, SOUND),
    "HDemucs": Recipe("demucs.hdemucs:HDemucs", {**SOURCES, "depth": 5}, SOUND),
    "HTDemucs": Recipe("demucs.htdemucs:HTDemucs", {**SOURCES, "t_layers": 2, "t_heads": 4, "segment": 1}, SOUND),
}


def names() -> list[str]:
    """The recipes; the published models have 64 channels."""
    return list(RECIPES)


def example(name: str) -> Example:
    """One network with random weights."""
    return RECIPES[name].example()
