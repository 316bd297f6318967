"""From a deployed file to its cost in milliseconds: its layers found, timed at the widths that matter, and added up.

What one model's layers took is in the table for every other model, and for a run that was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from channelcut.bench.layers import steps
from channelcut.bench.layers.clock import HELD, REFERENCE, Kernel, LayerClock, MeasureOptions, median_ms, timed
from channelcut.bench.layers.reading import Deployed, FileLayer, Shares, read_deployed
from channelcut.core.crew import RayCrew, shared
from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.core.progress import Stopwatch
from channelcut.cost.kinds import Entry
from channelcut.cost.measured import MeasuredCost, MeasuredLayer, Other, slot_shares
from channelcut.cost.surface import points, surface
from channelcut.cost.table import Table, Target, Timing

STAGE = "measure"
_SWEPT = 4  # layers in which the step is looked for: the costliest
_UNSETTLED = 0.10  # an interval wider than ± this has not settled
_FEW = 0.05  # of the times may be so wide before it is said: errors of that many average out


DEFAULTS = MeasureOptions()


def measured(
    path: Path,
    groups: Groups,
    clock: LayerClock,
    table: Table,
    options: MeasureOptions = DEFAULTS,
    watch: Stopwatch | None = None,
) -> MeasuredCost:
    """The cost of a deployed file on the clock's target.

    Args:
        path: the deployed form of the uncut network, as ONNX.
        groups: of the network that it was made of, with the work of the deployed form (`cost.deployed_costs`).
        clock: the back end.
        table: the clock's target's times.
        options: how to measure.
        watch: hears of the progress.

    Raises:
        UserError: the back end cannot run the file.
    """
    watch = watch or Stopwatch()
    with watch.stage(STAGE):
        return _Measuring(clock, table, options, watch).cost(path, groups)


class _Measuring:
    def __init__(self, clock: LayerClock, table: Table, options: MeasureOptions, watch: Stopwatch) -> None:
        self.clock, self.table, self.options, self.watch = clock, table, options, watch
        self.ends: float | None = None  # when the time limit is over, from the first layer on
        self.left: tuple[int, int] | None = None  # what it left untimed, and of how many widths
        self.reference = clock.prepared(REFERENCE)
        if "reference_ms" not in table.facts:
            table.note(reference_ms=median_ms(self.reference, self.reference, 25)[0])
        self.reference_ms = float(table.facts["reference_ms"])

    def cost(self, path: Path, groups: Groups) -> MeasuredCost:
        deployed = read_deployed(path, groups)
        kernels = self.clock.kernels(path, self.options.network_runs)
        layers, others = fused(deployed, kernels)
        self.watch.progress(STAGE, 0, 1)
        shown = self._step(layers)
        step, swept = shown or 1, self.left is None
        if swept:
            self._time([Entry(layer.kind, widths) for layer in layers for widths in points(layer.extent, step)])
        found, untimed = self._surfaces(layers, step)
        run = self.clock.network(path)
        network, beside = median_ms(run, self.reference, self.options.network_runs)
        now = self.reference_ms / beside
        parts = [_other(kernel, deployed, now) for kernel in others]
        parts += [_instead(layer, kernels, now) for layer in untimed]
        cost = MeasuredCost(
            target=self.table.target,
            layers=tuple(found),
            others=tuple(parts),
            full_ms=network * now,
            step=step,
            slots=deployed.slots,
            full_widths=np.array([g.width for g in groups.groups], np.int64),
            kept=slot_shares(deployed.slots, groups),
            table=self.table.path,
            notes=(*deployed.notes, *self._ended(swept), *self._notes(layers, untimed, step)),
            step_known=shown is not None,
            weights=dict(groups.shapes),
        )
        return cost.scaled()

    def _step(self, layers: Sequence[FileLayer]) -> int | None:
        """The step that was asked for, that the table knows, or that sweeps of the costliest layers show.

        None where they show none, or where the time limit ended them: some of them alone may mislead, and what the
        table says is not looked for again.
        """
        if self.options.step is not None:
            return self.options.step
        if "step" in self.table.facts:
            return int(self.table.facts["step"])
        costly = sorted(layers, key=lambda layer: -work(Entry(layer.kind, layer.extent.full)))
        found = list(dict.fromkeys(sweep for layer in costly for sweep in steps.sweeps(layer.kind, layer.extent)))
        self._time([entry for sweep in found[: 2 * _SWEPT] for entry in sweep])
        if self.left is not None:
            return None
        told: list[dict[int, float]] = []
        for sweep in found[: 2 * _SWEPT]:
            times = self.table.times.get(sweep[0].kind, {})
            side = 0 if len({entry.widths.cin for entry in sweep}) > 1 else 1
            if all(entry.widths in times for entry in sweep):
                told.append({entry.widths[side]: times[entry.widths].ms for entry in sweep})
        step = steps.step_of(told)
        if step is None:
            return None
        self.table.note(step=step)
        return int(self.table.facts["step"])

    def _time(self, entries: Sequence[Entry]) -> None:
        """Time what the table lacks, the costliest first, until the time limit is over; a run does one lot at least."""
        missing = sorted(self.table.missing(entries), key=lambda entry: -work(entry))
        now = time.perf_counter()
        if missing and (self.ends is None or now < self.ends):
            self.ends = self.ends or now + self.options.limit_s
            with ExitStack() as stack:
                for rows in self._lots(missing, stack):
                    self.table.add(rows)
                    self.table.read()  # what others have timed meanwhile
                    if time.perf_counter() > self.ends:
                        break
        if left := self.table.missing(missing):
            self.left = len(left), len(set(entries))

    def _lots(self, missing: Sequence[Entry], stack: ExitStack) -> Iterator[Mapping[Entry, Timing | str]]:
        """The times of some layers after the others, by this process or by a crew that ends with the stack."""

        def report(done: int, total: int, words: str) -> None:
            self.watch.note(STAGE, words)
            self.watch.progress(STAGE, done, total)

        if self.options.workers or self.options.ray_address:
            return shared(stack.enter_context(self._crew()), missing, report, HELD)
        return timed(self.clock, missing, self.options, report, self.reference_ms)

    def _crew(self) -> RayCrew[Entry, Timing | str]:
        target, options = self.table.target, replace(self.options, workers=0)
        make = partial(_Timing, self.clock, options, self.reference_ms, target)
        gpus = int(target.backend not in ("onnxruntime", "openvino"))
        workers = max(1, self.options.workers)
        return RayCrew(make, "timing layers", workers, target.threads, gpus, self.options.ray_address)

    def _surfaces(self, layers: Sequence[FileLayer], step: int) -> tuple[list[MeasuredLayer], list[FileLayer]]:
        """The layers with their times, and those that the back end did not run alone at full width."""
        found: list[MeasuredLayer] = []
        untimed: list[FileLayer] = []
        for layer in layers:
            times = surface(layer.extent, self.table.medians(layer.kind), step)
            if times is None:
                untimed.append(layer)
            else:
                words, spread = str(layer.kind), self.table.times[layer.kind][layer.extent.full].spread
                found.append(MeasuredLayer(layer.name, words, layer.extent, times, layer.reads, layer.writes, spread))
        return found, untimed

    def _ended(self, swept: bool) -> list[str]:
        """That the time limit ended the measuring, where it did, and what is missing; `swept`: of all widths."""
        if self.left is None:
            return []
        missing, of = self.left
        what = f"{missing} of {of} widths are not timed yet"
        if not swept:
            what = f"{missing} of the {of} widths that tell this target's step are not timed yet, so it is not known"
        return [
            f"the time limit of {self.options.limit_s:g} s ended the measuring: {what}, and what other widths take is "
            "guessed from those that are timed, which are kept: run the same again to go on"
        ]

    def _notes(self, layers: Sequence[FileLayer], untimed: Sequence[FileLayer], step: int) -> list[str]:
        kinds = {layer.kind for layer in layers}
        failed = {entry: why for entry, why in self.table.failed.items() if entry.kind in kinds}
        notes = []
        if failed:
            entry, why = next(iter(failed.items()))
            notes.append(
                f"{self.table.target.backend} refuses {len(failed)} of the widths, which were left out; the first is "
                f"{entry.kind} with {entry.widths.cin} to {entry.widths.cout} channels ({why[:120]})"
            )
        lost = {entry: why for entry, why in self.table.lost.items() if entry.kind in kinds}
        if lost:
            entry, why = next(iter(lost.items()))
            notes.append(
                f"{len(lost)} of the widths could not be timed this time and are tried again by the next run; the "
                f"first is {entry.kind} with {entry.widths.cin} to {entry.widths.cout} channels ({why[:120]})"
            )
        if untimed:
            names = ", ".join(layer.name for layer in untimed[:3])
            notes.append(
                f"{len(untimed)} layers were not timed alone ({names}): they follow their widths in proportion"
            )
        looked_at = {Entry(layer.kind, widths) for layer in layers for widths in points(layer.extent, step)}
        known = [self.table.times.get(entry.kind, {}).get(entry.widths) for entry in looked_at]
        spreads = [timing.spread for timing in known if timing is not None]
        wide = [spread for spread in spreads if spread > _UNSETTLED]
        if len(wide) > _FEW * len(spreads):
            notes.append(
                f"{len(wide)} of {len(spreads)} times did not settle to ±{_UNSETTLED:.0%} (up to ±{max(wide):.0%}): "
                "something else is using this machine. What is predicted from them is as uncertain; measure again on a "
                "quieter machine, into another table"
            )
        return notes


@dataclass
class _Timing:
    """What a worker does: the times of a lot, the reference beside them, so that workers need not run at one speed."""

    clock: LayerClock
    options: MeasureOptions
    reference_ms: float
    target: Target

    def __call__(self, lot: Sequence[Entry]) -> dict[Entry, Timing | str]:
        check_worker(self.clock.target(), self.target)
        rows: dict[Entry, Timing | str] = {}
        for found in timed(self.clock, lot, self.options, lambda *_: None, self.reference_ms):
            rows |= found
        return rows


def check_worker(here: Target, asked: Target) -> None:
    """Refuse to measure on another target than the table's.

    Raises:
        UserError: names both.
    """
    if here != asked:
        raise UserError(
            f"A worker runs on {here}; the table is of {asked}. Times do not carry over: give the cluster's workers of "
            "one kind, or a table for each kind."
        )


def work(entry: Entry) -> float:
    """Multiply-accumulates of a layer."""
    kind, (cin, cout, groups) = entry.kind, entry.widths
    stride = float(np.prod(kind.attribute("strides", (1,)))) if kind.op == "Conv" else 1.0
    kernel = float(np.prod(kind.attribute("kernel_shape", (1,))))
    return float(np.prod(kind.lead)) * float(np.prod(kind.size or (1,))) / stride * kernel * cin * cout / groups


def fused(deployed: Deployed, kernels: Sequence[Kernel]) -> tuple[list[FileLayer], list[Kernel]]:
    """The layers as the back end runs them, and the kernels that are none.

    A step after a layer is part of its kernel if it has none of its own.
    """
    named = {name for layer in deployed.layers for name in layer.names()}
    others = [kernel for kernel in kernels if not (kernel.layer and kernel.names & named)]
    own = {name for kernel in others for name in kernel.names}
    layers = []
    for layer in deployed.layers:
        words = []
        for step in layer.after:
            if own & {*step.nodes, step.output}:
                break
            words.append(step.words)
        layers.append(replace(layer, kind=replace(layer.kind, after=tuple(words))))
    return layers, others


def _other(kernel: Kernel, deployed: Deployed, now: float) -> Other:
    """A kernel that is no layer: beyond its least, its time follows the elements of the values that it has."""
    known = [deployed.shares[value] for value in kernel.values if value in deployed.shares]
    share: Shares = np.mean(known, axis=0) if known else _mean_share(deployed)
    if kernel.ms > 0:
        stays = min(1.0, kernel.least_ms / kernel.ms)
        share = (1 - stays) * share
        share[0] += stays  # the constant of the mixture
    return Other(kernel.name, kernel.op, kernel.ms * now, share)


def _mean_share(deployed: Deployed) -> Shares:
    """Of what nothing is known of: the mean over all values."""
    found: Shares = np.mean(list(deployed.shares.values()), axis=0)
    return found


def _instead(layer: FileLayer, kernels: Sequence[Kernel], now: float) -> Other:
    """A layer that could not be timed alone: its time in the network, and the mean of its shares."""
    ms = sum(kernel.ms for kernel in kernels if kernel.names & layer.names() and kernel.layer)
    return Other(layer.name, layer.kind.op, ms * now, (layer.reads + layer.writes) / 2)
