"""A plan: what is kept of every tensor, as data that anybody can check or replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import field as default
from typing import Any, Protocol

from channelcut.core.checked import Wrong, count, entries, expect, field, items
from channelcut.core.errors import UserError

_FORMAT = 1


@dataclass(frozen=True)
class Cost:
    """What a network costs for the example input: multiply-accumulates and parameters."""

    macs: float
    params: int


@dataclass(frozen=True)
class GroupPlan:
    """What a plan does to one group: the width of each lane before and after.

    Where the forward's own splits give lanes no equal shares, the widths are those of all of them together, as they
    stand in a tensor, and `counts` is how many channels each lane has before and after.
    """

    name: str
    lanes: int
    width: int
    kept: int
    counts: tuple[tuple[int, int], ...] = ()

    @property
    def channels(self) -> tuple[int, int]:
        """How many channels all lanes have together before and after."""
        if not self.counts:
            return self.lanes * self.width, self.lanes * self.kept
        return sum(before for before, _ in self.counts), sum(after for _, after in self.counts)


def met_already(plan: Plan) -> str:
    """Why a budget asks for nothing: the network costs no more than that; empty where it asks for something."""
    for name in ("macs", "params"):
        asked, whole = plan.options.get(name), float(getattr(plan.before, name))
        if asked is not None and asked > 1 and asked >= whole:
            return (
                f"The budget {name}={asked:g} is met already: the network has {whole:g} {name}, so nothing was "
                "removed. "
                f"Ask for a smaller number, or for a share of it, such as {name}=0.5."
            )
    takes, asked = plan.options.get("full_ms"), plan.options.get("latency_ms")
    if takes is not None and (plan.options.get("latency") == 1 or (asked is not None and asked >= takes)):
        return (
            f"The budget of time is met already: the network takes {takes:.4g} ms, so nothing was removed. Ask for "
            "less, or for a share of it, such as latency=0.7."
        )
    return ""


class Context(Protocol):
    """What a plan was made from, which a file does not hold: the model, its groups, the scores of their channels."""

    def with_kept(self, plan: Plan, tensor: str, positions: Sequence[int]) -> Plan:
        """The plan when a tensor keeps other positions of its output axis, see `Plan.with_kept`."""


@dataclass(frozen=True)
class Plan:
    """What is kept of every tensor of a model: data that can be compared, printed, stored and replayed.

    Args:
        fingerprint: identifies the model by the names, shapes and types of its tensors.
        weights: identifies the values of these tensors.
        kept: `kept[name][axis]` lists the positions that a tensor keeps, in the order in which the cut tensor has them
            (ascending, but where a shuffle brings what is left in another order); what is not there stays whole.
        attributes: `attributes[module][attribute]` is the new value of a number that follows a width.
        indices: `indices[name]` are the new values of a tensor of positions by which the forward picks channels.
        groups: the widths of every group before and after, in channels of one lane.
        before: what the model costs for the example input: multiply-accumulates and parameters.
        after: what is left of that.
        options: what was asked for.
        dropped: the modules that go as wholes, by their paths: those that the forward never reads (`drop_unused`), and
            residual blocks.
        zeroed: those of them that give zeros instead of what they are given: they returned what is added to it.
        changes: what has changed the weights since the cut, in order (and before the first, `sparsify`), such as
            `{"step": "recalibrate", "images": 128, "layers": 57}`. Where tensors have got other shapes, such as
            those of a head for other classes, `resized` holds the new extents, `attributes` the numbers that follow.
        context: what the plan was made from. It is not compared, printed, stored or copied.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> groups = cc.analyze(model, torch.rand(1, 3, 16, 16))
        >>> plan = cc.plan(model, groups, keep=0.5)
        >>> cc.Plan.from_dict(plan.to_dict()) == plan
        True
        >>> plan.with_kept("0.weight", [0, 1, 6]).kept
        {'0.weight': {0: (0, 1, 6)}, '0.bias': {0: (0, 1, 6)}, '2.weight': {1: (0, 1, 6)}}
    """

    fingerprint: str
    weights: str
    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    attributes: Mapping[str, Mapping[str, Any]]
    indices: Mapping[str, tuple[int, ...]]
    groups: tuple[GroupPlan, ...]
    before: Cost
    after: Cost
    options: Mapping[str, Any] = default(default_factory=dict)
    dropped: tuple[str, ...] = ()
    changes: tuple[Mapping[str, Any], ...] = ()
    zeroed: tuple[str, ...] = ()
    context: Context | None = default(default=None, compare=False, repr=False)

    @property
    def macs_ratio(self) -> float:
        """Multiply-accumulates after, as a share of those before."""
        return self.after.macs / self.before.macs if self.before.macs else 1.0

    @property
    def params_ratio(self) -> float:
        """Parameters after, as a share of those before."""
        return self.after.params / self.before.params if self.before.params else 1.0

    @property
    def resized(self) -> dict[str, dict[int, int]]:
        """By tensor and axis, the extents that have become others since the cut, such as a head's for other classes."""
        found: dict[str, dict[int, int]] = {}
        for change in self.changes:
            for name, axes in change.get("resized", {}).items():
                found.setdefault(name, {}).update({int(axis): extent for axis, extent in axes.items()})
        return found

    def shape(self, tensor: str, before: Sequence[int]) -> tuple[int, ...]:
        """The shape of a tensor after the cut, and after what has changed since, by the one it had."""
        axes = {axis: len(positions) for axis, positions in self.kept.get(tensor, {}).items()}
        axes |= self.resized.get(tensor, {})
        return tuple(axes.get(axis, extent) for axis, extent in enumerate(before))

    def drops(self, tensor: str) -> bool:
        """Whether a tensor is in a module that goes as a whole."""
        return any(tensor.startswith(f"{path}.") for path in self.dropped)

    def with_kept(self, tensor: str, positions: Sequence[int]) -> Plan:
        """The same plan, but `tensor` keeps these positions of its output axis; what is coupled to it follows.

        The same channels are kept in all tensors that they are in. Where other lanes must keep as many, those that do
        not yet keep as many keep their best ones by the scores that the plan was made with.

        Args:
            tensor: the name of a parameter or buffer of the model, such as `layer1.0.conv1.weight`.
            positions: along axis 0, or along axis 1 of the weight of a transposed convolution.

        Raises:
            UserError: a position does not exist or must stay, lanes would keep unequal counts, nothing would be kept,
                or the plan comes from a file.
        """
        if self.context is None:
            raise UserError(
                "This plan has no model and groups at hand, because it was read from a file or copied, so nobody can "
                "say what is coupled to the tensor. Make one with channelcut.plan(model, groups, ...) and change that."
            )
        return self.context.with_kept(self, tensor, positions)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data, without its context."""
        # `asdict` would copy every one of the many positions by itself.
        data = asdict(replace(self, context=None, kept={}, indices={}))
        data.pop("context")
        data["kept"] = {n: {str(a): list(p) for a, p in axes.items()} for n, axes in self.kept.items()}
        data["indices"] = {name: list(positions) for name, positions in self.indices.items()}
        data["format"] = _FORMAT
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:
        """Read what `to_dict` wrote.

        Raises:
            UserError: a part is missing, or is not what it has to be; the text says which.
        """
        try:
            return _plan(data)
        except Wrong as wrong:
            raise UserError(
                f"The plan is damaged: {wrong}. Expected what Plan.to_dict() gives; plan again, or write the result "
                "again with `channelcut compress --force`."
            ) from wrong

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the context, which holds the whole model."""
        return {**self.__dict__, "context": None}


