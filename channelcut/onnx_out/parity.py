"""Does an ONNX model compute what its module computes? And may a rewrite of that ONNX model replace it?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.utils._pytree as pytree
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]  # ships no stubs
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.onnx_out import files
from channelcut.onnx_out.files import weight_bytes
from channelcut.onnx_out.selection import Forced, with_index_outputs

Array = npt.NDArray[Any]
Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]

# Below this an output is noise: its errors are measured against the floor, not against itself.
FLOOR = 1e-6
# Decoded detections hold pixels and probabilities in one tensor: a slice that is small against the whole tensor is
# measured against its own size, but never against less than this part of the whole.
SLICE_FLOOR = 0.01

# An ONNX model may differ from its module by this many times the module's own rounding: two sums in another order.
ROUNDINGS = 4

# What third-party graph rewriters raise on graphs that they do not understand.
REWRITE_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OSError,
    EncodeError,  # of a model above protobuf's 2 GiB
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


@dataclass(frozen=True)
class Parity:
    """How far an ONNX model is from its module, over all inputs tried.

    `max_relative_error`: the worst output (see `max_relative_error`), infinite for a wrong shape or integer.
    `selection_error`: how much less the entries that its top-k operators chose score than the true top k, relative to
    the largest score; 0 without such operators. `reordered`: how many chosen entries differ from the module's choice,
    which near-equal scores make unavoidable. `worst_output`: the name behind `max_relative_error`.
    """

    max_relative_error: float
    selection_error: float = 0.0
    reordered: int = 0
    worst_output: str = ""

    @property
    def error(self) -> float:
        """The larger of the two errors."""
        return max(self.max_relative_error, self.selection_error)


@dataclass
class ParityCheck:
    """Compares ONNX models, run by ONNX Runtime on the CPU in float32, with one module on fixed inputs.

    `module`: in eval mode, float32. `inputs`: one tuple of arguments per run, matched by position with the ONNX
    model's inputs after flattening. The module's own outputs are computed once.
    """

    module: nn.Module
    inputs: Sequence[tuple[Any, ...]]
    tolerance: float = 1e-4
    _references: dict[int, list[Tensor]] = field(default_factory=dict, init=False, repr=False)
    _rounding: float | None = field(default=None, init=False, repr=False)
    _selects: bool = field(default=False, init=False, repr=False)

    def __call__(self, model: onnx.ModelProto) -> Parity:
        """Return the parity of `model`; raises `UserError` when ONNX Runtime cannot load or run it."""
        worst = Parity(0.0)
        for run in range(len(self.inputs)):
            found = self._compare(model, run)
            leading = found if found.max_relative_error >= worst.max_relative_error else worst
            worst = Parity(
                leading.max_relative_error,
                max(worst.selection_error, found.selection_error),
                worst.reordered + found.reordered,
                leading.worst_output,
            )
        return worst

    def refusal(self, parity: Parity) -> str | None:
        """Why a model of that parity is not accepted; None if it is.

        A network may amplify rounding so much that float32 itself is further than the tolerance from float64. Two right
        programs then differ by as much, so what counts is a few times that distance.
        """
        if parity.max_relative_error > self.tolerance and parity.max_relative_error > ROUNDINGS * self.rounding():
            return (
                f"output {parity.worst_output!r} differs by {parity.max_relative_error:.2e} relative, "
                f"more than {self.tolerance:.0e} and more than {ROUNDINGS} times the module's own rounding in float32 "
                f"({self.rounding():.1e})"
            )
        if parity.selection_error > self.tolerance:
            return (
                f"its top-k chose entries that score {parity.selection_error:.2e} less (relative) than the module's, "
                f"more than {self.tolerance:.0e}"
            )
        return None

    def rounding(self) -> float:
        """How far the module in float32 is from itself in float64: the largest relative error over the inputs.

        0 where it cannot be told: the module does not run in float64, its whole numbers differ there, two runs of it
        differ, or it selects by top-k, where near-equal scores would pass for rounding.
        """
        if self._selects or not self._repeats():
            return 0.0
        if self._rounding is None:
            to_double = lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
            try:
                module = copy.deepcopy(self.module).double()
                with torch.no_grad():
                    exact = [tensor_leaves(module(*pytree.tree_map(to_double, args))) for args in self.inputs]
            except (RuntimeError, TypeError, ValueError):
                exact = []
            errors = [
                max_relative_error(truth, [t.detach().cpu().numpy() for t in self._reference(run)])
                for run, truth in enumerate(exact)
            ]
            self._rounding = max((error for error in errors if np.isfinite(error)), default=0.0)
        return self._rounding

    def _repeats(self) -> bool:
        """Whether the module computes the same twice."""
        with torch.no_grad():
            again = tensor_leaves(self.module(*self.inputs[0]))
        return all(torch.equal(a, b) for a, b in zip(self._reference(0), again, strict=True))

    def signals(self, model: onnx.ModelProto, probe: tuple[Any, ...]) -> dict[str, float]:
        """Return by how much each floating-point output changes from the first input to `probe`, against its size.

        `probe` has the first input's shapes. A parity says nothing about an output that hardly changes: with untrained
        weights a detector's outputs are constants to float32, whatever its layers compute. Top-k selections are held at
        those of the first input, or near-equal scores would pass for change.
        """
        _, chosen = self._run(model, 0)
        with torch.no_grad():
            with Forced(chosen):
                first = tensor_leaves(self.module(*self.inputs[0]))
            with Forced(chosen):
                second = tensor_leaves(self.module(*probe))
        names = [o.name for o in model.graph.output]
        return {
            name: relative_error(a, b.cpu().numpy())
            for name, a, b in zip(names, first, second, strict=True)
            if a.is_floating_point()
        }

    def _run(self, model: onnx.ModelProto, run: int) -> tuple[list[Array], list[Array]]:
        """Return the model's outputs on one of the inputs, and what its top-k operators chose."""
        exposed, _ = with_index_outputs(model)
        outputs = run_onnx(exposed, [t.detach().cpu().numpy() for t in tensor_leaves(self.inputs[run])])
        count = len(model.graph.output)
        return outputs[:count], outputs[count:]

    def _compare(self, model: onnx.ModelProto, run: int) -> Parity:
        names = [o.name for o in model.graph.output]
        candidate, chosen = self._run(model, run)
        reference, selection_error, reordered = None, 0.0, 0
        if chosen:
            self._selects = True
            with torch.no_grad(), Forced(chosen) as forced:
                replayed = tensor_leaves(self.module(*self.inputs[run]))
            # Selections that cannot be paired with the module's own leave the plain comparison, which is stricter.
            if forced.complete:
                reference, selection_error, reordered = replayed, forced.error, forced.reordered
        if reference is None:
            reference = self._reference(run)
        if len(reference) != len(candidate):
            return Parity(float("inf"), selection_error, reordered, f"<{len(candidate)} outputs>")
        errors = [relative_error(r, c) for r, c in zip(reference, candidate, strict=True)]
        place = int(np.argmax(errors)) if errors else 0
        return Parity(max(errors, default=0.0), selection_error, reordered, names[place] if names else "")

    def _reference(self, run: int) -> list[Tensor]:
        if run not in self._references:
            with torch.no_grad():
                self._references[run] = tensor_leaves(self.module(*self.inputs[run]))
        return self._references[run]


