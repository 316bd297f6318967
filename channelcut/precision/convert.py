"""`convert_precision`: fp16, bf16 or int8 out of a float32 ONNX file, within a stated output error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from channelcut.core.errors import BudgetError, UserError
from channelcut.onnx_out.files import load_onnx, save_onnx
from channelcut.onnx_out.metadata import set_metadata
from channelcut.precision.cast import cast, castable, prepared, simulated
from channelcut.precision.feeds import feeds_from_images, random_feeds
from channelcut.precision.judge import Judged, judged, judging, output_error, run
from channelcut.precision.quantize import Feed, check_method, only, pairs, quantizable, quantized, ranges
from channelcut.precision.search import Errors, Found, Progress, search, units

BUDGETS = {"fp16": 0.01, "bf16": 0.05, "int8": 0.1}
REST = ("fp16", "fp32")
Array = npt.NDArray[Any]
MINIMUM_IMAGES = 8


@dataclass(frozen=True)
class PrecisionOptions:
    """How to convert.

    budget: the largest output error, see `output_error`; by default 0.01 for fp16, 0.05 for bf16, 0.1 for int8.
    method: how int8 finds activation ranges: percentile, entropy or minmax.
    rest: of int8, what sensitive layers and everything between int8 layers compute in: fp16 or fp32.
    judged: on how many inputs the error is measured.
    size: height and width where the file leaves them open.
    """

    budget: float | None = None
    method: str = "percentile"
    rest: str = "fp16"
    judged: int = 4
    size: tuple[int, int] = (640, 640)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.judged < 1 or (self.budget is not None and not self.budget > 0):
            raise UserError(
                f"A precision needs a budget above 0 and at least one judged input; got budget {self.budget}, judged "
                f"{self.judged}."
            )
        if self.rest not in REST:
            raise UserError(f"What is not int8 can be {' or '.join(REST)}, not {self.rest!r}.")
        check_method(self.method)


DEFAULTS = PrecisionOptions()


@dataclass(frozen=True)
class PrecisionReport:
    """What was written.

    error: measured on the `inputs`, by the simulation of `precision.cast`; no GPU has run the file.
    compared: the outputs, or the values before a selection (`precision.judge`).
    lowered, kept: how many nodes are in the precision, and the nodes that could be but are in `rest`.
    rest: what the others compute in. Beside int8, "fp16" with the number in `rest_lowered` and, in `rest_kept`, those
    that could be fp16 but are float32; "fp32" as well where fp16 does not meet its share of the budget.
    """

    path: Path
    precision: str
    error: float
    unrestricted_error: float
    budget: float
    lowered: int
    kept: tuple[str, ...]
    inputs: str
    size_bytes: int
    compared: str = "the outputs"
    rest: str = "fp32"
    rest_lowered: int = 0
    rest_kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What the steps of a conversion share: `source` is prepared, `base` has as its outputs what is compared."""

    source: onnx.ModelProto
    seen: Judged
    base: onnx.ModelProto
    feeds: Sequence[Feed]
    sample: Sequence[Feed]
    reference: Sequence[Sequence[Array]]
    budget: float
    notify: Progress

    def error(self, model: onnx.ModelProto, count: int | None = None) -> float:
        """The model's output error over the first `count` judged inputs."""
        return output_error(self.reference[:count], run(model, self.sample[:count]))


def convert_precision(
    model: Path,
    out: Path,
    precision: str,
    images: Array | None = None,
    options: PrecisionOptions = DEFAULTS,
    progress: Progress | None = None,
) -> PrecisionReport:
    """Write the float32 ONNX `model` to `out` in "fp16", "bf16" or "int8"; inputs and outputs stay float32.

    `images`: (n, C, H, W) float32, prepared as the network expects; int8 is calibrated on them and needs 8 or more,
    the others judge their error on them, on random inputs without. As few nodes as the budget demands stay in a
    higher precision: see `precision.search`. Of int8 that is fp16, by `options.rest`: first as much is cast to fp16
    as a tenth of the budget allows (0.01 of 0.1), then the layers are found that int8 may have beside it.
    Raises `UserError` for bad input and `BudgetError` when nothing could be lowered within the budget.
    """
    check_precisions([precision], 0 if images is None else len(images))
    half = precision == "int8" and options.rest == "fp16"
    budget = BUDGETS[precision] if options.budget is None else options.budget
    source = prepared(load_onnx(Path(model)), "int8 beside fp16" if half else precision)
    _require_nodes(source, precision, Path(model).name)
    task = task_of(source, images, replace(options, budget=budget), progress)
    _require_nodes(task.base, precision, Path(model).name)
    rest = _rest(task) if half else None
    found, result = _int8(task, rest, options) if precision == "int8" else _float(task, precision)
    inputs = f"{len(task.sample)} {'random inputs' if images is None else 'images'}"
    described = {
        "precision": precision,
        "output_error": f"{found.error:.3g}",
        ("kept_fp16" if rest else "kept_float32"): str(len(found.kept)),
        "judged_on": inputs,
        "compared": task.seen.what,
    }
    if rest:
        described |= {"kept_float32": str(len(rest.kept))}
    if precision == "int8":
        described["calibration"] = f"{options.method} over {len(task.feeds)} images"
    set_metadata(result, described)
    size_bytes = save_onnx(result, Path(out))
    report = PrecisionReport(
        Path(out), precision, found.error, found.unrestricted, budget, len(found.lowered), found.kept, inputs,
        size_bytes, task.seen.what,
    )  # fmt: skip
    return replace(report, rest="fp16", rest_lowered=len(rest.lowered), rest_kept=rest.kept) if rest else report


