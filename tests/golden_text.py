"""An analysis as text that can be read and compared: channels by lane and place in it, instead of by number."""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from channelcut.core.groups import Follower, Group, Groups, Ids, Pin, Slot

ROOT = Path(__file__).parent.parent
PRODUCERS = ("out", "depthwise", "group")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Place = tuple[str, int]


def text_of(model: nn.Module, groups: Groups) -> str:
    """Groups with their lanes and slots, pins, and the numbers of modules that follow.

    `a0-3` are the first four channels of lane a, `a0x2` one of them twice, `.` what belongs to no channel of the group.
    """
    order = {name: position for position, name in enumerate(model.state_dict(keep_vars=True))}
    slots = sorted(groups.slots, key=lambda slot: (order.get(slot.tensor, len(order)), slot.tensor, slot.axis))
    slots.sort(key=lambda slot: slot.role not in PRODUCERS)
    first = first_places(slots)
    ordered = sorted(groups.groups, key=lambda group: min(first[c] for c in group.channels.tolist()))
    names = names_of(ordered)
    free = sum(len(group.channels) for group in groups.groups)
    parts = [f"{len(groups.groups)} groups, {free} removable channels, {len(groups.pins)} pins"]
    parts += [group_text(group, names[group.index], slots, first) for group in ordered]
    parts += sorted(pin_text(pin, slots, first) for pin in groups.pins)
    if groups.followers:
        parts.append("\n".join(["follow", *sorted(follower_text(f, names) for f in groups.followers)]))
    return "\n\n".join(parts) + "\n"


def first_places(slots: Sequence[Slot]) -> dict[int, tuple[int, int]]:
    """The first slot and position of each channel that has any: an order that the numbers of channels do not decide."""
    first: dict[int, tuple[int, int]] = {}
    for number, slot in enumerate(slots):
        for position, channel in enumerate(slot.channels.tolist()):
            first.setdefault(channel, (number, position))
    return first


def names_of(ordered: Sequence[Group]) -> dict[int, str]:
    """A name for each group, by its index: two groups may have the same producer."""
    total, seen, names = Counter(group.name for group in ordered), Counter[str](), {}
    for group in ordered:
        seen[group.name] += 1
        names[group.index] = group.name + (f" #{seen[group.name]}" if total[group.name] > 1 else "")
    return names


def group_text(group: Group, name: str, slots: Sequence[Slot], first: Mapping[int, tuple[int, int]]) -> str:
    lanes = sorted((sorted(lane.tolist(), key=lambda c: first[c]) for lane in group.lanes), key=lambda cs: first[cs[0]])
    named = [(letter_of(number), lane) for number, lane in enumerate(lanes)]
    place = {c: (letter, at) for letter, lane in named for at, c in enumerate(lane)}
    lengths = Counter(len(lane) for lane in lanes)
    shape = ", ".join(f"{count} of {length} channels" for length, count in sorted(lengths.items()))
    lines = [f"group {name}", f"  lanes: {shape}, {group.width} steps"]
    lines += [f"  lane {letter}: {held_text(lane, slots, first)}" for letter, lane in named]
    for slot in slots:
        found = [place.get(channel) for channel in slot.channels.tolist()]
        if any(found):
            lines.append(f"  {slot_name(slot)} {slot.role}: {' '.join(runs(found))}")
    return "\n".join(lines)


def letter_of(number: int) -> str:
    """The name of a lane: a, b, ..., z, aa, ab, ..."""
    more, last = divmod(number, len(LETTERS))
    return (letter_of(more - 1) if more else "") + LETTERS[last]


def pin_text(pin: Pin, slots: Sequence[Slot], first: Mapping[int, tuple[int, int]]) -> str:
    return "\n".join(
        [
            f"pin of {held_text(pin.channels, slots, first)}",
            f"  channels: {len(pin.channels)}",
            f"  reason: {pin.reason}",
            f"  remedy: {pin.remedy}",
            f"  op: {pin.op}",
            f"  module: {pin.module}",
            f"  source: {source_text(pin.source)}",
        ]
    )


def source_text(source: str) -> str:
    """The line itself: its number changes with every line above it."""
    path, _, number = source.rpartition(":")
    files = [ROOT / path, ROOT.parent / path]  # sources are named by the last folders of their paths
    line = next((linecache.getline(str(file), int(number)) for file in files if file.is_file()), "") if path else ""
    return line.strip() or path.rpartition("/")[2]


def follower_text(follower: Follower, names: Mapping[int, str]) -> str:
    terms = [f"{value:g} * kept share of {names[index]}" for index, value in follower.terms]
    if follower.constant or not terms:
        terms.insert(0, f"{follower.constant:g}")
    return f"  {follower.module}.{follower.attribute} = ".replace("  .", "  ") + " + ".join(terms)


def slot_name(slot: Slot) -> str:
    return f"{slot.tensor}[{slot.axis}]"


def held_text(channels: Sequence[int] | Ids, slots: Sequence[Slot], first: Mapping[int, tuple[int, int]]) -> str:
    """Where channels have their first slots: `cv1.weight[0] 0-11`."""
    found: dict[int, list[int]] = {}
    for channel in np.asarray(channels).tolist():
        number, position = first.get(channel, (-1, 0))
        found.setdefault(number, []).append(position)
    parts = []
    for number, positions in sorted(found.items()):
        if number < 0:
            parts.append(f"{len(positions)} channels without a slot")
            continue
        parts.append(f"{slot_name(slots[number])} {' '.join(runs([('', p) for p in sorted(positions)]))}")
    return ", ".join(parts) or "nothing"


def runs(places: Sequence[Place | None]) -> Iterator[str]:
    """Consecutive places in one lane as `a0-3`, repeated ones as `a0x2`, what is none as `.x3`."""
    start = 0
    while start < len(places):
        step = _step(places, start)
        end = start + 1
        while end < len(places) and _step(places, end - 1) == step is not None:
            end += 1
        yield _run(places[start], end - start, step)
        start = end


def _step(places: Sequence[Place | None], at: int) -> int | None:
    """0 where the next place is the same one, 1 where it is the next of the lane."""
    if at + 1 == len(places):
        return None
    here, there = places[at], places[at + 1]
    if here == there:
        return 0
    if here is None or there is None or here[0] != there[0] or there[1] != here[1] + 1:
        return None
    return 1


def _run(place: Place | None, length: int, step: int | None) -> str:
    name = "." if place is None else f"{place[0]}{place[1]}"
    if length == 1:
        return name
    return f"{name}-{place[1] + length - 1}" if place is not None and step == 1 else f"{name}x{length}"
