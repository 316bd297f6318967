"""`proof_of`: original and cut model in lockstep, in float64, compared wherever channels are consumed.

A comparison of outputs alone proves little: with default initial weights, two channels swapped in an early layer move
the outputs of a detector by 1e-10 of their range. So the input and the output of every layer and matrix product are
compared, on the kept channels, in units of that tensor's own deviation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.graph import Graph
from channelcut.core.groups import Groups
from channelcut.core.inputs import Inputs
from channelcut.core.plan import Plan
from channelcut.core.proof import Check, Proof
from channelcut.core.tensors import cut_tensor, kept_indices, kept_positions, named_tensors
from channelcut.proof.execute import Derived
from channelcut.proof.lockstep import TOLERANCE, Lockstep
from channelcut.proof.training import training_step

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
    chosen = Derived(drawn, lambda name, tensor: cut_tensor(name, tensor, plan.kept, plan.indices))
    more, signal = lockstep.run(drawn, chosen)
    return Comparison((*checks, *more), signal, "own and rescaled")


def plan_failures(groups: Groups, kept: NDArray[np.bool_], plan: Plan) -> list[str]:
    """Tensors whose kept positions, or new values, are not those of the channels that are kept."""
    expected = kept_positions(groups, kept)
    names = sorted(n for n in {*expected, *plan.kept} if expected.get(n) != dict(plan.kept.get(n, {})))
    failures = [f"the plan's positions of {name} are not those of the kept channels" for name in names[:3]]
    indices = kept_indices(groups, kept)
    names = sorted(n for n in {*indices, *plan.indices} if indices.get(n) != plan.indices.get(n))
    return failures + [f"the plan's values of {name} do not pick the kept channels" for name in names[:3]]


def tensor_failures(model: nn.Module, cut_model: nn.Module, plan: Plan) -> list[str]:
    """Tensors of the cut model that are not what the plan names."""
    actual = named_tensors(cut_model)
    wrong = []
    for name, tensor in named_tensors(model).items():
        expected = cut_tensor(name, tensor.detach(), plan.kept, plan.indices)
        found = actual.get(name)
        if plan.drops(name):
            wrong += [] if found is None else [f"{name} is still there, and the plan drops it"]
        elif found is None or found.shape != expected.shape or not torch.equal(found.detach(), expected):
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
