"""The parity chain: every form that a model takes on its way to the engine, compared with the form before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from channelcut.onnx_out.parity import Parity
from channelcut.parity.detections import AT_LEAST, agreement, agreement_of_rows, is_end_to_end

Array = npt.NDArray[Any]
Batch = Array | tuple[Array, ...]
"""One input, or several in the forward's order."""
Outputs = Mapping[str, Array]
Decode = Callable[[Outputs], Sequence[Array]]
"""A batch's outputs to the boxes of each of its images: rows (K, 6) of x1, y1, x2, y2, score, class, suppressed."""

FORMAT = "channelcut-parity-1"
NUMBERS, BOXES, BOTH = "numbers", "boxes", "numbers and boxes"
_FLOOR = 1e-6


@dataclass(frozen=True)
class Tolerance:
    """What a stage may change.

    max_relative: the largest difference, in units of the largest value of its output. cosine: the least similarity of
    an output's direction. boxes: the least share of matched boxes.
    """

    max_relative: float
    cosine: float
    boxes: float


# Not laws: fp32 is rounding; the others are what a sound conversion of a detector stays within, with room.
TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.99999, 0.99),
    "fp16": Tolerance(0.05, 0.999, 0.95),
    "bf16": Tolerance(0.2, 0.99, 0.85),
    "int8": Tolerance(float("inf"), 0.95, 0.70),
}


@dataclass(frozen=True)
class Stage:
    """One form of the model. `run`: outputs by name for one batch; None: not there or not runnable, for `reason`.

    `precision` names the tolerance. `before`: the stage it is compared with; None is the reference. `judge`: gives the
    verdict instead of the tolerances.
    """

    name: str
    run: Callable[[Batch], Outputs] | None
    precision: str = "fp32"
    before: str | None = None
    reason: str = ""
    judge: Callable[[], Parity] | None = None


@dataclass(frozen=True)
class Difference:
    """How far one set of outputs is from another.

    max_abs, mean_abs: over all values, of an output with boxes in order of score its scores alone (near-equal scores
    swap rows). max_relative: of the worst output, in units of its largest value. cosine: of the worst output. boxes:
    share of matched boxes, None for no detector; boxes_asked: how many were compared. verdict: what of it counts.
    """

    max_abs: float
    mean_abs: float
    max_relative: float
    cosine: float
    boxes: float | None = None
    boxes_asked: int = 0
    worst_output: str = ""
    verdict: str = NUMBERS


@dataclass(frozen=True)
class Matching:
    """How boxes are matched, and whether they decide.

    score: boxes of at least this score are asked for. classes: how many a raw output has scores of, where something
    else stands behind them, such as coefficients of masks. decode: boxes out of outputs in a form of their own;
    without it, outputs in a form that is known are matched. least: as many of an image's best boxes are asked for where
    none reaches the score. real: the batches are real images. Then boxes alone give the verdict on outputs that are
    nothing but an image's best boxes: which of near-equal ones are picked, and in which order, makes numbers of other
    boxes, and what nobody trained for (noise) has no boxes to speak of.
    """

    score: float = 0.25
    classes: int | None = None
    decode: Decode | None = None
    least: int = AT_LEAST
    real: bool = False


@dataclass(frozen=True)
class Extremes:
    """What a chain knows of a network besides its batches.

    batches: inputs by name on which a stage must be finite where the reference is. rounding: by output, how much two
    right programs differ at most, in absolute terms.
    """

    batches: Mapping[str, Batch]
    rounding: Mapping[str, float]


NO_EXTREMES = Extremes({}, {})
PLAIN = Matching()


def difference(
    reference: Sequence[Outputs],
    candidate: Sequence[Outputs],
    matching: Matching = PLAIN,
    rounding: Mapping[str, float] | None = None,
) -> Difference:
    """Compare outputs batch by batch, by name; another shape, a missing name or a value not finite counts as infinite.

    Values that are not finite on both sides at the same place are left out, and so are differences up to `rounding`, by
    output, of those that count relatively.
    """
    wrong = Difference(float("inf"), float("inf"), float("inf"), 0.0)
    top = mean = relative = 0.0
    cosine, worst = 1.0, ""
    matched = asked = 0.0
    score, decode, least = matching.score, matching.decode, matching.least
    names = list(reference[0])
    picked = all(is_end_to_end(reference[0][name].shape) for name in names)
    for name in names:
        pairs = []
        for one, other in zip(reference, candidate, strict=True):
            if name not in other or one[name].shape != other[name].shape:
                return Difference(**{**asdict(wrong), "worst_output": name})
            pairs.append((np.asarray(one[name], np.float64), np.asarray(other[name], np.float64)))
        for hit in () if decode is not None else [agreement(a, b, score, matching.classes, least) for a, b in pairs]:
            if hit is not None:
                matched, asked = matched + hit[0] * hit[1], asked + hit[1]
        scores = is_end_to_end(pairs[0][0].shape)
        flat = [np.concatenate([(p[i][..., 4] if scores else p[i]).ravel() for p in pairs]) for i in (0, 1)]
        finite = np.isfinite(flat[0])
        if not np.array_equal(finite, np.isfinite(flat[1])):
            return Difference(**{**asdict(wrong), "worst_output": name})
        a, b = flat[0][finite], flat[1][finite]
        gap = np.abs(a - b)
        largest = float(gap.max(initial=0))
        b = np.where(gap <= (rounding or {}).get(name, 0.0), a, b)
        share = float(np.abs(a - b).max(initial=0)) / max(float(np.abs(a).max(initial=0)), _FLOOR)
        if share >= relative:
            relative, worst = share, name
        top, mean = max(top, largest), max(mean, float(gap.mean()) if len(gap) else 0.0)
        cosine = min(cosine, _cosine(a, b))
    if decode is not None:
        for one, other in zip(reference, candidate, strict=True):
            for rows, others in zip(decode(one), decode(other), strict=True):
                share, count = agreement_of_rows(rows, others, score, least)
                matched, asked = matched + share * count, asked + count
    if not asked:
        return Difference(top, mean, relative, cosine, None, 0, worst)
    verdict = BOXES if matching.real and picked else BOTH
    return Difference(top, mean, relative, cosine, matched / asked, int(asked), worst, verdict)


