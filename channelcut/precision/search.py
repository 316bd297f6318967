"""Which nodes stay in the higher precision: as few as a budget on the output error demands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import onnx

from channelcut.core.errors import BudgetError
from channelcut.precision.quantize import QUANTIZED

_PATIENCE = 4
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Errors:
    """The output error with the named nodes lowered.

    full: over all judged inputs; decides.
    quick: over the first of them; ranks.
    """

    full: Callable[[Collection[str]], float]
    quick: Callable[[Collection[str]], float]


@dataclass(frozen=True)
class Found:
    """What is lowered and what is kept, the error reached, and the error with everything lowered."""

    lowered: tuple[str, ...]
    kept: tuple[str, ...]
    error: float
    unrestricted: float


def search(units: Sequence[Sequence[str]], errors: Errors, budget: float, notify: Progress) -> Found:
    """Lower everything if that meets the budget; else keep the fewest of the worst.

    `units`: nodes that are tried together first, such as a convolution with its activation. Units are ranked by the
    error that each causes alone, and a bisection finds how many of the worst must be kept. The nodes of those are
    then ranked singly, everything else being lowered, and a second bisection lowers as many of them as it can. Last,
    the least harmful are tried once more one by one. In bf16 FastestDet takes 90 trials, most of them on one input,
    where ranking every node on four took 205.

    Raises `BudgetError` when nothing can be lowered.
    """
    names = [name for unit in units for name in unit]
    unrestricted = errors.full(names)
    if unrestricted <= budget:
        return Found(tuple(names), (), unrestricted, unrestricted)
    alone = _alone(units, errors, "sensitivity", notify)
    ranked = _ranked(units, alone)
    many, reached = _bisect(ranked, (), errors, budget)
    held = [[name] for unit in ranked[:many] for name in unit]
    if len(held) > many:
        rest = [name for unit in ranked[many:] for name in unit]
        alone = _alone(held, errors, "sensitivity of nodes", notify)
        held = _ranked(held, alone)
        fewer, better = _bisect(held, rest, errors, budget)
        if fewer < len(held):
            held, reached = held[:fewer], better
    held, reached = _lowered_again(held, names, errors, budget, reached)
    kept = [unit[0] for unit in held]
    if len(kept) == len(names):
        raise BudgetError(
            f"No node can be lowered within an output error of {budget:g}; the least that a node alone causes is "
            f"{min(alone):.2g}. Nothing was written: the model stays float32. Raise the budget."
        )
    return Found(tuple(n for n in names if n not in set(kept)), tuple(kept), reached, unrestricted)


def units(model: onnx.ModelProto, names: Collection[str]) -> list[list[str]]:
    """The named nodes in the order of the graph, cut before every layer with weights."""
    found: list[list[str]] = [[]]
    for node in model.graph.node:
        if node.op_type in QUANTIZED:
            found.append([])
        if node.name in names:
            found[-1].append(node.name)
    return [unit for unit in found if unit]


def _alone(tried: Sequence[Sequence[str]], errors: Errors, stage: str, notify: Progress) -> list[float]:
    alone = []
    for done, unit in enumerate(tried):
        notify(stage, done, len(tried))
        alone.append(errors.quick(unit))
    notify(stage, len(tried), len(tried))
    return alone


def _ranked(tried: Sequence[Sequence[str]], alone: Sequence[float]) -> list[list[str]]:
    """Worst first; a tie goes to the earlier."""
    return [list(tried[i]) for i in sorted(range(len(tried)), key=lambda i: (-alone[i], i))]


def _lowered_again(
    held: Sequence[Sequence[str]], names: Sequence[str], errors: Errors, budget: float, reached: float
) -> tuple[list[list[str]], float]:
    """What is still kept after one more try for each, from the least harmful on, until several in turn are refused.

    Errors alone do not add up, so that a prefix of the ranking keeps some that the budget would allow.
    """
    left, refused = [list(unit) for unit in held], 0
    for unit in reversed(held):
        if refused == _PATIENCE:
            break
        kept = {name for other in left if other != unit for name in other}
        error = errors.full([name for name in names if name not in kept])
        if error <= budget:
            left.remove(list(unit))
            reached = error
        refused = 0 if error <= budget else refused + 1
    return left, reached


def _bisect(ranked: Sequence[Sequence[str]], rest: Sequence[str], errors: Errors, budget: float) -> tuple[int, float]:
    """The length of the shortest prefix whose being kept meets the budget, and the error; `rest` is lowered as well.

    With all of `ranked` kept no trial is made: the error is then given as 0.
    """
    few, many, reached = 0, len(ranked), 0.0
    while many - few > 1:
        middle = (few + many) // 2
        error = errors.full([*rest, *(name for unit in ranked[middle:] for name in unit)])
        few, many, reached = (few, middle, error) if error <= budget else (middle, many, reached)
    return many, reached
