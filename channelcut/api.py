"""`analyze` and `prune`: the stages as one function each, read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from channelcut.allocation import Budget, allocate
from channelcut.core.errors import ProofError, UserError
from channelcut.core.graph import Graph
from channelcut.core.groups import Groups
from channelcut.core.heap import frozen_heap
from channelcut.core.plan import Plan
from channelcut.core.proof import Proof
from channelcut.core.result import Pruned, Recalibration
from channelcut.cost import BilinearCost, macs_cost, params_cost
from channelcut.coupling import CoupleOptions, couple
from channelcut.cutting import cut, make_plan, restore, store
from channelcut.cutting.planning import named_tensors
from channelcut.proof import verify
from channelcut.proof.each import GroupCuts
from channelcut.proof.prover import NOTHING_SHOWN
from channelcut.recovery import Preprocessing, load_images, recalibrate
from channelcut.retrace import CutForwards
from channelcut.scoring import score
from channelcut.sources.outputs import uncounted_outputs
from channelcut.tracing import trace_modes

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total)."""


class PruneOptions(TypedDict, total=False):
    """What `prune` takes beside the budget.

    importance: `l1`, `l2` (default), `bn`, `random` or `tp:NAME` for a criterion of torch-pruning.
    align: kept widths are multiples of this (default 1; 8 suits fp16 tensor cores).
    floor: the least share of any group that a budget leaves (default 0.1).
    calibration: unlabelled inputs for batch-norm recalibration: a tensor (N, C, H, W), several, or a folder of images.
    preprocessing: how images of a folder become inputs.
    front_end: `auto` (default), `dispatch` or `export`.
    grouped: a grouped convolution loses whole `groups` (default), or as many channels (`offsets`) of every group.
    free_outputs: patterns of paths in the forward's result (`1.feats.*`) whose channels may go; by default those
        that the model's library is known not to count.
    prove: `whole` (default: the plan at once) or `each` (also every group by itself, so that a failure has a name).
    progress: called as progress(stage, done, total).
    """

    importance: str
    align: int
    floor: float
    calibration: Tensor | Iterable[Tensor] | str | Path | None
    preprocessing: Preprocessing | None
    front_end: str
    grouped: str
    free_outputs: tuple[str, ...] | None
    prove: str
    progress: Progress | None


def silent(stage: str, done: int, total: int) -> None:
    """Show no progress."""


class Stopwatch:
    """Seconds by stage."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress or silent

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and announce its start and end."""
        self.progress(name, 0, 1)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.progress(name, 1, 1)


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs: a tensor, a tuple or list of positional ones, or a dict of keyword ones."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise UserError(
        f"example_inputs is a {type(example_inputs).__name__}. Expected a tensor, a tuple of positional inputs or a "
        f"dict of "
        "keyword inputs, as the model's forward takes them."
    )


@frozen_heap()
def analyze(
    model: nn.Module,
    example_inputs: Any,
    *,
    front_end: str = "auto",
    probe: bool = True,
    grouped: str = "groups",
    free_outputs: tuple[str, ...] | None = None,
) -> Groups:
    """Find the channels of `model` that can be removed together, and why the others cannot.

    Args:
        model: any module; it is not changed.
        example_inputs: a tensor, a tuple or a dict, as the forward takes them.
        front_end: `auto`, `dispatch` or `export`.
        probe: also run the forward of a slightly smaller copy, which finds widths that the code hard-codes.
        grouped: see `PruneOptions`.
        free_outputs: see `PruneOptions`.

    Raises:
        UserError: the forward fails on these inputs, or cannot be traced.
    """
    args, kwargs = split_inputs(example_inputs)
    graphs = trace_modes(model, args, kwargs, front_end=front_end)
    options = couple_options(model, grouped, free_outputs)
    if not probe:
        return couple(graphs, options)
    return probed(model, graphs, args, kwargs, options)


