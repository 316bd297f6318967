"""Does an ONNX model compute what its module computes? And may a rewrite of that ONNX model replace it?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from channelcut.core.copies import cloned
from channelcut.core.errors import UserError
from channelcut.onnx_out.comparison import relative_error, tensor_leaves
from channelcut.onnx_out.inputs import Trial
from channelcut.onnx_out.judge import ROUNDINGS, Judge
from channelcut.onnx_out.noise import FORWARD_FAILURES, OtherRounding, rounded_otherwise, same
from channelcut.onnx_out.selection import Chosen, Forced, index_outputs, with_index_outputs

Array = npt.NDArray[Any]
Run = Callable[[tuple[Any, ...]], tuple[list[Array], list[Array]]]
"""An input to the model's outputs, and what its top-k operators chose."""

_ROUNDED_RUNS = 4  # of the module, each rounded otherwise


@dataclass(frozen=True)
class Parity:
    """How far an ONNX model is from its module, over all trials.

    `max_relative_error`: the worst output (see `relative_error`), infinite for a wrong shape or integer.
    `selection_error`: how much less the entries that its top-k operators chose score than the true top k, relative to
    the largest score; 0 without such operators. `reordered`: how many chosen entries differ from the module's choice,
    which near-equal scores make unavoidable. `worst_output`: the name behind `max_relative_error`. `refused`: why it
    is not accepted, empty if it is. `allowed`: what was above the tolerance and is rounding alone, in words. `limit`:
    what the worst error was allowed to be, `selection_limit` the same of the selections.
    """

    max_relative_error: float
    selection_error: float = 0.0
    reordered: int = 0
    worst_output: str = ""
    refused: str = ""
    allowed: tuple[str, ...] = ()
    limit: float = 0.0
    selection_limit: float = 0.0

    @property
    def error(self) -> float:
        """The larger of the two errors."""
        return max(self.max_relative_error, self.selection_error)