def max_relative_error(reference: Sequence[Tensor], candidate: Sequence[Array]) -> float:
    """Return the largest `relative_error` over pairs of outputs; infinite when their numbers differ."""
    if len(reference) != len(candidate):
        return float("inf")
    return max((relative_error(r, c) for r, c in zip(reference, candidate, strict=True)), default=0.0)


def relative_error(reference: Tensor, candidate: Array) -> float:
    """max|a - b| / max(max|b|, floor) of one output, b being the reference.

    Of an output with three axes (decoded detections: pixels and probabilities in one tensor), each slice along the
    shorter of the last two axes is measured by its own size as well, but never by less than 1 % of the whole.
    Infinite for another shape, for integers or booleans that are not all equal, and where one side alone is not
    finite.
    """
    wanted = reference.detach().cpu()
    if tuple(wanted.shape) != tuple(candidate.shape):
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if np.array_equal(wanted.numpy(), candidate) else float("inf")
    b, a = wanted.double().numpy(), np.asarray(candidate, dtype=np.float64)
    finite = np.isfinite(b)
    # NaN must meet NaN and an infinity the same infinity; these are then left out of the differences.
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    difference, size = (
        np.where(finite, abs(np.where(finite, a, 0) - np.where(finite, b, 0)), 0),
        np.where(finite, abs(b), 0),
    )
    scale = max(float(size.max()), FLOOR)
    error = float(difference.max()) / scale
    if b.ndim == 3:
        others = (0, 2) if b.shape[1] <= b.shape[2] else (0, 1)
        scales = np.maximum(size.max(axis=others), max(SLICE_FLOOR * scale, FLOOR))
        error = max(error, float((difference.max(axis=others) / scales).max()))
    return error


