"""`proof_of`: original and cut model in lockstep, in float64, compared wherever channels are consumed.

A comparison of outputs alone proves little: with default initial weights, two channels swapped in an early layer move
the outputs of a detector by 1e-10 of their range. So the input and the output of every layer and matrix product are
compared, on the kept channels, in units of that tensor's own deviation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.graph import Graph, Node, named_outputs, refs
from channelcut.core.groups import Groups
from channelcut.core.ids import varying_axes
from channelcut.core.inputs import Inputs
from channelcut.core.plan import Plan
from channelcut.core.proof import Check, Proof
from channelcut.core.randomness import OwnRandom
from channelcut.core.schema import writes
from channelcut.core.tensors import kept_positions, named_tensors, select
from channelcut.ops.align import align
from channelcut.ops.host import State
from channelcut.ops.registry import op
from channelcut.proof.compare import kept_elements, kept_mask, moved, relative_error
from channelcut.proof.execute import Derived, Execution, compared
from channelcut.proof.reference import (
    UnequalGroups,
    consumers,
    kept_lines,
    masked_state,
    masked_weight,
    mix_kept,
    of_kept_weights,
    producers,
)
from channelcut.proof.training import training_step

TOLERANCE = 1e-9
VISIBLE = 1e-6
NOTHING_SHOWN = "the outputs do not depend on the removed channels, so nothing was shown"


@dataclass(frozen=True)
class Retraced:
    """The graph of a cut model, and what is wrong with it, in words; no graph where its forward fails."""

    graph: Graph | None
    failure: str = ""


def proof_of(
    model: nn.Module,
    cut_model: nn.Module,
    plan: Plan,
    groups: Groups,
    kept: NDArray[np.bool_],
    inputs: Inputs,
    retraced: Retraced,
    *,
    training: bool = True,
) -> Proof:
    """Compare `cut_model` with `model` whose removed channels are masked.

    Checks that the plan keeps the same channels in every slot; that every tensor of the cut model is the selection that
    the plan names; that its forward was traced as predicted; that in float64 each consumer's input and each output
    agree to 1e-9 of their deviation; that one training step gives finite gradients (left out with `training=False`).

    Returns a `Proof`; `failures` says in words what does not hold.
    """
    start = time.perf_counter()
    failures = plan_failures(groups, kept, plan) or tensor_failures(model, cut_model, plan)
    if retraced.failure:
        failures.append(retraced.failure)
    graph = retraced.graph
    compared = Comparison()
    if graph is not None and not failures:
        lockstep = Lockstep(groups, kept, graph, inputs)
        compared = compare(lockstep, model, cut_model, plan)
        failures += compared.failures(bool(plan.kept))
    step = training_step(cut_model, model, *inputs) if training and not failures else "not run"
    if step.startswith("failed"):
        failures.append(f"the training step {step}")
    return Proof(
        passed=not failures,
        max_relative_error=max((c.relative_error for c in compared.checks), default=float("nan")),
        tolerance=TOLERANCE,
        signal=compared.signal,
        checks=compared.checks,
        training=step,
        weights=compared.weights,
        seconds=time.perf_counter() - start,
        failures=tuple(failures),
    )


@dataclass(frozen=True)
class Comparison:
    """What the lockstep found: every check, how far the outputs moved, and on which weights."""

    checks: tuple[Check, ...] = ()
    signal: float = 0.0
    weights: str = "own"

    def failures(self, anything_cut: bool) -> list[str]:
        """What does not hold, in words; the first five places."""
        found = [
            f"{c.place} differs by {c.relative_error:.2g}" for c in self.checks if not c.relative_error <= TOLERANCE
        ][:5]
        if self.signal == 0.0 and anything_cut:
            found.append(NOTHING_SHOWN)
        return found


def compare(lockstep: Lockstep, model: nn.Module, cut_model: nn.Module, plan: Plan) -> Comparison:
    """Run the lockstep on the models' own weights, and on drawn ones where these cannot show a wrong cut.

    Own weights cannot where the model is untrained: a bias or variance is the same for all channels, or the outputs
    hardly move.
    """
    original = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    actual = {name: tensor.detach() for name, tensor in named_tensors(cut_model).items()}
    telling = not uninformative(model, plan)
    checks, signal = lockstep.run(original, actual, signal=telling)
    if telling and signal >= VISIBLE:
        return Comparison(tuple(checks), signal)
    drawn = rescaled(original)
    chosen = Derived(drawn, lambda name, tensor: select(tensor, plan.kept.get(name, {})))
    more, signal = lockstep.run(drawn, chosen)
    return Comparison((*checks, *more), signal, "own and rescaled")


def plan_failures(groups: Groups, kept: NDArray[np.bool_], plan: Plan) -> list[str]:
    """Slots whose kept positions are not those of the channels that are kept."""
    expected = kept_positions(groups, kept)
    names = sorted(n for n in {*expected, *plan.kept} if expected.get(n) != dict(plan.kept.get(n, {})))
    return [f"the plan's positions of {name} are not those of the kept channels" for name in names[:3]]


def tensor_failures(model: nn.Module, cut_model: nn.Module, plan: Plan) -> list[str]:
    """Tensors of the cut model that are not the selection that the plan names."""
    actual = named_tensors(cut_model)
    wrong = []
    for name, tensor in named_tensors(model).items():
        expected = select(tensor.detach(), plan.kept.get(name, {}))
        found = actual.get(name)
        if found is None or found.shape != expected.shape or not torch.equal(found.detach(), expected):
            wrong.append(f"{name} is not the selection that the plan names")
    return wrong


def uninformative(model: nn.Module, plan: Plan) -> bool:
    """Whether a cut vector holds one value for all channels, so that keeping the wrong ones would go unseen."""
    vectors = [t for name, t in named_tensors(model).items() if name in plan.kept and t.dim() == 1 and len(t) > 1]
    return any(bool((t == t[0]).all()) for t in vectors)


def rescaled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the same shapes, drawn so that signals keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            drawn[name] = tensor
        elif tensor.dim() >= 2:
            fan_in = max(1, tensor[0].numel())
            drawn[name] = torch.randn(tensor.shape, generator=generator).mul_((2 / fan_in) ** 0.5)
        elif name.endswith(("running_mean", "bias")):
            drawn[name] = torch.randn(tensor.shape, generator=generator) * 0.1
        else:
            drawn[name] = torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75
        drawn[name] = drawn[name].to(tensor.device)
    return drawn


def _drawn_once(node: Node, value: Any, other: Any) -> Any:
    """The random numbers of the original, where the cut model draws as many."""
    if not isinstance(value, Tensor) or not isinstance(other, Tensor) or value.shape != other.shape:
        return other
    return other.copy_(value) if writes(node.target) else value.clone()


class Lockstep:
    """Runs the masked original and the cut model node by node and compares what is consumed."""

    def __init__(self, groups: Groups, kept: NDArray[np.bool_], graph: Graph, inputs: Any) -> None:
        self.groups, self.kept, self.graph, self.inputs = groups, kept, graph, inputs
        self.consumers, self.producers = consumers(groups), producers(groups)
        self._masks: dict[int, Tensor | None] = {}

    def run(
        self, original: Mapping[str, Tensor], actual: Mapping[str, Tensor], *, signal: bool = True
    ) -> tuple[list[Check], float]:
        """Every check in order, and how far the masked outputs moved from the uncut ones (0 without `signal`)."""
        with torch.no_grad(), OwnRandom():
            return self._run(original, actual, signal)

    def _run(
        self, original: Mapping[str, Tensor], actual: Mapping[str, Tensor], signal: bool
    ) -> tuple[list[Check], float]:
        uncut = Execution(self.groups.graph, original, self.inputs).results() if signal else []
        masked = masked_state(self.groups, self.kept, original)
        reference = Execution(self.groups.graph, masked, self.inputs)
        pairs = align(self.groups.graph, self.graph)
        partners = {node.index: twin.index for node, twin in pairs if node is not None and twin is not None}
        twins = self._twins(partners)
        candidate = Execution(self.graph, actual, self.inputs, [index for index in twins if index is not None])
        checks: list[Check] = []
        for node, twin in pairs:
            if node is None or twin is None:  # a copy on one side alone
                alone, side = (twin, candidate) if node is None else (node, reference)
                assert alone is not None
                side.finish(alone, side.compute(alone, *side.arguments(alone)))
                continue
            if node.kind == "output":
                outputs = [reference.value(index) for index in compared(self.groups.graph)]
                checks += self._outputs(twins, reference, candidate)
                return checks, max((moved(a, b) for a, b in zip(uncut, outputs, strict=signal)), default=0.0)
            if node.kind != "call":
                reference.start(node)
                candidate.start(twin)
                continue
            for ref in self.consumers.get(node.index, ()):
                other = refs(twin.args)[refs(node.args).index(ref)]
                mine, theirs = reference.value(ref.index), candidate.value(other.index)
                checks.append(Check(f"input of {node.site}", self._on_kept(ref.index, mine, theirs)))
            self._step(node, twin, reference, candidate, checks)
        return checks, 0.0

    def _twins(self, partners: Mapping[int, int]) -> list[int | None]:
        """The cut model's step for every output; None where there is none.

        What is read where values decide is paired by its step: in the cut model they may decide that nobody reads it.
        """
        mine, theirs = named_outputs(self.groups.graph), named_outputs(self.graph)
        same = [name for name, _ in mine] == [name for name, _ in theirs]
        outputs = [index for _, index in theirs] if same else [None] * len(mine)
        return [*outputs, *(partners.get(index) for index in self.groups.graph.unsettled)]

    def _outputs(self, twins: Sequence[int | None], reference: Execution, candidate: Execution) -> list[Check]:
        """Every output as a whole; of those that may lose channels, the kept ones."""
        checks = []
        graph = self.groups.graph
        named = [*named_outputs(graph), *(("read where values decide", index) for index in graph.unsettled)]
        for (name, index), other in zip(named, twins, strict=True):
            free = any(fnmatch(name, pattern) for pattern in self.groups.free_outputs)
            error = float("inf")
            if other is not None:
                mine, theirs = reference.value(index), candidate.value(other)
                error = self._on_kept(index, mine, theirs) if free else relative_error(mine, theirs)
            checks.append(Check(f"output {name} ({graph.nodes[index].site})", error))
        return checks

    def _step(self, node: Node, twin: Node, reference: Execution, candidate: Execution, checks: list[Check]) -> None:
        try:
            value = self._masked_value(node, reference)
        except UnequalGroups:
            checks.append(Check(f"the equal groups of {node.site}", float("inf")))
            value = reference.compute(node, *reference.arguments(node))
        other = candidate.compute(twin, *candidate.arguments(twin))
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            other = _drawn_once(node, value, other)
        if op(node.name).ties and value[0].shape == other[0].shape:
            # Equal scores may come in either order; the values must agree, the order is then the reference's.
            checks.append(Check(f"values of {node.site}", relative_error(value[0], other[0])))
            other = value
        if node.index in self.producers:
            checks.append(Check(f"output of {node.site}", self._on_kept(node.index, value, other)))
        reference.finish(node, value)
        candidate.finish(twin, other)

    def _masked_value(self, node: Node, reference: Execution) -> Any:
        """The value of a step of the original without the removed channels.

        Raises:
            UnequalGroups: the kept channels do not divide into the op's groups.
        """
        reads = node.index in self.consumers and not writes(node.target)
        args, kwargs = reference.arguments(node, self._without_removed) if reads else reference.arguments(node)
        first = refs(node.args[:1])
        if first and op(node.name).statistics_of_weights and (lines := self._lines(first[0].index)):
            return of_kept_weights(node, args, kwargs, lines)
        mask = self._mixed(node)
        return reference.compute(node, args, kwargs) if mask is None else mix_kept(node, args, kwargs, mask)

    def _without_removed(self, index: int, value: Any) -> Any:
        """What a layer or a product reads, without what is removed, which may be anything, such as 0 / 0."""
        if not isinstance(value, Tensor) or self.groups.graph.nodes[index].kind != "call":
            return value
        if lines := self._lines(index):
            return masked_weight(value, lines)
        mask = self._mask(index)
        return value if mask is None else value.masked_fill(~mask.to(value.device), 0)

    def _lines(self, index: int) -> Mapping[int, Tensor]:
        """What is kept along the axes of a parameter, or of what is computed of some; nothing of any other value."""
        found = self.groups.ids_of(index)
        return kept_lines(self.groups, self.kept, found) if isinstance(found, State) else {}

    def _mixed(self, node: Node) -> Tensor | None:
        """The kept elements of a mixing op's input, where it loses any."""
        first = node.args[0] if node.args else None
        axis = op(node.name).over_kept
        if axis is None or not refs(first) or isinstance(self.groups.ids_of(node.index), State):
            return None
        over_channels = axis != "channels" or not varying_axes(self.groups.channels_of(node.index))
        return self._mask(refs(first)[0].index) if over_channels else None

    def _on_kept(self, index: int, reference: Tensor, candidate: Tensor) -> float:
        mask = self._mask(index)
        if mask is None:
            return relative_error(reference, candidate)
        chosen = kept_elements(reference, mask)
        if chosen.numel() != candidate.numel():
            return float("inf")
        return relative_error(chosen, candidate.reshape(chosen.shape))

    def _mask(self, index: int) -> Tensor | None:
        """The kept elements of a value; None where it loses none."""
        if index not in self._masks:
            ids = self.groups.channels_of(index)
            self._masks[index] = kept_mask(ids, self.kept) if isinstance(ids, Tensor) else None
        return self._masks[index]