def task_of(
    source: onnx.ModelProto, images: Array | None, options: PrecisionOptions, progress: Progress | None = None
) -> Task:
    """What a conversion of a model, `prepared`, is judged by; `options` with their budget."""
    assert options.budget is not None
    seen = judged(source)
    base = judging(source, seen)
    feeds = (
        random_feeds(source, options.judged, options.size, options.seed)
        if images is None
        else feeds_from_images(source, images)
    )
    sample = feeds[:: max(1, len(feeds) // options.judged)][: options.judged]
    notify = progress or (lambda _stage, _done, _total: None)
    return Task(source, seen, base, feeds, sample, run(base, sample), options.budget, notify)


def check_precisions(precisions: Sequence[str], images: int | None = None) -> None:
    """Raise `UserError` for an unknown precision, or int8 with fewer than eight `images`; None: not yet known."""
    unknown = [p for p in precisions if p not in BUDGETS]
    if unknown:
        raise UserError(f"There is no precision {unknown[0]!r}; known: {', '.join(BUDGETS)}.")
    if "int8" in precisions and images is not None and images < MINIMUM_IMAGES:
        raise UserError(
            f"int8 is calibrated on images: expected at least {MINIMUM_IMAGES}, got {images}. Give --data a folder of "
            "unlabelled images like those of deployment."
        )


def _require_nodes(model: onnx.ModelProto, precision: str, name: str) -> None:
    if not (quantizable(model) if precision == "int8" else castable(model, precision)):
        raise UserError(f"No node of {name!r} can compute in {precision}: nothing to convert.")


def _float(task: Task, precision: str) -> tuple[Found, onnx.ModelProto]:
    """fp16 or bf16 alone: what was found, and the file."""
    found = _cast_within(task, precision, task.budget)
    return found, cast(task.source, precision, found.lowered)


def _rest(task: Task) -> Found | None:
    """What may be fp16 beside int8; None where nothing may."""
    try:
        found = _cast_within(task, "fp16", task.budget * BUDGETS["fp16"] / BUDGETS["int8"])
    except BudgetError:
        return None
    return found if found.lowered else None


def _cast_within(task: Task, precision: str, budget: float) -> Found:
    places = castable(task.base, precision)

    def error(chosen: Collection[str], count: int | None = None) -> float:
        return task.error(simulated(task.base, precision, set(chosen), places), count)

    return search(units(task.base, places), Errors(error, lambda chosen: error(chosen, 1)), budget, task.notify)


def _int8(task: Task, rest: Found | None, options: PrecisionOptions) -> tuple[Found, onnx.ModelProto]:
    """int8 layers among others in fp16 or float32: what was found, and the file."""
    layers = quantizable(task.base)
    found_ranges = ranges(task.base, task.feeds, options.method, task.notify)
    full = quantized(task.source, layers, found_ranges, half_scales=rest is not None)
    trial = judging(full, task.seen)
    places = castable(trial, "fp16")
    half = set(rest.lowered) if rest else set()

    def error(chosen: Collection[str], count: int | None = None) -> float:
        model = only(trial, task.base, chosen)
        if half:
            model = simulated(model, "fp16", half.union(pairs(model, half)), places)
        return task.error(model, count)

    alone = [[layer] for layer in layers]
    found = search(alone, Errors(error, lambda chosen: error(chosen, 1)), task.budget, task.notify)
    result = only(full, task.source, found.lowered)
    return found, cast(result, "fp16", half.union(pairs(result, half))) if half else result
