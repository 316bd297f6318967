"""`convert_precision`: fp16, bf16 or int8 out of a float32 ONNX file, within a stated output error."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from channelcut.core.errors import BudgetError, UserError
from channelcut.export.files import load_onnx, save_onnx
from channelcut.export.inputs import image_like, random_array
from channelcut.export.metadata import set_metadata
from channelcut.export.runtime import failures, session_from_model
from channelcut.precision.cast import cast, castable, prepared, simulated
from channelcut.precision.quantize import Feed, quantizable, quantized, ranges

BUDGETS = {"fp16": 0.01, "bf16": 0.05, "int8": 0.1}
Progress = Callable[[str, int, int], None]
Array = npt.NDArray[Any]
_MINIMUM_IMAGES = 8


@dataclass(frozen=True)
class PrecisionOptions:
    """How to convert.

    budget: the largest output error, see `output_error`; by default 0.01 for fp16, 0.05 for bf16, 0.1 for int8.
    method: how int8 finds activation ranges: percentile, entropy or minmax.
    judged: on how many inputs the error is measured.
    size: height and width where the file leaves them open.
    """

    budget: float | None = None
    method: str = "percentile"
    judged: int = 4
    size: tuple[int, int] = (640, 640)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.judged < 1 or (self.budget is not None and not self.budget > 0):
            raise UserError(
                f"A precision needs a budget above 0 and at least one judged input; got budget {self.budget}, judged "
                f"{self.judged}."
            )


DEFAULTS = PrecisionOptions()


@dataclass(frozen=True)
class PrecisionReport:
    """What was written. `error`: measured on the `inputs`; `kept`: nodes that could be lowered but stayed float32.

    For fp16 and bf16 the error is that of the simulation (see `precision.cast`); no GPU has run the file.
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
    the others judge their error on them, or on random inputs without. Nodes are ranked by the output error that each
    alone causes, and as few of the worst as the budget demands stay float32.
    Raises `UserError` for bad input and `BudgetError` when nothing could be lowered within the budget.
    """
    check_precisions([precision], has_images=True)
    if precision == "int8" and (images is None or len(images) < _MINIMUM_IMAGES):
        raise UserError(
            f"int8 is calibrated on images: expected at least {_MINIMUM_IMAGES}, got "
            f"{0 if images is None else len(images)}. Give a folder of unlabelled images like those of deployment."
        )
    source = prepared(load_onnx(Path(model)), precision)
    feeds = _feeds(source, images, options)
    judged = feeds[:: max(1, len(feeds) // options.judged)][: options.judged]
    notify = progress or (lambda _stage, _done, _total: None)
    names, trial, final = _ways(source, precision, feeds, options)
    if not names:
        raise UserError(f"No node of {Path(model).name!r} can compute in {precision}: nothing to convert.")
    reference = _run(source, judged)
    budget = BUDGETS[precision] if options.budget is None else options.budget

    def error(chosen: Collection[str]) -> float:
        return output_error(reference, _run(trial(chosen), judged))

    unrestricted = error(names)
    kept, reached = ([], unrestricted) if unrestricted <= budget else _kept(names, error, budget, notify)
    chosen = [n for n in names if n not in set(kept)]
    result = final(chosen)
    inputs = "random inputs" if images is None else "images"
    described = {"precision": precision, "output_error": f"{reached:.3g}", "kept_float32": str(len(kept))}
    described["judged_on"] = f"{len(judged)} {inputs}"
    if precision == "int8":
        described["calibration"] = f"{options.method} over {len(feeds)} images"
    set_metadata(result, described)
    size_bytes = save_onnx(result, Path(out))
    return PrecisionReport(
        Path(out), precision, reached, unrestricted, budget, len(chosen), tuple(kept),
        described["judged_on"], size_bytes,
    )  # fmt: skip


def check_precisions(precisions: Sequence[str], *, has_images: bool) -> None:
    """Raise `UserError` for an unknown precision, or int8 without images, before any work is done."""
    unknown = [p for p in precisions if p not in BUDGETS]
    if unknown:
        raise UserError(f"There is no precision {unknown[0]!r}; known: {', '.join(BUDGETS)}.")
    if "int8" in precisions and not has_images:
        raise UserError("int8 is calibrated on images: give --data a folder of unlabelled images like deployment's.")


def output_error(reference: Sequence[Sequence[Array]], candidate: Sequence[Sequence[Array]]) -> float:
    """Return the worst output's ‖candidate − reference‖ / ‖reference‖ over all inputs together; infinite if not finite.

    Outputs that are not floating point are not judged. The rows of a top-k inside the model are compared in place.
    """
    worst = 0.0
    for wanted, got in zip(zip(*reference, strict=True), zip(*candidate, strict=True), strict=True):
        if not np.issubdtype(wanted[0].dtype, np.floating):
            continue
        b = np.concatenate([a.ravel() for a in wanted]).astype(np.float64)
        a = np.concatenate([a.ravel() for a in got]).astype(np.float64)
        if not np.isfinite(a).all():
            return math.inf
        worst = max(worst, float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12)))
    return worst


def _ways(source: onnx.ModelProto, precision: str, feeds: Sequence[Feed], options: PrecisionOptions) -> Any:
    """The nodes that can be lowered, how to try some of them, and how to write them."""
    if precision == "int8":
        names = quantizable(source)
        found = ranges(source, feeds, options.method) if names else None

        def lower(chosen: Collection[str]) -> onnx.ModelProto:
            return quantized(source, chosen, found)

        return names, lower, lower
    return (
        list(castable(source, precision)),
        lambda chosen: simulated(source, precision, chosen),
        lambda chosen: cast(source, precision, chosen),
    )


def _kept(
    names: Sequence[str], error: Callable[[Collection[str]], float], budget: float, notify: Progress
) -> tuple[list[str], float]:
    """The shortest prefix of the ranking whose staying in float32 meets the budget, by bisection, and its error."""
    alone = []
    for done, name in enumerate(names):
        notify("sensitivity", done, len(names))
        alone.append(error([name]))
    notify("sensitivity", len(names), len(names))
    ranked = [names[i] for i in sorted(range(len(names)), key=lambda i: (-alone[i], i))]
    few, many, reached = 0, len(ranked), 0.0
    while many - few > 1:
        middle = (few + many) // 2
        found = error(ranked[middle:])
        few, many, reached = (few, middle, found) if found <= budget else (middle, many, reached)
    if many == len(ranked):
        raise BudgetError(
            f"No node can be lowered within an output error of {budget:g}; the least that a node alone causes is "
            f"{min(alone):.2g}. Nothing was written: the model stays float32. Raise the budget."
        )
    return ranked[:many], reached


def image_shape(model: onnx.ModelProto, options: PrecisionOptions = DEFAULTS) -> tuple[int, int, int]:
    """(C, H, W) of the model's one image input; raises `UserError` when it has another form."""
    weights = {t.name for t in model.graph.initializer}
    shapes = [_shape(i, options.size) for i in model.graph.input if i.name not in weights]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UserError(f"Images feed a model with one input (N, C, H, W); this one has inputs of shapes {shapes}.")
    _, channels, height, width = shapes[0]
    return channels, height, width