def probed(
    model: nn.Module,
    graphs: Sequence[Graph],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: CoupleOptions,
) -> Groups:
    """Couple, and pin whatever the real forward cannot lose."""
    forwards = CutForwards(model, args, kwargs)
    return couple(graphs, options, forwards, lambda: forwards.again(graphs[0]))


def couple_options(
    model: nn.Module, grouped: str = "groups", free_outputs: tuple[str, ...] | None = None
) -> CoupleOptions:
    """How to couple a model; what its library is known to leave uncounted is free unless told otherwise."""
    if grouped not in ("groups", "offsets"):
        raise UserError(f"grouped={grouped!r} is no policy for grouped convolutions: use 'groups' or 'offsets'.")
    free = uncounted_outputs(model) if free_outputs is None else tuple(free_outputs)
    return CoupleOptions("groups" if grouped == "groups" else "offsets", free)


@frozen_heap()
def prune(
    model: nn.Module,
    example_inputs: Any,
    *,
    keep: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    **options: Unpack[PruneOptions],
) -> Pruned:
    """Remove the least important channels of `model`, prove it, and return the result; `model` itself is not touched.

    Args:
        model: a trained module.
        example_inputs: a tensor, a tuple or a dict, as the forward takes them.
        keep: keep this share of the channels of every group, or
        macs: keep this share of the multiply-accumulates, ranking all channels together, or
        params: keep this share of the parameters.
        options: see `PruneOptions`.

    Raises:
        UserError: bad inputs, weights that are not finite, nothing to remove.
        BudgetError: the budget cannot be met; the text names the nearest one.
        ProofError: the cut could not be proven.
    """
    if unknown := set(options) - set(PruneOptions.__annotations__):
        raise TypeError(
            f"prune() got unknown options {sorted(unknown)}; it takes {sorted(PruneOptions.__annotations__)}"
        )
    if options.get("prove", "whole") not in ("whole", "each"):
        raise UserError(f"prove={options['prove']!r} is unknown: use 'whole' or 'each'.")
    budget = Budget(keep, macs, params, options.get("align", 1), options.get("floor", 0.1))
    args, kwargs = split_inputs(example_inputs)
    watch = Stopwatch(options.get("progress"))
    for arithmetic in (False, True):
        with watch.stage("trace"):
            front_end = options.get("front_end", "auto")
            graphs = trace_modes(model, args, kwargs, front_end=front_end, arithmetic=arithmetic)
        try:
            return _pruned(model, graphs, (args, kwargs), budget, watch, options)
        except UserError:
            raise
        except Exception:
            if not graphs[0].hollow:  # else its values may have had a say that the trace does not show
                raise
    raise AssertionError("a trace with the arithmetic is not hollow")


def _pruned(
    model: nn.Module,
    graphs: Sequence[Graph],
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    budget: Budget,
    watch: Stopwatch,
    options: PruneOptions,
) -> Pruned:
    """All stages after the trace."""
    args, kwargs = inputs
    with watch.stage("couple"):
        coupling = couple_options(model, options.get("grouped", "groups"), options.get("free_outputs"))
        groups = probed(model, graphs, args, kwargs, coupling)
    with watch.stage("score"):
        scores = score(groups, named_tensors(model), options.get("importance", "l2"), model)
    with watch.stage("allocate"):
        costs = network_costs(model, groups)
        kept = allocate(groups, scores, budget, costs)
        plan = make_plan(model, groups, kept, costs, _recorded(budget, options))
    smaller, proof = _proven_cut(GroupCuts(model, groups, kept, costs, args, kwargs), plan, watch, options)
    recalibration: Recalibration | None = None
    batches = calibration_batches(options.get("calibration"), args, kwargs, options.get("preprocessing"))
    if batches:
        with watch.stage("recalibrate"):
            smaller, recalibration = recalibrate(
                smaller, batches, lambda done, total: watch.progress("recalibrate", done, total)
            )
    return Pruned(smaller.eval(), plan, proof, groups, recalibration, watch.seconds)


