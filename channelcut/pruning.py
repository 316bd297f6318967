"""One cut of a network in order: traced, coupled, scored, cut within a budget, proven, restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from channelcut import steps
from channelcut.allocation import Budget
from channelcut.choosing import Held, Ranked, ranked
from channelcut.closing import cut_within
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import ArithmeticNeeded
from channelcut.core.graph import Graph
from channelcut.core.inputs import Inputs
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.proof import Proof
from channelcut.core.result import PruneResult
from channelcut.cost.protocol import WidthCost
from channelcut.passes import ranked_in_passes
from channelcut.ranking import Criterion
from channelcut.restoring import Restoring, as_result, restored_by, unrestored


@dataclass(frozen=True)
class Request:
    """What is asked of a cut, checked; `channelcut.prune` says what each of it means.

    coupling: how the network is traced and coupled.
    batches: what calibrates.
    each: prove every group alone as well.
    passes: in how many passes channels are ranked.
    """

    budget: Budget
    criterion: Criterion
    coupling: steps.AnalyzeOptions
    batches: Sequence[Any] = ()
    cost: WidthCost | None = None
    exclude: Held = ()
    drop_unused: bool = False
    deploy: Deploy = DEFAULT
    each: bool = False
    restore: str = "compensate"
    rescale: str = "auto"
    passes: int = 1

    @property
    def restoring(self) -> Restoring:
        """What is asked of the cut after its proof."""
        return Restoring(self.batches, self.restore, self.rescale, self.criterion.detections)


def pruned(model: nn.Module, x: Any, inputs: Inputs, asked: Request, watch: Stopwatch) -> PruneResult:
    """The cut network, proven and restored.

    Args:
        model: the network.
        x: an example, as for `channelcut.prune`.
        inputs: the same with the further entries.
        asked: what is asked for.
        watch: takes the time.
    """
    return finished(scored_channels(model, inputs, asked, watch), x, inputs, asked, watch)


def finished(scored: Ranked, x: Any, inputs: Inputs, asked: Request, watch: Stopwatch) -> PruneResult:
    """The same from scored channels on."""
    step, small, proof = cut_and_proven(scored, x, inputs, asked, watch)
    done = restored_by(small, step, asked.restoring, watch)
    return as_result(done, unrestored(small, step, proof, steps.context_of(step).groups), watch)


def scored_channels(model: nn.Module, inputs: Inputs, asked: Request, watch: Stopwatch) -> Ranked:
    """A network, traced and coupled, with the importance of its channels."""
    return _scored(model, steps.traced(model, inputs, asked.coupling, watch), inputs, asked, watch)


def _scored(model: nn.Module, graphs: Sequence[Graph], inputs: Inputs, asked: Request, watch: Stopwatch) -> Ranked:
    groups = steps.coupled(model, graphs, inputs, asked.coupling, watch)
    return ranked(
        model, groups, asked.budget.keep, asked.criterion, asked.exclude, watch, drop_unused=asked.drop_unused,
        deploy=asked.deploy,
    )  # fmt: skip


def cut_and_proven(
    scored: Ranked, x: Any, inputs: Inputs, asked: Request, watch: Stopwatch
) -> tuple[Plan, nn.Module, Proof]:
    """The plan within the budget, the cut, and its proof; where values may have a say, of a trace that computes."""
    step, small = _cut(scored, x, asked, watch)
    try:
        return step, small, steps.proven(small, step, inputs, watch, each=asked.each)
    except ArithmeticNeeded as needed:
        graphs = steps.traced(scored.model, inputs, asked.coupling, watch, arithmetic=True)
        if steps.same_run(scored.groups.graph, graphs[0]):
            raise steps.unproven(step, inputs, needed.proof) from None
        step, small = _cut(_scored(scored.model, graphs, inputs, asked, watch), x, asked, watch)
        return step, small, steps.proven(small, step, inputs, watch, each=asked.each)


def _cut(scored: Ranked, x: Any, asked: Request, watch: Stopwatch) -> tuple[Plan, nn.Module]:
    """The plan within the budget, by what several passes rank where that is asked for, and the cut."""
    if asked.passes > 1:
        scored = ranked_in_passes(scored, asked.budget, asked.cost, asked.passes, watch)
    return cut_within(scored, asked.budget, asked.cost, x, watch)