@dataclass(frozen=True)
class Accepted:
    """The model to go on with: a rewrite's, or the original when every rewrite was refused."""

    model: onnx.ModelProto
    name: str
    parity: Parity
    refusals: tuple[str, ...]


def accept_rewrite(
    original: onnx.ModelProto,
    rewrites: Sequence[tuple[str, Rewrite]],
    check: ParityCheck,
) -> Accepted:
    """Return the first named rewrite whose result still computes what the module computes, else the original ("none").

    `original` is not changed: each rewrite gets a copy. Every refusal is kept with its reason. Raises `UserError` when
    nothing passes, the original included.
    """
    refusals: list[str] = []
    if weight_bytes(original) > files.EXTERNAL_ABOVE:
        # The simplifiers work on one protobuf message, which ends at 2 GiB; native code may not fail politely.
        refusals = [f"{name} not tried: the weights exceed one protobuf message (2 GiB)" for name, _ in rewrites]
        rewrites = ()
    for name, rewrite in rewrites:
        copy = onnx.ModelProto()
        copy.CopyFrom(original)
        try:
            model = rewrite(copy)
        except REWRITE_FAILURES as problem:
            refusals.append(f"{name} failed: {type(problem).__name__}: {_first_line(problem)}")
            continue
        reason = _interface_change(original, model)
        parity = Parity(0.0)
        if reason is None:
            try:
                parity = check(model)
                reason = check.refusal(parity)
            except UserError as problem:
                reason = _first_line(problem)
        if reason is None:
            return Accepted(model, name, parity, tuple(refusals))
        refusals.append(f"{name} rejected: {reason}")
    parity = check(original)
    reason = check.refusal(parity)
    if reason is not None:
        raise UserError(
            f"The exported ONNX model does not compute what the module computes: {reason}. Expected equality up to "
            "float32 rounding in eval mode. Look for randomness, state kept between calls, or branches on the "
            "input's values in the model's forward, and export with an example input of the resolution you deploy."
        )
    return Accepted(original, "none", parity, tuple(refusals))


def tensor_leaves(outputs: Any) -> list[Tensor]:
    """Return the tensors of a nested result, in flattening order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def run_onnx(model: onnx.ModelProto, inputs: Sequence[Array]) -> list[Array]:
    """One run by ONNX Runtime on the CPU, one thread; raises `UserError` when it cannot load or run the model."""
    from channelcut.onnx_out.runtime import failures, session_from_model

    session = session_from_model(model)
    feed = {i.name: a for i, a in zip(session.get_inputs(), inputs, strict=True)}
    try:
        outputs: list[Array] = session.run(None, feed)
    except failures() as problem:
        raise UserError(f"ONNX Runtime cannot run the exported model: {_first_line(problem)}") from problem
    return outputs


def _interface_change(original: onnx.ModelProto, model: onnx.ModelProto) -> str | None:
    for side in ("input", "output"):
        before, after = ([v.name for v in getattr(m.graph, side)] for m in (original, model))
        if before != after:
            return f"it changed the {side}s from {before} to {after}"
    return None


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]
