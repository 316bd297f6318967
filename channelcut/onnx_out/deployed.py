"""ONNX from the deployed form of a network, under the names and with the metadata that loaders expect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from channelcut.core.deployed import Deployed
from channelcut.onnx_out.module import DEFAULTS, ExportOptions, ExportReport, onnx_from_module


def onnx_from_deployed(
    deployed: Deployed,
    path: Path,
    options: ExportOptions = DEFAULTS,
    samples: Sequence[tuple[Any, ...]] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write a deployed form to `path`, see `module.onnx_from_module`."""
    options = replace(
        options,
        input_names=deployed.input_names,
        output_names=deployed.output_names,
        properties=tuple(deployed.metadata.items()),
        unrolled=deployed.unrolled,
    )
    return onnx_from_module(deployed.module, deployed.inputs, path, options, samples, on_progress)
