"""Layers of one file in precisions that were chosen for each, and what each layer alone does to the outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx

from channelcut.core.errors import BudgetError, UserError
from channelcut.cost.mixed import MixedCost
from channelcut.onnx_out.files import load_onnx, save_onnx
from channelcut.onnx_out.metadata import set_metadata
from channelcut.precision.cast import cast, castable, prepared, simulated
from channelcut.precision.convert import BUDGETS, DEFAULTS, Array, PrecisionOptions, Task, check_precisions, task_of
from channelcut.precision.judge import judging
from channelcut.precision.quantize import only, pairs, quantizable, quantized, ranges
from channelcut.precision.search import Errors, Found, Progress, search, units

LOWER = ("fp16", "int8")


@dataclass(frozen=True)
class MixedReport:
    """What was written.

    layers: the precision of each layer that left float32, by its place among the layers of the file.
    refused: places of layers that were to be lowered and stay, because the error would pass the budget.
    error: measured on the `inputs`, by the simulation of `precision.cast`. asked_error: with all that was asked for.
    """

    path: Path
    layers: dict[int, str]
    refused: tuple[int, ...]
    error: float
    asked_error: float
    budget: float
    inputs: str
    size_bytes: int
    compared: str


def layer_outputs(model: onnx.ModelProto) -> list[str]:
    """What the layers of a file write, in their order: those that a precision can be chosen for."""
    names = set(quantizable(model))
    return [node.output[0] for node in model.graph.node if node.name in names]


def sensitivities(
    model: Path,
    precisions: Collection[str],
    images: Array | None = None,
    options: PrecisionOptions = DEFAULTS,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """The output error with one layer alone in a precision, of every layer of a float32 file in turn.

    Args:
        model: the file.
        precisions: some of `fp16` and `int8`.
        images: (n, C, H, W) as the network expects them; int8 needs 8 or more.
        options: on how many inputs errors are measured, and how int8 is calibrated.
        progress: called as progress(stage, done, total).

    Returns:
        For each layer its error by precision; a layer that cannot have one, or that no output sees, lacks it.

    Raises:
        UserError: an unknown precision, or too few images.
    """
    lowering = _Lowering.of(model, precisions, images, options, progress)
    found: list[dict[str, float]] = []
    for place, name in enumerate(lowering.names):
        lowering.task.notify("errors of layers", place, len(lowering.names))
        known = [p for p in precisions if lowering.can(name, p)]
        found.append({p: lowering.error({name: p}) for p in known})
    lowering.task.notify("errors of layers", len(lowering.names), len(lowering.names))
    return found


def convert_mixed(
    model: Path,
    out: Path,
    layers: Mapping[int, str],
    images: Array | None = None,
    options: PrecisionOptions = DEFAULTS,
    progress: Progress | None = None,
) -> MixedReport:
    """Write a float32 file with layers in given precisions; where that passes the budget, with as many as it allows.

    Args:
        model: the float32 file.
        out: where to write.
        layers: `fp16` or `int8` by the place of a layer among those of the file (`layer_outputs`).
        images: as for `sensitivities`.
        options: its budget is by default that of int8.
        progress: called as progress(stage, done, total).

    Raises:
        UserError: an unknown precision, too few images, or a place that the file does not have.
    """
    lowering = _Lowering.of(model, sorted(set(layers.values())), images, options, progress)
    if wrong := sorted(place for place in layers if not 0 <= place < len(lowering.names)):
        raise UserError(
            f"{Path(model).name!r} has {len(lowering.names)} layers, and a precision is asked for layer {wrong[0]}. "
            "Expected places from 0 on."
        )
    wanted = {lowering.names[place]: precision for place, precision in layers.items()}
    wanted = {name: precision for name, precision in wanted.items() if lowering.can(name, precision)}
    found = lowering.within(wanted)
    chosen = {name: wanted[name] for name in found.lowered}
    result = lowering.file(chosen)
    places = {name: place for place, name in enumerate(lowering.names)}
    task, reached = lowering.task, {places[name]: chosen[name] for name in lowering.names if name in chosen}
    inputs = f"{len(task.sample)} {'random inputs' if images is None else 'images'}"
    counts = {p: str(sum(q == p for q in chosen.values())) for p in LOWER}
    said = {f"layers_{name}": count for name, count in counts.items()}
    set_metadata(result, {"precision": "mixed", "output_error": f"{found.error:.3g}", "judged_on": inputs, **said})
    size = save_onnx(result, Path(out))
    refused = tuple(sorted(set(layers) - set(reached)))
    return MixedReport(
        Path(out), reached, refused, found.error, found.unrestricted, task.budget, inputs, size, task.seen.what
    )


@dataclass
class LayersLowered:
    """Writes files of one network with its layers in precisions that were chosen by name.

    cost: has the network's layers in order, and the images that calibrate.
    precisions: by the names of layers; the others stay float32.
    report: of the last file.
    """

    cost: MixedCost
    precisions: Mapping[str, str]
    report: MixedReport | None = None

    def __call__(self, source: Path, out: Path, progress: Progress | None = None) -> MixedReport:
        """Write one, of the network or of a cut of it.

        Args:
            source: its deployed float32 file.
            out: where to write.
            progress: called as progress(stage, done, total).

        Raises:
            UserError: the file has other layers than the network whose errors were measured.
        """
        count = len(layer_outputs(load_onnx(source)))
        if count != len(self.cost.order):
            raise UserError(
                f"{Path(source).name!r} has {count} layers, and errors were measured of {len(self.cost.order)}: which "
                "of them a precision is meant for is not known. Expected the same form of the same network; measure "
                "its errors again (channelcut.mixed_cost)."
            )
        places = {n: self.precisions[key] for n, key in enumerate(self.cost.order) if key in self.precisions}
        options = PrecisionOptions(budget=self.cost.max_error)
        self.report = convert_mixed(source, out, places, self.cost.images, options, progress)
        return self.report

    @property
    def layers(self) -> dict[str, str]:
        """The precisions of the layers of the last file that left float32."""
        reached = {} if self.report is None else self.report.layers
        return {self.cost.order[place]: precision for place, precision in reached.items()}


@dataclass(frozen=True)
class _Lowering:
    """A file, its layers by name, and what they need to be lowered."""

    task: Task
    names: list[str]
    options: PrecisionOptions
    half: bool

    @classmethod
    def of(
        cls,
        model: Path,
        precisions: Collection[str],
        images: Array | None,
        options: PrecisionOptions,
        progress: Progress | None,
    ) -> _Lowering:
        check_precisions(list(precisions), 0 if images is None else len(images))
        if wrong := sorted(set(precisions) - set(LOWER)):
            raise UserError(f"Layers can be {' or '.join(LOWER)} beside float32, not {wrong[0]!r}.")
        source = prepared(load_onnx(Path(model)), "int8 beside fp16" if len(set(precisions)) > 1 else "fp16")
        budget = BUDGETS["int8"] if options.budget is None else options.budget
        task = task_of(source, images, replace(options, budget=budget), progress)
        return cls(task, quantizable(source), options, "fp16" in precisions)

    @cached_property
    def seen(self) -> frozenset[str]:
        """The layers that what is compared hangs on."""
        return frozenset(quantizable(self.task.base))

    @cached_property
    def halves(self) -> dict[str, list[str]]:
        """Of each layer the nodes that become fp16 with it: those up to the next one."""
        found = units(self.task.base, castable(self.task.base, "fp16"))
        return {unit[0]: unit for unit in found if unit[0] in self.seen}

    @cached_property
    def full(self) -> onnx.ModelProto:
        """The file with every layer that is seen in int8."""
        found = ranges(self.task.base, self.task.feeds, self.options.method, self.task.notify)
        return quantized(self.task.source, self.seen, found, half_scales=self.half)

    @cached_property
    def trial(self) -> onnx.ModelProto:
        return judging(self.full, self.task.seen)

    def can(self, name: str, precision: str) -> bool:
        """Whether a layer may have a precision."""
        return name in self.seen if precision == "int8" else name in self.halves

    def error(self, chosen: Mapping[str, str], count: int | None = None) -> float:
        """The output error with layers in these precisions."""
        base = self.task.base
        model = only(self.trial, base, _in(chosen, "int8")) if _in(chosen, "int8") else base
        half = self._half(chosen)
        if half:
            model = simulated(model, "fp16", half.union(pairs(model, half)))
        return self.task.error(model, count)

    def file(self, chosen: Mapping[str, str]) -> onnx.ModelProto:
        """The file itself."""
        result = only(self.full, self.task.source, _in(chosen, "int8")) if _in(chosen, "int8") else self.task.source
        half = self._half(chosen)
        return cast(result, "fp16", half.union(pairs(result, half))) if half else result

    def within(self, wanted: Mapping[str, str]) -> Found:
        """As much of what is wanted as the budget allows."""
        if not wanted:
            return Found((), (), 0.0, 0.0)

        def error(chosen: Collection[str], count: int | None = None) -> float:
            return self.error({name: wanted[name] for name in chosen}, count)

        ordered: Sequence[Sequence[str]] = [[name] for name in self.names if name in wanted]
        try:
            return search(ordered, Errors(error, lambda names: error(names, 1)), self.task.budget, self.task.notify)
        except BudgetError:
            return Found((), tuple(wanted), 0.0, error(wanted))

    def _half(self, chosen: Mapping[str, str]) -> set[str]:
        return {node for name in _in(chosen, "fp16") for node in self.halves[name]}


def _in(chosen: Mapping[str, str], precision: str) -> list[str]:
    return [name for name, p in chosen.items() if p == precision]
