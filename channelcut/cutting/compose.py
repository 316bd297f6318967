"""A cut of a cut, as one cut of the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from channelcut.core.plan import Cost, GroupPlan, Plan

_ORIGIN = ("model", "input")  # what says how the original is built and what it takes


def compose(first: Plan, second: Plan) -> Plan:
    """The plan that does to the original what `first` does to it and then `second` to the result.

    Costs are those of the first example input: where the second was of another size, its ratio counts.
    """
    scale = first.after.macs / second.before.macs if second.before.macs else 1.0
    origin = {name: first.options[name] for name in _ORIGIN if name in first.options}
    return Plan(
        fingerprint=first.fingerprint,
        weights=first.weights,
        kept=_kept(first.kept, second.kept),
        attributes={
            module: {**first.attributes.get(module, {}), **second.attributes.get(module, {})}
            for module in [*first.attributes, *(m for m in second.attributes if m not in first.attributes)]
        },
        indices={**first.indices, **second.indices},
        groups=_groups(first.groups, second.groups),
        before=first.before,
        after=Cost(second.after.macs * scale, second.after.params),
        options={**{k: v for k, v in second.options.items() if k not in _ORIGIN}, **origin},
        dropped=(*first.dropped, *second.dropped),
        zeroed=(*first.zeroed, *second.zeroed),
        changes=(*first.changes, *second.changes),
    )


def _kept(
    first: Mapping[str, Mapping[int, tuple[int, ...]]], second: Mapping[str, Mapping[int, tuple[int, ...]]]
) -> dict[str, dict[int, tuple[int, ...]]]:
    """Positions of the second plan, read in the first one's."""
    found: dict[str, dict[int, tuple[int, ...]]] = {name: dict(axes) for name, axes in first.items()}
    for name, axes in second.items():
        for axis, positions in axes.items():
            before = first.get(name, {}).get(axis)
            found.setdefault(name, {})[axis] = (
                positions if before is None else tuple(before[position] for position in positions)
            )
    return found


def _groups(first: tuple[GroupPlan, ...], second: tuple[GroupPlan, ...]) -> tuple[GroupPlan, ...]:
    """Widths before the first and after the second plan; a group that only one of them knows is as it is there."""
    later: dict[str, GroupPlan] = {group.name: group for group in second}
    found = [_group(group, later.pop(group.name, None)) for group in first]
    return (*found, *later.values())


def _group(group: GroupPlan, again: GroupPlan | None) -> GroupPlan:
    """One group before the first and after the second plan."""
    if again is None:
        return group
    kept = round(group.kept * again.kept / again.width)
    if not group.counts and not again.counts:
        return replace(group, kept=kept)
    left = [after for _, after in group.counts if after]
    if again.counts and left == [before for before, _ in again.counts]:  # a lane that has none left is none any more
        now = iter(after for _, after in again.counts)
        counts = tuple((before, next(now) if after else 0) for before, after in group.counts)
        return replace(group, kept=kept, counts=counts)
    # Other lanes: how many channels there are of all of them together follows the width.
    before = group.channels[0]
    return replace(group, lanes=1, kept=kept, counts=((before, round(before * kept / group.width)),))
