"""Which residual blocks go, and the network without them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from channelcut import steps
from channelcut.core.errors import ProofError, UserError
from channelcut.core.graph import Graph
from channelcut.core.groups import Groups
from channelcut.core.plan import GroupPlan, Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.record import noticed, record_of
from channelcut.core.result import PruneResult
from channelcut.cost import network_costs
from channelcut.cost.bilinear import full_widths
from channelcut.coupling.branches import Block
from channelcut.cutting import PlanContext
from channelcut.proof import NOTHING_SHOWN
from channelcut.proof.blocks import block_proof
from channelcut.recovery.rescale import distance, outputs_of
from channelcut.tracing import trace


def paths_of(blocks: Any) -> list[str]:
    """What is asked for as paths, which may be a lone one.

    Raises:
        UserError: it is something else.
    """
    try:
        names: list[Any] = [blocks] if isinstance(blocks, str) else list(blocks)
    except TypeError:
        names = [None]
    if not all(isinstance(name, str) for name in names):
        raise UserError(
            f"blocks={blocks!r} names no residual blocks. Expected the paths of modules, such as ['layer3.4']. Within "
            "a budget, prune(..., blocks='auto') chooses; drop_blocks also takes how many are to go."
        )
    return names


def named(blocks: Any, found: Mapping[str, Block]) -> list[str]:
    """The blocks that are asked for by their paths, without those that go with another one that they are in.

    Raises:
        UserError: one is no residual block.
    """
    names = paths_of(blocks)
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        raise UserError(
            f"{', '.join(map(repr, unknown)) or 'No name'} is no residual block that could go: a module that returns "
            "what it is given, with something added to it, or a module that returns what is added and nothing else "
            f"reads. Expected some of {', '.join(found) or 'none: it has none'}."
        )
    return [name for name in dict.fromkeys(names) if not inside(name, [other for other in names if other != name])]


def ranked(model: nn.Module, groups: Groups, found: Mapping[str, Block], batches: Sequence[Any]) -> list[str]:
    """The blocks, first the one whose absence moves the outputs least for what it costs; none in another one."""
    price = {}
    for path, moved in moved_without(model, groups, list(found.values()), batches):
        macs = sum(work.macs for work in groups.work if inside(work.site.module, (path,)))
        price[path] = moved / max(macs, 1.0)
    order: list[str] = []
    for path in sorted(found, key=lambda path: price[path]):
        if math.isfinite(price[path]) and not inside(path, order) and not any(inside(other, [path]) for other in order):
            order.append(path)
    return order


def moved_without(
    model: nn.Module, groups: Groups, blocks: Sequence[Block], batches: Sequence[Any]
) -> Iterator[tuple[str, float]]:
    """How far the outputs move without each block alone, in deviations of each; infinitely where it does not run."""
    wanted = [outputs_of(model, batch) for batch in batches]
    for block in blocks:
        without = steps.applied(model, block_plan(model, groups, [block]), Stopwatch())
        try:
            moved = distance(without, batches, wanted)
        except UserError:  # the forward reads more of the block's module than its result, such as its length
            moved = math.inf
        yield block.module, moved


def dropped(model: nn.Module, groups: Groups, blocks: Sequence[Block], inputs: Any, watch: Stopwatch) -> PruneResult:
    """The network without these blocks, proven.

    Raises:
        ProofError: it does not compute what the original does with their branches zero.
    """
    paths = tuple(block.module for block in blocks)
    plan = block_plan(model, groups, blocks)
    smaller = steps.applied(model, plan, watch)
    with watch.stage("prove"):
        again = _retraced(smaller, groups, paths, inputs)
        proof = block_proof(model, smaller, (groups.graph, again), [s for b in blocks for s in b.sums], inputs)
    if proof.failures == (NOTHING_SHOWN,):
        raise UserError(
            f"The outputs do not depend on the branches of {', '.join(paths)}, so that no proof could tell a right cut "
            "from a wrong one. Expected a network whose weights let them through: a trained one, say."
        )
    if proof.failures and proof.failures[0].startswith("the training step"):
        raise ProofError(
            f"Without {', '.join(paths)} the network could not be trained, so it is not returned: "
            f"{proof.failures[0].rstrip('.')}. Leave such a block in. Where the forward adds in place (x += ...), "
            "write x = x + ...: what stands for a branch needs what it was given as that was."
        )
    if not proof.passed:
        raise ProofError(
            f"Without {', '.join(paths)} the network does not compute what it does with the branches of these blocks "
            f"zero, so it is not returned: {'; '.join(proof.failures[:3])}. Leave such a block in: a step "
            "behind its sum, such as an activation, changes what it was given."
        )
    steps.put_proof(smaller, proof)
    record = record_of(smaller)
    assert record is not None
    chosen = record.plan if noticed(model) is not None else plan
    return PruneResult(smaller, chosen, proof, groups, plan, seconds=watch.seconds)


def _retraced(smaller: nn.Module, groups: Groups, paths: Sequence[str], inputs: Any) -> Graph:
    try:
        return trace(smaller, *inputs, front_end=groups.graph.front_end, arithmetic=not groups.graph.hollow)
    except UserError as error:
        said = error if error.__cause__ is None else error.__cause__
        raise UserError(
            f"Without {', '.join(paths)} the model's forward does not run ({type(said).__name__}: {said}), as where it "
            "reads more of such a module than its result: its length, its layers or their weights. Expected blocks "
            "that it only calls; leave such a one in."
        ) from error


def block_plan(model: nn.Module, groups: Groups, blocks: Sequence[Block]) -> Plan:
    """The plan that drops these modules and keeps every channel."""
    paths = tuple(block.module for block in blocks)
    zeroed = tuple(block.module for block in blocks if block.kind == "branch")
    kept, costs = np.ones(groups.channel_count, dtype=bool), network_costs(model, groups)
    context = PlanContext(model, groups, kept, np.ones(groups.channel_count), costs, paths, zeroed)
    left = replace(groups, work=tuple(work for work in groups.work if not inside(work.site.module, paths)))
    plan = context.plan({"blocks": list(paths)})
    macs = network_costs(model, left)["macs"](full_widths(groups.groups))
    left_over = tuple(_emptied(group) if inside(group.name, paths) else group for group in plan.groups)
    return replace(plan, groups=left_over, after=replace(plan.after, macs=macs))


def _emptied(group: GroupPlan) -> GroupPlan:
    """A group that is gone."""
    return replace(group, kept=0, counts=tuple((before, 0) for before, _ in group.counts))


def inside(name: str, paths: Sequence[str]) -> bool:
    """Whether a module or a tensor, by its name, is in one of these modules."""
    return any(f"{name}.".startswith(f"{path}.") for path in paths)
