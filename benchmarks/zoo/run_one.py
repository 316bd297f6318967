"""One model of the catalogue through channelcut, in this process; `processes.py` gives it its own and a time limit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

import channelcut as cc
from benchmarks.zoo.catalogue import Example, open_zoo
from benchmarks.zoo.lively import enliven
from benchmarks.zoo.record import Record, described, peak_mib

KEEP = 0.5
NO_RULE = "an op without a rule"
TOP_REASONS = 5


def prepare(zoo: str, name: str, record: Record) -> Example:
    """Build a model, make its signals live, and run it once: one that cannot run fails here, and is nobody's fault."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with record.stage("build"):
        example = open_zoo(zoo).example(name)
    with record.stage("forward"):
        enliven(example)
    record.say(parameters=sum(parameter.numel() for parameter in example.model.parameters()))
    return example


def first_use(record: Record) -> None:
    """Pay what is loaded once a process (torch's meta kernels load its compiler), so that it is in no model's time."""
    with record.stage("first use"):
        import torch._dynamo

        cc.analyze(torch.nn.Conv2d(3, 4, 1), torch.rand(1, 3, 8, 8))


def analyze(zoo: str, name: str, record: Record, folder: Path) -> None:  # noqa: ARG001  every task has one signature
    """Trace and couple, without the probe: the quick look at what has no rule and what fails."""
    from channelcut.core.inputs import split_inputs
    from channelcut.coupling import couple
    from channelcut.tracing import trace

    with record.outcome():
        example = prepare(zoo, name, record)
        first_use(record)
        args, kwargs = split_inputs(example.inputs)
        with record.stage("trace"):
            graph = trace(example.model, args, kwargs)
        with record.stage("couple"):
            groups = couple([graph])
        record.say(outcome="coupled", **facts(groups))


def cut(zoo: str, name: str, record: Record, folder: Path) -> None:
    """Prune half of every group; where it is proven, leave the result in `folder` for further steps."""
    example: Example | None = None
    result: cc.PruneResult | None = None
    with record.outcome():
        example = prepare(zoo, name, record)
        first_use(record)
        built = peak_mib()
        start = time.perf_counter()
        try:
            drop = zoo == "packages"  # whose encoders are cut short: stages are built that no output depends on
            progress = announcer(record, built)
            result = cc.prune(example.model, example.inputs, keep=KEEP, drop_unused=drop, progress=progress)
        finally:
            record.say(prune_s=round(time.perf_counter() - start, 3), peak_mib=round(peak_mib() - built, 1))
    if result is not None and example is not None:
        record.say(
            outcome="proven",
            max_relative_error=result.proof.max_relative_error,
            training=result.proof.training,
            weights=result.proof.weights,
            params_ratio=round(result.plan.params_ratio, 4),
            macs_ratio=round(result.plan.macs_ratio, 4),
            seconds={stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
            **facts(result.groups),
        )
        if result.plan.dropped:  # what the forward never reads counts as gone
            count = dropped(example.model, result.plan.dropped)
            record.say(dropped=count, dropped_modules=list(result.plan.dropped))
        cc.save(result, folder / "result")
        beside_export(example, record)
    elif example is not None:
        explain(example, record)


def dropped(model: torch.nn.Module, modules: Collection[str]) -> int:
    """How many parameters modules have that go as wholes, because the forward never reads them."""
    return sum(parameter.numel() for path in modules for parameter in model.get_submodule(path).parameters())


def beside_export(example: Example, record: Record) -> None:
    """Time torch.export on the same model in the same process; where it cannot follow, say why.

    Its imports and first use are paid on one layer before. It runs last, so that its memory is in nobody's peak.
    """
    from channelcut.core.inputs import split_inputs

    args, kwargs = split_inputs(example.inputs)
    example.model.eval()
    torch.export.export(torch.nn.Conv2d(3, 4, 1).eval(), (torch.rand(1, 3, 8, 8),), strict=False)
    try:
        with torch.no_grad(), record.stage("torch.export"):
            torch.export.export(example.model, args, kwargs, strict=False)
    except Exception as error:  # noqa: BLE001  any failure is a cell of the table
        record.say(export_failure=described(error))


def explain(example: Example, record: Record) -> None:
    """Say what the coupling found of a model that was not cut; what fails here has been said already."""
    try:
        record.say(**facts(cc.analyze(example.model, example.inputs)))
    except Exception:  # noqa: BLE001  the outcome stands, this only adds to it
        return


def announcer(record: Record, built: float) -> Any:
    """A progress callback that records the stages of `prune` with their seconds, so that a killed one has said them.

    `built`: the peak memory before, in MiB, above which the analysis (trace, coupling and probe) has its own.
    """
    started: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if done < total:
            started.setdefault(stage, now)
            record.say(stage=stage)
        else:
            record.say(seconds={stage: round(now - started.get(stage, now), 3)})
            if stage == "couple":
                record.say(analysis_mib=round(peak_mib() - built, 1))

    return progress


def facts(groups: cc.Groups) -> dict[str, Any]:
    """The size of a coupling: groups, channels, and the pins by reason."""
    reasons = Counter(pin.reason for pin in groups.pins)
    unknown = Counter(pin.op for pin in groups.pins if pin.reason == NO_RULE)
    return {
        "front_end": groups.graph.front_end,
        "hollow": groups.graph.hollow,
        "ops": len(groups.graph.calls),
        "groups": len(groups.groups),
        "removable": sum(len(group.channels) for group in groups.groups),
        "pins": len(groups.pins),
        "pin_reasons": dict(reasons.most_common(TOP_REASONS)),
        "no_rule": dict(unknown.most_common()),
    }