_NUMBER = (int, float)
_VALUE = (int, float, str, bool, type(None), list, tuple)


def _plan(data: Mapping[str, Any]) -> Plan:
    """The plan that data says; raises `Wrong` for what no plan says."""
    expect(data, Mapping, "the plan", "an object")
    if data.get("format") != _FORMAT:
        raise Wrong(f"its format is {data.get('format')!r}, expected {_FORMAT}")
    before, after = (_cost(field(data, name, Mapping, "an object"), name) for name in ("before", "after"))
    return Plan(
        fingerprint=field(data, "fingerprint", str, "text"),
        weights=field(data, "weights", str, "text"),
        kept={name: _axes(axes, place) for name, axes, place in entries(data.get("kept"), "kept")},
        attributes={
            module: {name: _value(value, at) for name, value, at in entries(values, place)}
            for module, values, place in entries(data.get("attributes"), "attributes")
        },
        indices={
            name: tuple(expect(value, int, at, "a position") for value, at in items(values, place))
            for name, values, place in entries(data.get("indices"), "indices")
        },
        groups=tuple(_group(group, place) for group, place in items(data.get("groups"), "groups")),
        before=before,
        after=after,
        options=dict(field(data, "options", Mapping, "an object")),
        dropped=tuple(expect(path, str, at, "a module's path") for path, at in items(data.get("dropped"), "dropped")),
        zeroed=tuple(expect(path, str, at, "a module's path") for path, at in items(data.get("zeroed", ()), "zeroed")),
        changes=tuple(_change(change, place) for change, place in items(data.get("changes"), "changes")),
    )


