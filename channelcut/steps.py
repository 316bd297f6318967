"""The steps of a run, one function each: they put the stages in order, and hand each stage what earlier ones made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from channelcut.core.entries import further_entries
from channelcut.core.errors import ArithmeticNeeded, ProofError, UserError
from channelcut.core.graph import Graph, as_spec, check_named, named_outputs, output_paths, specs
from channelcut.core.groups import Groups
from channelcut.core.inputs import Inputs, check_patterns
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.proof import Proof
from channelcut.core.record import Record, noticed, put_record, record_of, with_proof
from channelcut.core.tensors import kept_channels
from channelcut.core.trees import leaves
from channelcut.core.unused import unused_parameters
from channelcut.cost import network_costs
from channelcut.coupling import CoupleOptions, couple
from channelcut.cutting import PlanContext, compose, cut, make_plan
from channelcut.cutting.apply import check_plan
from channelcut.ops.structure import retraced_structure
from channelcut.proof import NOTHING_SHOWN, Retraced, guilty, proof_of, prove_each
from channelcut.restoring import restored
from channelcut.retrace import CutForwards
from channelcut.sources.outputs import tensorless, uncounted_outputs
from channelcut.tracing import result_of, trace, trace_modes

Kept = NDArray[np.bool_]
Share = float | Mapping[str, float]


@dataclass(frozen=True)
class AnalyzeOptions:
    """How a model is traced and coupled, see `channelcut.analyze`."""

    tracer: str = "auto"
    probe: bool = True
    grouped: str = "auto"
    prunable_outputs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.grouped not in ("auto", "groups", "offsets"):
            raise UserError(
                f"grouped={self.grouped!r} is no policy for grouped convolutions: use 'auto', 'groups' or 'offsets'."
            )
        check_patterns(self.prunable_outputs, "prunable_outputs", "the paths of outputs, such as ['1.feats.*']")
        if not isinstance(self.probe, bool):
            raise UserError(f"probe={self.probe!r}: expected True or False.")

    def uncounted(self, model: nn.Module) -> tuple[tuple[str, ...], str]:
        """Patterns of the outputs that may lose channels, and why where nobody named them: their library is known."""
        known = uncounted_outputs(model) if self.prunable_outputs is None else None
        return (known.outputs, known.why) if known else (tuple(self.prunable_outputs or ()), "")


def traced(
    model: nn.Module, inputs: Inputs, options: AnalyzeOptions, watch: Stopwatch, *, arithmetic: bool = False
) -> list[Graph]:
    """The forward of each mode as a graph; `arithmetic`: as one that computes shows it.

    Raises:
        UserError: it returns no tensor.
    """
    with watch.stage("trace"):
        graphs = trace_modes(model, *inputs, front_end=options.tracer, arithmetic=arithmetic)
        if not named_outputs(graphs[0]) and not graphs[0].unsettled:
            raise UserError(tensorless(model, result_of(model, *inputs)))
        return graphs


def coupled(
    model: nn.Module, graphs: Sequence[Graph], inputs: Inputs, options: AnalyzeOptions, watch: Stopwatch
) -> Groups:
    """The channels that go together, and what keeps the others."""
    with watch.stage("couple"):
        free, why = options.uncounted(model)
        coupling = CoupleOptions(cast(Any, options.grouped), free_outputs=free)
        if options.prunable_outputs is not None:
            check_named(output_paths(graphs), options.prunable_outputs, "prunable_outputs")
        if options.probe:
            forwards = CutForwards(model, *inputs)
            groups = couple(graphs, coupling, forwards, lambda: forwards.again(graphs[0]))
        else:
            groups = couple(graphs, coupling)
        return replace(groups, unused=unused_parameters(model, graphs), uncounted=why)


def context_of(plan: Plan) -> PlanContext:
    """What a plan that was made here holds."""
    assert isinstance(plan.context, PlanContext)
    return plan.context


def applied(model: nn.Module, plan: Plan, watch: Stopwatch) -> nn.Module:
    """The cut module, with a record that says where it comes from and that it is not proven."""
    with watch.stage("cut"):
        smaller = cut(model, plan)
        put_round(smaller, noticed(model), plan)
        return smaller


def put_round(smaller: nn.Module, before: Record | None, plan: Plan) -> None:
    """Write the record of a module that `plan` cut from one with the record `before`."""
    this = {"options": dict(plan.options), "proof": None}
    if before is None:
        put_record(smaller, plan, (this,))
    else:
        put_record(smaller, compose(before.plan, plan), (*before.rounds, this))


@dataclass(frozen=True)
class Cuts:
    """One model, one coupling, one example: what all proofs of cuts of it share."""

    model: nn.Module
    groups: Groups
    inputs: Inputs

    def proof(self, smaller: nn.Module, plan: Plan, kept: Kept, *, training: bool = True) -> Proof:
        """Trace a cut model and prove it."""
        return proof_of(
            self.model, smaller, plan, self.groups, kept, self.inputs, self._retraced(smaller, kept), training=training
        )

    def alone(self, kept: Kept) -> Proof:
        """Cut other channels, and prove that."""
        plan = make_plan(self.model, self.groups, kept, network_costs(self.model, self.groups))
        return self.proof(cut(self.model, plan), plan, kept, training=False)

    def _retraced(self, smaller: nn.Module, kept: Kept) -> Retraced:
        original = self.groups.graph

        def again(warm: bool) -> Graph:
            return trace(smaller, *self.inputs, warm=warm, front_end=original.front_end, arithmetic=not original.hollow)

        try:
            graph, difference = retraced_structure(self.groups, kept, again)
        except UserError as error:
            words = "the cut model's forward fails, because it reads a width that the plan does not follow"
            return Retraced(None, f"{words} ({error})")
        return Retraced(graph, "" if difference is None else str(difference))


def proven(smaller: nn.Module, plan: Plan, inputs: Inputs, watch: Stopwatch, *, each: bool = False) -> Proof:
    """The proof of a cut, written into its record; `each`: also one of every group, cut alone.

    Raises:
        ArithmeticNeeded: there is none by a trace without arithmetic, whose values may have had a say.
        UserError: the outputs do not depend on what goes.
        ProofError: there is none; names the groups that are to blame.
    """
    cuts, kept = planned_cuts(plan, inputs)
    with watch.stage("prove"):
        proof = cuts.proof(smaller, plan, kept)
    if proof.failures == (NOTHING_SHOWN,):
        raise UserError(_unseen(cuts.groups, kept))
    if not proof.passed and cuts.groups.graph.hollow:
        raise ArithmeticNeeded(proof)
    if not proof.passed:
        raise unproven(plan, inputs, proof)
    if each:
        with watch.stage("prove each"):
            report: Callable[[int, int], None] = lambda done, total: watch.progress("prove each", done, total)  # noqa: E731
            checks = prove_each(cuts.groups, kept, cuts.alone, report)
        proof = replace(proof, groups=checks)
        if failed := [check for check in checks if not check.passed]:
            raise ProofError(f"Cut alone, the group {failed[0].group} could not be proven: {failed[0].failure}.")
    put_proof(smaller, proof)
    return proof


def proven_by_hand(model: nn.Module, smaller: nn.Module, plan: Plan, inputs: Inputs) -> Proof:
    """The proof of a cut, passed or not, written into its record where it has passed; see `channelcut.prove`."""
    check_plan(model, plan)
    record = record_of(smaller)
    if record is not None and record.proven:
        record = noticed(smaller)
    if record is None:
        put_round(smaller, noticed(model), plan)
    elif any(change["round"] == len(record.rounds) for change in record.plan.changes):
        return restored(model, smaller, plan, record)
    cuts, kept = cuts_of(model, plan, inputs)
    proof = cuts.proof(smaller, plan, kept)
    if not proof.passed and cuts.groups.graph.hollow:
        graphs = traced(model, inputs, AnalyzeOptions(), Stopwatch(), arithmetic=True)
        found = None if same_run(cuts.groups.graph, graphs[0]) else _fitting(model, plan, inputs, graphs)
        if found is not None:
            proof = found[0].proof(smaller, plan, found[1])
    if proof.passed:
        put_proof(smaller, proof)
    return proof


def put_proof(smaller: nn.Module, proof: Proof) -> None:
    """Write a proof into the record of a module."""
    record = record_of(smaller)
    if record is not None:
        put_record(smaller, record.plan, with_proof(record.rounds, proof.to_dict()), record.weights)


def _unseen(groups: Groups, kept: Kept) -> str:
    names = [group.name for group in groups.groups if not kept[group.channels].all()]
    return (
        f"The outputs do not depend on any channel that this budget removes ({', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''}), neither with the model's weights nor with drawn ones, so that no proof "
        "could tell a right cut from a wrong one. Expected: layers that the outputs are computed from. Take the unused "
        "layers out of the model, or remove the factor that is zero."
    )


def unproven(plan: Plan, inputs: Inputs, proof: Proof) -> ProofError:
    """The error of a cut that could not be proven; finds out which groups are to blame."""
    cuts, kept = planned_cuts(plan, inputs)
    names = guilty(cuts.groups, kept, cuts.alone)
    where = f" The failure is in the group{'s' if len(names) > 1 else ''} {', '.join(names)}." if names else ""
    return ProofError(
        f"The cut could not be proven, so it is not returned: {'; '.join(proof.failures)}.{where} A forward that draws "
        "random numbers, reads numbers from its values or computes with a width (c ** -0.5) cannot be proven; else "
        "please report this with the model. `channelcut analyze` lists the groups."
    )


def same_run(one: Graph, other: Graph) -> bool:
    """Whether two traces of a model run the same ops at the same shapes with the same numbers and constants."""
    if [_described(node) for node in one.nodes] != [_described(node) for node in other.nodes]:
        return False
    return all(torch.equal(value, other.constants[name]) for name, value in one.constants.items())


def _described(node: Any) -> tuple[Any, ...]:
    numbers = [leaf for leaf in leaves((node.args, dict(node.kwargs))) if isinstance(leaf, (bool, int, float, str))]
    return node.kind, node.name, specs(node.value), numbers


def planned_cuts(plan: Plan, inputs: Inputs) -> tuple[Cuts, Kept]:
    """What a proof of a plan needs, from its context."""
    context = context_of(plan)
    return Cuts(context.model, context.groups, inputs), context.kept


def cuts_of(model: nn.Module, plan: Plan, inputs: Inputs) -> tuple[Cuts, Kept]:
    """What a proof of a plan needs: from its context, or from an analysis where that is of another model or example.

    Raises:
        UserError: the plan keeps what no coupling of this model allows.
    """
    context = plan.context
    if isinstance(context, PlanContext) and context.model is model and _takes(context.groups.graph, inputs):
        return planned_cuts(plan, inputs)
    entries = plan.options.get("entries", [])
    if set(entries) - set(further_entries(inputs)):
        raise UserError(
            f"This plan was made with the entries {', '.join(entries)}, which no cut of it can be proven without. Give "
            f"channelcut.prove the same: entries={entries!r}, or a dict with the example inputs of each."
        )
    found = _fitting(model, plan, inputs, traced(model, inputs, AnalyzeOptions(), Stopwatch()))
    if found is None:
        raise UserError(
            "This plan keeps other channels in some tensors than in those that are coupled to them, or drops channels "
            "that are pinned, so no cut of it can be proven. Make it with channelcut.plan, and change it with "
            "Plan.with_kept."
        )
    return found


def _fitting(model: nn.Module, plan: Plan, inputs: Inputs, graphs: Sequence[Graph]) -> tuple[Cuts, Kept] | None:
    """The coupling that a plan was made by, and the channels that it keeps; None where no policy allows them."""
    for grouped in ("auto", "groups", "offsets"):
        options = AnalyzeOptions(grouped=grouped, prunable_outputs=plan.options.get("prunable_outputs"))
        groups = coupled(model, graphs, inputs, options, Stopwatch())
        kept = kept_channels(groups, plan.kept)
        if kept is not None:
            return Cuts(model, groups, inputs), kept
    return None


def _takes(graph: Graph, inputs: Inputs) -> bool:
    """Whether a graph was traced with inputs of these shapes and types."""
    traced = [spec for node in graph.nodes if node.kind == "input" for spec in specs(node.value)]
    return traced == specs(as_spec(list(inputs)))