def _proven_cut(cuts: GroupCuts, plan: Plan, watch: Stopwatch, options: PruneOptions) -> tuple[nn.Module, Proof]:
    """The cut module and its proof; raises `ProofError` where there is none."""
    with watch.stage("cut"):
        smaller = cut(cuts.model, plan)
    with watch.stage("verify"):
        proof = verify(cuts.model, smaller, plan, cuts.groups, cuts.kept, cuts.args, cuts.kwargs)
    if proof.failures == (NOTHING_SHOWN,):
        raise UserError(_unseen(cuts))
    if not proof.passed:
        raise ProofError("" if cuts.groups.graph.hollow else _unproven(proof, cuts))  # what is hollow is tried again
    if options.get("prove", "whole") == "each":
        with watch.stage("prove each"):
            checks = cuts.prove_each(lambda done, total: watch.progress("prove each", done, total))
        proof = replace(proof, groups=checks)
        if failed := [check for check in checks if not check.passed]:
            raise ProofError(f"Cut alone, the group {failed[0].group} could not be proven: {failed[0].failure}.")
    return smaller, proof


def _unseen(cuts: GroupCuts) -> str:
    names = [group.name for group in cuts.groups.groups if not cuts.kept[group.channels].all()]
    return (
        f"The outputs do not depend on any channel that this budget removes ({', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''}), neither with the model's weights nor with drawn ones, so that no proof "
        "could tell a right cut from a wrong one. Expected: layers that the outputs are computed from. Take the unused "
        "layers out of the model, or remove the factor that is zero."
    )


def _unproven(proof: Proof, cuts: GroupCuts) -> str:
    names = cuts.guilty()
    where = f" The failure is in the group{'s' if len(names) > 1 else ''} {', '.join(names)}." if names else ""
    return (
        f"The cut could not be proven, so it is not returned: {'; '.join(proof.failures)}.{where} A forward that draws "
        "random numbers, reads numbers from its values or computes with a width (c ** -0.5) cannot be proven; else "
        "please report this with the model. `channelcut analyze` lists the groups."
    )


def network_costs(model: nn.Module, groups: Groups) -> dict[str, BilinearCost]:
    """Multiply-accumulates and parameters of a model as functions of the widths of its groups."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {"macs": macs_cost(groups), "params": params_cost(groups, sizes)}


def calibration_batches(
    calibration: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    preprocessing: Preprocessing | None,
    size: int = 32,
) -> list[Tensor]:
    """Batches for recalibration: from a folder of images, a tensor (N, ...), or tensors as they are."""
    if calibration is None:
        return []
    if isinstance(calibration, (str, Path)):
        first = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if first is None or first.dim() != 4:
            raise UserError(
                "A folder of images fits a network with one image input (N, C, H, W). Pass tensors as calibration "
                "instead."
            )
        channels, height, width = (int(s) for s in first.shape[1:])
        calibration, _ = load_images(Path(calibration), (channels, height, width), preprocessing)
        calibration = calibration.to(first.device, first.dtype)
    if isinstance(calibration, Tensor):
        return [batch for batch in torch.split(calibration, size) if len(batch) > 1 or len(calibration) == 1]
    return list(calibration)


def save(result: Pruned, folder: str | Path) -> None:
    """Write `plan.json` and `model.safetensors`, enough to rebuild `result.model` with `load`; no pickle."""
    store(result.model, result.plan, Path(folder))


def load(build: Callable[[], nn.Module], folder: str | Path) -> nn.Module:
    """Rebuild a saved model: `build()` makes the original architecture. Returns it in evaluation mode.

    Raises:
        UserError: the folder is incomplete or damaged, or `build` makes another architecture.
    """
    return restore(build, Path(folder))


def _recorded(budget: Budget, options: PruneOptions) -> dict[str, Any]:
    chosen = {name: value for name in ("keep", "macs", "params") if (value := getattr(budget, name)) is not None}
    return {**chosen, "align": budget.align, "floor": budget.floor, "importance": options.get("importance", "l2")}