def _axes(data: Any, place: str) -> dict[int, tuple[int, ...]]:
    """Positions by axis, each once."""
    found = {}
    for axis, positions, at in entries(data, place):
        if not (axis.isascii() and axis.isdigit()):
            raise Wrong(f"{at} is under {axis!r}, expected the number of an axis")
        kept = tuple(expect(position, int, each, "a position") for position, each in items(positions, at))
        if not kept or min(kept) < 0 or len(set(kept)) < len(kept):
            raise Wrong(f"{at} is no list of positions, expected at least one, each once, from 0 on")
        found[int(axis)] = kept
    return found


def _value(value: Any, place: str) -> Any:
    """A number of a module, or several."""
    expect(value, _VALUE, place, "a number or a list of numbers")
    if isinstance(value, (list, tuple)):
        return tuple(expect(item, _NUMBER, at, "a number") for item, at in items(value, place))
    return value


def _group(data: Any, place: str) -> GroupPlan:
    expect(data, Mapping, place, "an object")
    name, lanes = field(data, "name", str, "text", place), count(data, "lanes", place, 1)
    width, kept = count(data, "width", place, 1), count(data, "kept", place, 0)
    if kept > width:
        raise Wrong(f"{place} keeps {kept} of {width}")
    return GroupPlan(name, lanes, width, kept, _counts(data.get("counts", ()), lanes, f"{place}.counts"))


def _counts(data: Any, lanes: int, place: str) -> tuple[tuple[int, int], ...]:
    """How many channels each lane has before and after, where that is said."""
    found = []
    for pair, at in items(data, place):
        numbers = [expect(number, int, each, "a number of channels") for number, each in items(pair, at)]
        if len(numbers) != 2 or not 0 <= numbers[1] <= numbers[0]:
            raise Wrong(f"{at} is {numbers}, expected the channels of a lane before and after")
        found.append((numbers[0], numbers[1]))
    if found and len(found) != lanes:
        raise Wrong(f"{place} has {len(found)} entries, expected one for each of {lanes} lanes")
    return tuple(found)


def _cost(data: Mapping[str, Any], place: str) -> Cost:
    macs = field(data, "macs", _NUMBER, "a number", place)
    if not 0 <= macs < float("inf"):
        raise Wrong(f"{place}.macs is {macs}, expected a number of multiply-accumulates")
    return Cost(macs, count(data, "params", place))


def _change(data: Any, place: str) -> dict[str, Any]:
    field(expect(data, Mapping, place, "an object"), "step", str, "the name of a step", place)
    count(data, "round", place)
    for _, axes, at in entries(data.get("resized", {}), f"{place}.resized"):
        for axis, extent, each in entries(axes, at):
            if not (axis.isascii() and axis.isdigit()) or expect(extent, int, each, "an extent") < 1:
                raise Wrong(f"{each} is {extent!r}, expected an extent by the number of an axis")
    for _, values, at in entries(data.get("attributes", {}), f"{place}.attributes"):
        for _, value, each in entries(values, at):
            _value(value, each)
    return dict(data)