def _run(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[list[Array]]:
    session = session_from_model(model)
    try:
        return [session.run(None, dict(feed)) for feed in feeds]
    except failures() as problem:
        raise UserError(f"ONNX Runtime cannot run the model: {' '.join(str(problem).split())[:300]}") from problem


def _feeds(model: onnx.ModelProto, images: Array | None, options: PrecisionOptions) -> list[Feed]:
    """One feed an image, or random ones."""
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    generator = np.random.default_rng(options.seed)
    if images is not None and len(inputs) != 1:
        raise UserError(f"Images feed a model with one input; this one has {len(inputs)}.")
    if images is not None:
        wanted = _shape(inputs[0], images.shape[2:])
        if wanted[0] != 1 or tuple(images.shape[1:]) != tuple(wanted[1:]):
            raise UserError(
                f"The images have shape {images.shape[1:]} and the model's input {wanted}: expected a batch of 1 (or "
                "an open one) and equal channels, height and width."
            )
        return [{inputs[0].name: image[None].astype(np.float32)} for image in images]
    return [{i.name: _random(i, generator, options) for i in inputs} for _ in range(options.judged)]


def _random(value: onnx.ValueInfoProto, generator: np.random.Generator, options: PrecisionOptions) -> Array:
    shape = _shape(value, options.size)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return image_like(shape, generator) if dtype == np.float32 else random_array(shape, dtype, generator)


def _shape(value: onnx.ValueInfoProto, size: Sequence[int]) -> list[int]:
    """The input's shape: an open batch is 1, an open height or width that of `size`."""
    dims = value.type.tensor_type.shape.dim
    fill = (1, 3, *size)
    return [d.dim_value or (fill[i] if i < len(fill) else 1) for i, d in enumerate(dims)]
