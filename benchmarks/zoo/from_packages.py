"""Models that pip brings without a checkout: segmentation, restoration, medicine, text, faces, detection, sound."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import Any

from benchmarks.zoo.catalogue import Example

LIBRARIES = ("smp", "pytorchcv", "monai", "spandrel", "doctr", "effdet", "facenet", "asteroid", "demucs", "rfdetr")


def library(name: str) -> Any:
    """The file of a library."""
    return importlib.import_module(f"benchmarks.zoo.packages.{name}")


def names() -> list[str]:
    """`library/model` of every library."""
    return [f"{short}/{name}" for short in LIBRARIES for name in library(short).names()]


def example(name: str) -> Example:
    """A model with random weights, in evaluation mode."""
    short, model = name.split("/", 1)
    built: Example = library(short).example(model)
    return built


def version() -> str:
    """The libraries with their versions."""
    return ", ".join(f"{library(short).DISTRIBUTION} {installed(library(short).DISTRIBUTION)}" for short in LIBRARIES)


def installed(distribution: str) -> str:
    """The version of a library, or that it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"
