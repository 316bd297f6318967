"""The proof of blocks that went as wholes: without them the network computes what it does with their branches zero."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.graph import Graph, Node, named_outputs
from channelcut.core.inputs import Inputs
from channelcut.core.proof import Check, Proof
from channelcut.core.schema import writes
from channelcut.core.tensors import named_tensors
from channelcut.proof.compare import moved, relative_error
from channelcut.proof.execute import Execution
from channelcut.proof.lockstep import TOLERANCE
from channelcut.proof.prover import NOTHING_SHOWN
from channelcut.proof.training import training_step


class _Without(Execution):
    """The original, in float64, with some operands of its sums zero: `sums` says of which node which one."""

    def __init__(self, graph: Graph, state: Mapping[str, Tensor], inputs: Inputs, sums: Mapping[int, int]) -> None:
        super().__init__(graph, state, inputs)
        self.sums = sums

    def compute(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call."""
        place = self.sums.get(node.index)
        if place is not None:
            if place == 0 and writes(node.target):
                args[0].zero_()  # in place, so that whoever reads the sum by this name sees it
            else:
                args = (*args[:place], torch.zeros_like(args[place]), *args[place + 1 :])
        return super().compute(node, args, kwargs)


def block_proof(
    model: nn.Module, smaller: nn.Module, graphs: tuple[Graph, Graph], sums: Sequence[tuple[int, int]], inputs: Inputs
) -> Proof:
    """Compare a network without some blocks with the original whose branches are zero.

    Args:
        model: the original.
        smaller: it, with an identity in the place of each block.
        graphs: the forwards of both.
        sums: of the original's graph the nodes that add the branches, and which operand a branch is.
        inputs: an example.

    Returns:
        A `Proof`: every output agrees to 1e-9 of its deviation, and one training step gives finite gradients.
    """
    start = time.perf_counter()
    state, mine = named_tensors(model), named_tensors(smaller)
    with torch.no_grad():
        whole = Execution(graphs[0], state, inputs).results()
        masked = _Without(graphs[0], state, inputs, dict(sums)).results()
        found = Execution(graphs[1], mine, inputs).results()
    names = [name or "the output" for name, _ in named_outputs(graphs[0])]
    failures = []
    if len(found) != len(masked) or any(a.shape != b.shape for a, b in zip(found, masked, strict=False)):
        failures.append("the outputs have other shapes than the original's")
        found = []
    checks = tuple(
        Check(name, relative_error(wanted, given))
        for name, wanted, given in zip(names, masked, found, strict=False)
        if wanted.is_floating_point()
    )
    failures += [f"{c.place} differs by {c.relative_error:.2g}" for c in checks if not c.relative_error <= TOLERANCE]
    signal = max((moved(a, b) for a, b in zip(whole, masked, strict=True) if a.is_floating_point()), default=0.0)
    if signal == 0:
        failures.append(NOTHING_SHOWN)
    step = "not run" if failures else training_step(smaller, model, *inputs)
    if step.startswith("failed"):
        failures.append(f"the training step {step}")
    worst = max((check.relative_error for check in checks), default=float("nan"))
    seconds = time.perf_counter() - start
    return Proof(not failures, worst, TOLERANCE, signal, checks, step, "own", seconds, tuple(failures))
