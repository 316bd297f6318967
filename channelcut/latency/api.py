"""What a network takes on the user's hardware: `measure`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from channelcut.adapters import deployed_form, deployed_groups
from channelcut.api import analyze
from channelcut.bench.layers.clock import MeasureOptions
from channelcut.choosing import check_fits
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.core.inputs import (
    check_callable,
    check_kind,
    check_network,
    check_path,
    check_values,
    of_batch,
    positional_inputs,
    shapes_of,
)
from channelcut.core.progress import Progress, Stopwatch
from channelcut.cost.measured import MeasuredCost
from channelcut.cost.table import Table
from channelcut.latency.clocks import clock_of
from channelcut.latency.halved import narrowed, set_right
from channelcut.latency.measuring import DEFAULTS, measured
from channelcut.onnx_out.deployed import onnx_from_deployed


def measure(
    model: nn.Module,
    x: Any,
    *,
    groups: Groups | None = None,
    backend: str = "onnxruntime",
    threads: int = 1,
    batch: int | None = None,
    precision: str = "fp32",
    table: str | Path | None = None,
    deploy: Deploy = DEFAULT,
    options: MeasureOptions = DEFAULTS,
    progress: Progress | None = None,
) -> MeasuredCost:
    """Time the layers of a network on this machine at the widths that a cut may leave, for a plan in milliseconds.

    The deployed form is written as ONNX, and its layers are timed with what the back end fuses into them, one by one
    and in turns; then the network is timed beside one of half its width, which sets right how its parts add up. Times
    of layers are kept on disk, so that another network with the same layers, or a run that goes on after an
    interruption, times only what is missing.

    Args:
        model: a trained network; only copies of it are run.
        x: an example input, as for `analyze`; times are of its size.
        groups: what `analyze` found in the model; by default it is analyzed here.
        backend: what runs the layers: `onnxruntime`, or another of those that `channelcut measure --help` names.
        threads: CPU threads.
        batch: how many items one run computes; by default as many as `x` holds. A plan by this cost is timed at that
            batch too, whatever the example of `prune` holds.
        precision: of the layers, `fp32`, or what else the back end has: `fp16` on a GPU, `int8` (every layer reads int8
            by Q/DQ, as `channelcut.convert_precision` writes it) on a CPU.
        table: the file that times are kept in; by default one in the user's cache directory, named after the device,
            the back end, its version, the precision and the threads.
        deploy: which form of the network will run.
        options: how narrow the intervals have to be, how long that may take, and the step of widths, see
            `MeasureOptions`.
        progress: called as progress(stage, done, total); where it has a method `note(stage, text)`, that hears of the
            time left.

    Returns:
        The milliseconds of the network for any widths of its groups. `step` is what widths should be multiples of on
        this target, `notes` says what did not go well.

    Raises:
        UserError: the table was measured on another target (both are named), the back end is not known or not here, or
            it cannot run the network; the groups are of another model, or no channel of it can go. All but what the
            back end refuses is said before anything is timed.

    Example:
        >>> import tempfile, torch
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cost = cc.measure(model, torch.rand(1, 3, 16, 16), table=Path(folder) / "table.jsonl")
        >>> 0 < cost(np.array([4])) < 1000
        True
    """
    check_network(model)
    check_values(model)
    check_kind(options, MeasureOptions, "options", "channelcut.MeasureOptions(...)")
    check_kind(deploy, Deploy, "deploy", "channelcut.core.deployed.Deploy(...)")
    check_callable(progress, "progress", "progress(stage, done, total)")
    if table is not None:
        check_path(table, "table")
    clock = clock_of(backend, threads, precision)
    inputs = positional_inputs(model, x)
    inputs = inputs if batch is None else of_batch(inputs, batch)
    if groups is None:
        groups = analyze(model, x)
    check_kind(groups, Groups, "groups", "channelcut.analyze")
    check_fits(model, groups)
    groups = deployed_groups(model, groups, deploy)
    _check_cuttable(groups)
    times = Table.open(clock.target(), None if table is None else Path(table))
    watch = Stopwatch(progress)

    def write(network: nn.Module, path: Path) -> None:
        with watch.stage("export"):
            onnx_from_deployed(deployed_form(network, inputs, deploy), path)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deployed.onnx"
        write(model, path)
        cost = measured(path, groups, clock, times, options, watch)
        cost = set_right(
            cost, groups, lambda widths, to: write(narrowed(model, groups, widths), to), path, clock,
            options.network_runs,
        )  # fmt: skip
        return replace(cost, shapes=shapes_of(inputs))


def _check_cuttable(groups: Groups) -> None:
    """Refuse a network of which every width stays: there is nothing to time."""
    if not groups.groups:
        reasons = "; ".join(str(pin) for pin in groups.pins[:3]) or "it has no convolution or linear layer"
        raise UserError(
            f"No channel of this model can be removed, so it has no other widths to be timed at: {reasons}. Expected "
            "at least one convolution or linear layer whose output is not the network's. See `channelcut analyze` for "
            "every pin and its remedy; `channelcut bench` and `channelcut profile` time a network as it is."
        )