def run_chain(
    reference: Callable[[Batch], Outputs],
    stages: Sequence[Stage],
    batches: Sequence[Batch],
    matching: Matching = PLAIN,
    on_progress: Callable[[int, int], None] | None = None,
    extremes: Extremes = NO_EXTREMES,
) -> dict[str, Any]:
    """Run every stage on every batch; return rows, and the first stage that breaks its tolerance, as JSON values.

    A stage breaks when it is too far from its predecessor or, with the loosest tolerance on the way there, from the
    reference, or when it is not finite on one of the `extremes` where the reference is. A stage whose predecessor was
    not run is compared with the reference.
    """
    finite = {name: reference(batch) for name, batch in extremes.batches.items()}
    outputs: dict[str | None, list[Outputs]] = {None: [reference(batch) for batch in batches]}
    rows: list[dict[str, Any]] = []
    for place, stage in enumerate(stages):
        if on_progress is not None:
            on_progress(place, len(stages))
        if stage.run is None:
            rows.append({"stage": stage.name, "status": "not run", "reason": stage.reason})
            continue
        outputs[stage.name] = [stage.run(batch) for batch in batches]
        before = stage.before if stage.before in outputs else None
        # A stage with a judge of its own needs no boxes that nothing speaks for: a class or a place of next to no score
        # is rounding.
        asked = matching if stage.judge is None else replace(matching, least=0)
        step = difference(outputs[before], outputs[stage.name], asked, extremes.rounding)
        whole = difference(outputs[None], outputs[stage.name], asked, extremes.rounding)
        limit = TOLERANCES[stage.precision]
        judged = stage.judge() if stage.judge is not None else None
        reasons = [f"against {before or 'torch'}: {text}" for text in _broken(step, limit, judged)]
        if before is not None and not reasons:
            reasons = [f"against torch: {text}" for text in _broken(whole, limit)]
        for name, wanted in finite.items():
            reasons += _not_finite(name, wanted, stage.run(extremes.batches[name]))
        rows.append(
            {
                "stage": stage.name,
                "status": "broken" if reasons else "passed",
                "reason": "; ".join(reasons),
                "precision": stage.precision,
                "compared_with": before or "torch",
                "verdict": step.verdict if judged is None or step.verdict == NUMBERS else BOTH,
                "step": asdict(step),
                "reference": asdict(whole),
                "tolerance": {k: v for k, v in asdict(limit).items() if np.isfinite(v)},
                **(_verdict(judged) if judged is not None else {}),
            }
        )
    if on_progress is not None:
        on_progress(len(stages), len(stages))
    broken = next((row["stage"] for row in rows if row["status"] == "broken"), None)
    return {"format": FORMAT, "stages": rows, "first_broken": broken}


def _not_finite(name: str, reference: Outputs, candidate: Outputs) -> list[str]:
    """In words, the outputs that are not finite where the reference is."""
    reasons = []
    for output, wanted in reference.items():
        found = candidate.get(output)
        if found is not None and found.shape == wanted.shape:
            lost = int((np.isfinite(wanted) & ~np.isfinite(np.asarray(found, np.float64))).sum())
            if lost:
                reasons.append(f"on {name}, output {output!r} is not finite at {lost} places where torch is finite")
    return reasons


def _verdict(judged: Parity) -> dict[str, Any]:
    """The row's part of a verdict: the error and what it may be, and what is rounding alone, in words."""
    return {"error": judged.error, "allowed": judged.limit, "rounding": list(judged.allowed)}


def _broken(found: Difference, limit: Tolerance, judged: Parity | None = None) -> list[str]:
    if judged is not None:
        reasons = [judged.refused] if judged.refused else []
        return reasons + _lost_boxes(found, limit)
    reasons = []
    if found.verdict == BOXES:
        return _lost_boxes(found, limit)
    if found.max_relative > limit.max_relative:
        reasons.append(
            f"output {found.worst_output!r} differs by {found.max_relative:.2e} relative, more than "
            f"{limit.max_relative:g}"
        )
    if found.cosine < limit.cosine:
        reasons.append(f"cosine {found.cosine:.6f}, less than {limit.cosine:g}")
    return reasons + _lost_boxes(found, limit)


def _lost_boxes(found: Difference, limit: Tolerance) -> list[str]:
    if found.boxes is None or found.boxes >= limit.boxes:
        return []
    return [f"{found.boxes:.1%} of {found.boxes_asked} boxes matched, fewer than {limit.boxes:.0%}"]


def _cosine(a: Array, b: Array) -> float:
    sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if min(sizes) < _FLOOR:
        return 1.0 if max(sizes) < _FLOOR else 0.0
    return float(np.clip(a @ b / (sizes[0] * sizes[1]), -1, 1))
