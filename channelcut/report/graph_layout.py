"""Where the layers of the coupled graph stand: blocks by module path, a row a step, lanes for what skips rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BAR, PITCH = 12.0, 28.0  # height of a box, and from row to row: what lies between is for the edges
_BLOCK_PAD, _BLOCK_GAP = 9.0, 6.0
_LANE, _CELL_GAP, _CONTENT = 6.0, 20.0, 900.0
_TITLE, _CHARACTER = 24, 6.7  # characters, and pixels of one
_MOST = 14  # layers of a block that is not split further
_LONGEST, _CHANNEL = 320.0, 6.0  # pixels of the widest box, and of a channel at the most
_THINNEST = 5.0
_BOX_TEXT = 30  # characters beside a box

Edge = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """The left upper corner of a layer's box, its width, its row (over all blocks), its column and its text."""

    x: float
    y: float
    width: float
    row: int
    column: int
    text: str

    @property
    def port(self) -> float:
        """Where edges meet the box: near its left end, so that a chain is a straight line."""
        return self.x + _THINNEST / 2


@dataclass(frozen=True)
class Block:
    """A part of the model, by its path, over some rows."""

    title: str
    y: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Everything that is drawn, in pixels; `lanes` are the x of the trunk of each layer whose output skips rows."""

    places: tuple[Place, ...]
    blocks: tuple[Block, ...]
    lanes: Mapping[int, float]
    width: float
    height: float


def layout(names: Sequence[str], widths: Sequence[float], texts: Sequence[str], edges: Sequence[Edge]) -> Layout:
    """Place every layer.

    Args:
        names: module paths of the layers, in execution order.
        widths: output channels of each.
        texts: what stands beside each box after the layer's name within its block.
        edges: pairs (from, to) of numbers of layers, from < to.
    """
    scale = min(_CHANNEL, _LONGEST / max(1.0, *widths))
    blocks = block_members(names)
    rows, drawn, y, row = {}, [], 0.0, 0
    for title, members in blocks:
        labels = {i: _clipped(_within(names[i], title) + texts[i], _BOX_TEXT) for i in members}
        cell = max(widths[i] * scale + len(labels[i]) * _CHARACTER for i in members) + _CELL_GAP
        top = y + _BLOCK_PAD
        lines = _wrapped(_steps(members, edges), max(1, int(_CONTENT // cell)))
        for line, found in enumerate(lines):
            for column, i in enumerate(found):
                rows[i] = (column * cell, top + line * PITCH, (row + line, column), labels[i])
        row += len(lines)
        height = len(lines) * PITCH - (PITCH - BAR) + 2 * _BLOCK_PAD
        drawn.append(Block(_clipped(title, _TITLE), y, height))
        y += height + _BLOCK_GAP
    lanes = _lanes({i: found[2][0] for i, found in rows.items()}, edges)
    left = _TITLE * _CHARACTER + 14 + (max(lanes.values(), default=-1) + 1) * _LANE + 8
    places = tuple(
        Place(left + x, top, max(_THINNEST, widths[i] * scale), *cell, text)
        for i, (x, top, cell, text) in sorted(rows.items())
    )
    right = max((p.x + p.width + len(p.text) * _CHARACTER for p in places), default=left) + _CELL_GAP
    return Layout(places, tuple(drawn), {i: left - 8 - lane * _LANE for i, lane in lanes.items()}, right, y)


def block_members(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The layers by the first parts of their paths, with more parts where a block would be large."""
    found = _split([(i, tuple(name.split("."))) for i, name in enumerate(names)], 1)
    return sorted(((".".join(head), members) for head, members in found.items()), key=lambda block: block[1][0])


def _split(paths: Sequence[tuple[int, tuple[str, ...]]], level: int) -> dict[tuple[str, ...], list[int]]:
    heads: dict[tuple[str, ...], list[tuple[int, tuple[str, ...]]]] = {}
    for i, path in paths:
        heads.setdefault(path[:level], []).append((i, path))
    found: dict[tuple[str, ...], list[int]] = {}
    for head, members in heads.items():
        if len(members) > _MOST and any(len(path) > level + 1 for _, path in members):
            found.update(_split(members, level + 1))
        else:
            found[head] = [i for i, _ in members]
    return found


def _steps(members: Sequence[int], edges: Sequence[Edge]) -> list[list[int]]:
    """The layers of a block by the longest chain within it."""
    inside = set(members)
    before: dict[int, list[int]] = {i: [] for i in members}
    for source, target in edges:
        if source in inside and target in inside:
            before[target].append(source)
    depth: dict[int, int] = {}
    for i in sorted(members):
        depth[i] = 1 + max((depth[source] for source in before[i]), default=-1)
    return [[i for i in sorted(members) if depth[i] == step] for step in range(max(depth.values()) + 1)]


def _wrapped(steps: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    return [step[i : i + most] for step in steps for i in range(0, len(step), most)]


def _lanes(rows: Mapping[int, int], edges: Sequence[Edge]) -> dict[int, int]:
    """A lane for every layer whose output skips rows: short ones near the boxes, none of a lane over one row twice."""
    spans: dict[int, tuple[int, int]] = {}
    for source, target in edges:
        if rows[target] != rows[source] + 1:
            low, high = spans.get(source, (rows[source], rows[source]))
            spans[source] = (min(low, rows[target]), max(high, rows[target]))
    taken: list[list[tuple[int, int]]] = []
    lanes: dict[int, int] = {}
    for source, (low, high) in sorted(spans.items(), key=lambda item: (item[1][1] - item[1][0], item[0])):
        free = (i for i, used in enumerate(taken) if all(high < a or b < low for a, b in used))
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        lanes[source] = lane
    return lanes


def _within(name: str, title: str) -> str:
    """A layer's name without the path of its block; its own last part where nothing is left."""
    return name[len(title) + 1 :] if name.startswith(title + ".") else name.rpartition(".")[2]


def _clipped(text: str, most: int) -> str:
    """The end of a path tells layers apart; its beginning is shared."""
    return text if len(text) <= most else "…" + text[1 - most :]
