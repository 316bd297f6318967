"""Models that pip brings without a checkout: segmentation, restoration, medicine, text, faces, detection, sound.

    pip install segmentation-models-pytorch pytorchcv librosa monai spandrel python-doctr effdet demucs rfdetr
    pip install --no-deps facenet-pytorch asteroid asteroid-filterbanks julius torch-optimizer pytorch-ranger soundfile

facenet-pytorch asks for torch before 2.3, and runs with later ones; of what asteroid asks for, pip finds no set that
goes with torch 2.14. A library that is not installed has no rows. Nothing is downloaded: every weight is random.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from benchmarks.zoo.catalogue import Example

LIBRARIES = ("facenet", "asteroid", "demucs", "monai", "spandrel", "pytorchcv", "smp", "effdet", "rfdetr", "doctr")


def library(name: str) -> Any:
    """The file of a library."""
    return importlib.import_module(f"benchmarks.zoo.packages.{name}")


def names() -> list[str]:
    """`library/model` of every library that is installed."""
    there = {short: library(short) for short in LIBRARIES if installed(library(short).DISTRIBUTION)}
    return [f"{short}/{name}" for short, file in there.items() for name in file.names()]


def example(name: str) -> Example:
    """A model with random weights, in evaluation mode."""
    short, model = name.split("/", 1)
    built: Example = library(short).example(model)
    return built


def version() -> str:
    """The libraries with their versions."""
    distributions = [library(short).DISTRIBUTION for short in LIBRARIES]
    return ", ".join(f"{name} {installed(name) or '(not installed)'}" for name in distributions)


def installed(distribution: str) -> str | None:
    """The version of a library; None where it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