@dataclass
class ParityCheck:
    """Compares ONNX models, run by ONNX Runtime on the CPU in float32, with one module on fixed inputs.

    `module`: in eval mode, float32. `trials`: what to compare on, arguments matched by position with the ONNX model's
    inputs after flattening; the first is the example. The module's own outputs are computed once.
    """

    module: nn.Module
    trials: Sequence[Trial]
    tolerance: float = 1e-4
    _references: dict[int, list[Tensor] | None] = field(default_factory=dict, init=False, repr=False)
    _others: dict[int, list[list[Tensor]]] = field(default_factory=dict, init=False, repr=False)
    _same_twice: bool | None = field(default=None, init=False, repr=False)

    def __call__(self, model: onnx.ModelProto) -> Parity:
        """Return the parity of `model`; raises `UserError` when ONNX Runtime cannot load or run it."""
        worst = Parity(0.0)
        run = _runner(model)
        for place in range(len(self.trials)):
            if self._reference(place) is None:
                continue
            found = self._compare(model, run, place)
            leading = found if found.max_relative_error >= worst.max_relative_error else worst
            worst = Parity(
                leading.max_relative_error,
                max(worst.selection_error, found.selection_error),
                worst.reordered + found.reordered,
                leading.worst_output,
                worst.refused or found.refused,
                worst.allowed + found.allowed,
                leading.limit,
                max(worst, found, key=lambda parity: parity.selection_error).selection_limit,
            )
        return worst

    def tried(self) -> tuple[str, ...]:
        """The names of the trials that the module runs on."""
        return tuple(trial.name for place, trial in enumerate(self.trials) if self._reference(place) is not None)

    def signals(self, model: onnx.ModelProto) -> dict[str, float]:
        """Return by how much each floating-point output changes from the first trial to others, against its size.

        A parity says nothing about an output that hardly changes: with untrained weights a detector's outputs are
        constants to float32, whatever its layers compute. Top-k selections are held at those of the first trial, or
        near-equal scores would pass for change.
        """
        chosen = _runner(model)(self.trials[0].inputs)[1] if index_outputs(model) else []
        found = dict.fromkeys((o.name for o in model.graph.output), 0.0)
        first: list[Tensor] = []
        for place, trial in enumerate(self.trials):
            if _shapes(trial.inputs) != _shapes(self.trials[0].inputs) or self._reference(place) is None:
                continue
            with torch.no_grad(), Forced(chosen) if chosen else nullcontext():
                outputs = tensor_leaves(self.module(*cloned(trial.inputs))) if chosen else self._reference(place) or []
            first = first or outputs
            for name, one, other in zip(found, first, outputs, strict=True):
                if one.is_floating_point() and one.shape == other.shape:
                    wild = (~one.isfinite() | ~other.isfinite()).cpu().numpy()
                    found[name] = max(found[name], relative_error(one, other.cpu().numpy(), wild))
        return {name: found[name] for name, one in zip(found, first, strict=True) if one.is_floating_point()}

    def _compare(self, model: onnx.ModelProto, run: Run, place: int) -> Parity:
        names = [o.name for o in model.graph.output]
        candidate, chosen = run(self.trials[place].inputs)
        reference, forced = self._reference(place) or [], None
        if chosen:
            with torch.no_grad(), Forced(chosen) as forced:
                replayed = tensor_leaves(self.module(*cloned(self.trials[place].inputs)))
            # Selections that cannot be paired with the module's own leave the plain comparison, which is stricter.
            if forced.complete:
                reference = replayed
        parity = Parity(0.0) if forced is None or not forced.complete else self._judged_selection(forced, place)
        if len(reference) != len(candidate):
            return Parity(float("inf"), refused=f"it has {len(candidate)} outputs, the module {len(reference)}")
        held = None if forced is None else chosen if forced.complete else []
        judge = Judge(self.trials[place], self.tolerance, lambda: self._rounded(place, held))
        error, worst, limit, refused, allowed = 0.0, "", self.tolerance, parity.refused, parity.allowed
        for number, (name, wanted, got) in enumerate(zip(names, reference, candidate, strict=True)):
            found = judge(number, name, wanted, got)
            if found.error >= error:
                error, worst, limit = found.error, name, found.limit
            refused, allowed = refused or found.reason, (*allowed, *([found.excuse] if found.excuse else []))
        selected = parity.selection_error, parity.reordered
        return Parity(error, *selected, worst, refused, allowed, limit, parity.selection_limit)

    def _judged_selection(self, forced: Forced, place: int) -> Parity:
        refused, limit = "", self.tolerance
        if forced.error > limit:
            limit = max(limit, ROUNDINGS * self._selection_rounding(place))
        if forced.error > limit:
            refused = (
                f"its top-k chose entries that score {forced.error:.2e} less (relative) than the module's, "
                f"more than {limit:.0e}, on {self.trials[place].name}"
            )
        return Parity(0.0, forced.error, forced.reordered, refused=refused, selection_limit=limit)

    def _selection_rounding(self, place: int) -> float:
        """How much less what the module itself selects scores when it is rounded otherwise."""
        found = [0.0]
        for seed in range(_ROUNDED_RUNS if self._repeats() else 0):
            mode, chosen = OtherRounding(seed), Chosen()
            inputs = cloned(self.trials[place].inputs)
            try:
                with torch.no_grad():
                    with chosen, mode:
                        self.module(*rounded_otherwise(inputs, mode))
                    with Forced(chosen.indices) as forced:
                        self.module(*cloned(self.trials[place].inputs))
            except FORWARD_FAILURES:
                continue
            found.append(forced.error if forced.complete and np.isfinite(forced.error) else 0.0)
        return max(found)

    def _rounded(self, place: int, held: Sequence[Array] | None) -> list[list[Tensor]]:
        """The module's outputs rounded otherwise, and in float64, with top-k selections held at `held`.

        Nothing where it cannot be told: two runs of the module differ, or it selects and the selections are unknown
        (`held` is empty), where near-equal scores would pass for rounding.
        """
        if not self._repeats() or (held is not None and not held):
            return []
        if held or place not in self._others:
            found = list(self._rounded_runs(place, held or []))
            if held:
                return found
            self._others[place] = found
        return self._others[place]

    def _rounded_runs(self, place: int, held: Sequence[Array]) -> Iterator[list[Tensor]]:
        inputs = self.trials[place].inputs
        for seed in range(_ROUNDED_RUNS):
            mode = OtherRounding(seed)
            try:
                with torch.no_grad(), Forced(held) if held else nullcontext(), mode:
                    yield tensor_leaves(self.module(*rounded_otherwise(cloned(inputs), mode)))
            except FORWARD_FAILURES:
                continue
        to_double = lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
        try:
            module = copy.deepcopy(self.module).double()
            with torch.no_grad(), Forced(held) if held else nullcontext():
                yield tensor_leaves(module(*pytree.tree_map(to_double, cloned(inputs))))
        except FORWARD_FAILURES:
            return

    def _repeats(self) -> bool:
        """Whether the module computes the same twice."""
        if self._same_twice is None:
            with torch.no_grad():
                again = tensor_leaves(self.module(*cloned(self.trials[0].inputs)))
            self._same_twice = same(self._reference(0) or [], again)
        return self._same_twice

    def _reference(self, place: int) -> list[Tensor] | None:
        """The module's outputs; None where it does not run on an extreme input."""
        if place not in self._references:
            trial = self.trials[place]
            try:
                with torch.no_grad():
                    self._references[place] = tensor_leaves(self.module(*cloned(trial.inputs)))
            except FORWARD_FAILURES:
                if not trial.extreme:
                    raise
                self._references[place] = None
        return self._references[place]


def run_onnx(model: onnx.ModelProto, inputs: Sequence[Array]) -> list[Array]:
    """One run by ONNX Runtime on the CPU, one thread; raises `UserError` when it cannot load or run the model."""
    from channelcut.onnx_out.runtime import session_from_model

    return _fed(session_from_model(model), inputs)


def _runner(model: onnx.ModelProto) -> Run:
    from channelcut.onnx_out.runtime import session_from_model

    session, count = session_from_model(with_index_outputs(model)[0]), len(model.graph.output)

    def run(inputs: tuple[Any, ...]) -> tuple[list[Array], list[Array]]:
        outputs = _fed(session, [t.detach().cpu().numpy() for t in tensor_leaves(inputs)])
        return outputs[:count], outputs[count:]

    return run


def _fed(session: Any, inputs: Sequence[Array]) -> list[Array]:
    from channelcut.onnx_out.runtime import failures

    feed = {i.name: a for i, a in zip(session.get_inputs(), inputs, strict=True)}
    try:
        outputs: list[Array] = session.run(None, feed)
    except failures() as problem:
        raise UserError(f"ONNX Runtime cannot run the exported model: {first_line(problem)}") from problem
    return outputs


def first_line(problem: BaseException) -> str:
    """The first line of an error, or its name."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]


def _shapes(inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in tensor_leaves(inputs)]
