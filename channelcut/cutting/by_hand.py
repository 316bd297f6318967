"""Plans changed by hand: other positions of one tensor, and what is coupled to them follows."""

from __future__ import annotations

import difflib
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.groups import Group, Groups, Ids, Role, Slot
from channelcut.core.plan import Plan
from channelcut.core.tensors import named_tensors
from channelcut.core.words import kind_of
from channelcut.cost.protocol import WidthCost
from channelcut.cutting.halfway import Halfway
from channelcut.cutting.planning import make_plan

_ROLES = (Role.OUT, Role.GROUP, Role.DEPTHWISE, Role.NORM, Role.BIAS, Role.PARAM)


@dataclass(frozen=True)
class PlanContext:
    """What a plan was made from: the model, its groups, what is kept of them, and the scores.

    `kept` and `scores` have shape (channel_count,). `halfway` is the network that the pass before left, where the plan
    was made in several.
    """

    model: nn.Module
    groups: Groups
    kept: NDArray[np.bool_]
    scores: NDArray[np.float64]
    costs: Mapping[str, WidthCost]
    dropped: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    halfway: Halfway | None = None

    def plan(self, options: Mapping[str, object]) -> Plan:
        """The plan that keeps what is marked."""
        gone = self.dropped, self.zeroed
        return replace(make_plan(self.model, self.groups, self.kept, self.costs, options, *gone), context=self)

    def with_kept(self, plan: Plan, tensor: str, positions: Sequence[int]) -> Plan:
        """See `Plan.with_kept`."""
        slot = self._output(tensor)
        wanted = self._wanted(slot, positions)
        kept = self.kept.copy()
        owner = self.groups.group_of()
        for index in sorted(set(owner[slot.channels].tolist()) - {-1}):
            self._follow(kept, self.groups.groups[index], slot, wanted)
        by_hand = [name for name in plan.options.get("by_hand", []) if name != slot.tensor]
        options = {**plan.options, "by_hand": [*by_hand, slot.tensor]}
        for name in ("allocation", "kept_importance"):  # what was found of the widths is of others
            options.pop(name, None)
        return replace(self, kept=kept, halfway=None).plan(options)

    def _output(self, tensor: str) -> Slot:
        """The slot along the output axis of a tensor."""
        if not isinstance(tensor, str):
            raise UserError(f"with_kept: {tensor!r} is {kind_of(tensor)}. Expected the name of a weight.")
        name = self.groups.graph.aliases.get(tensor, tensor)
        found = [slot for slot in self.groups.slots if slot.tensor == name and slot.role in _ROLES]
        if found:
            return min(found, key=lambda slot: (_ROLES.index(slot.role), slot.axis))
        names = sorted({slot.tensor for slot in self.groups.slots if slot.role in _ROLES})
        close = difflib.get_close_matches(tensor, names, n=3, cutoff=0.4) or names[:3]
        what = "has no output channels" if name in named_tensors(self.model) else "is no parameter or buffer of it"
        raise UserError(
            f"with_kept: {tensor!r} {what} in this model. Expected the name of a weight, such as {', '.join(close)}."
        )

    def _wanted(self, slot: Slot, positions: Sequence[int]) -> NDArray[np.bool_]:
        """The kept positions as a mask, shape (extent,), which the coupling allows within this tensor."""
        extent, name = len(slot.channels), slot.tensor
        chosen = _integers(positions)
        if chosen is None:
            raise UserError(
                f"with_kept({name!r}): {positions!r} are no positions. Expected integers from 0 to {extent - 1} along "
                f"axis {slot.axis}; of a mask, mask.nonzero()."
            )
        wrong = [p for p in chosen if not 0 <= p < extent]
        if wrong or not chosen or len(set(chosen)) < len(chosen):
            what = f"position {wrong[0]}" if wrong else "no position" if not chosen else "a position twice"
            raise UserError(
                f"with_kept({name!r}): {what} is given. Expected distinct positions from 0 to {extent - 1}, at least "
                f"one, along axis {slot.axis}."
            )
        mask = np.zeros(extent, dtype=bool)
        mask[chosen] = True
        held = np.flatnonzero(~mask & (self.groups.group_of()[slot.channels] < 0))
        if len(held):
            raise UserError(
                f"with_kept({name!r}): position {held[0]} must stay{self._why(slot.channels[held])}. Keep "
                f"{_listed(held)} as well, or remove what pins them."
            )
        for channel in np.unique(slot.channels[mask]):
            places = np.flatnonzero(slot.channels == channel)
            if not mask[places].all():
                raise UserError(
                    f"with_kept({name!r}): the positions {_listed(places)} are one channel, which is kept or removed "
                    "as a whole. Give all of them or none."
                )
        return mask

    def _why(self, channels: Ids) -> str:
        """The pins of channels that stay, in words."""
        reasons = [str(pin) for pin in self.groups.pins if np.isin(pin.channels, channels[channels > 0]).any()]
        return f", because it is pinned ({'; '.join(reasons[:2])})" if reasons else ": it belongs to no group"

    def _follow(self, kept: NDArray[np.bool_], group: Group, slot: Slot, wanted: NDArray[np.bool_]) -> None:
        """Keep in a group what the tensor keeps, and as many in its other lanes."""
        chosen = np.zeros(len(kept), dtype=bool)
        chosen[slot.channels[wanted]] = True
        inside = [number for number, lane in enumerate(group.lanes) if np.isin(lane, slot.channels).all()]
        counts = [int(chosen[group.lanes[number]].sum()) for number in inside]
        widths = [w for w in group.widths.tolist() if [group.counts(w)[number] for number in inside] == counts]
        if not widths:
            raise UserError(
                f"with_kept({slot.tensor!r}): the group {group.name} {_rule(group, inside, counts)}, and these "
                f"positions keep {self._listed(group, inside, counts)}. Give positions that fit."
            )
        before = group.kept_width(kept)
        width = min(widths, key=lambda w: (abs(w - before), w))
        for number, (lane, share) in enumerate(zip(group.lanes, group.counts(width), strict=True)):
            if number in inside:
                kept[lane] = chosen[lane]
            elif int(kept[lane].sum()) != share:
                best = lane[np.argsort(-self.scores[lane], kind="stable")]
                kept[lane] = False
                kept[best[:share]] = True

    def _listed(self, group: Group, lanes: Sequence[int], counts: Sequence[int]) -> str:
        """How many channels of which lanes are kept, in words."""
        found = [(group.lanes[number], count) for number, count in zip(lanes, counts, strict=True)]
        if group.table:  # in this tensor, in order
            return ", ".join(f"{count} of {len(lane)}" for lane, count in found)
        return "; ".join(f"{count} of {len(lane)} in {self._names(lane)}" for lane, count in found)

    def _names(self, lane: Ids) -> str:
        """The tensors that the channels of a lane are in."""
        names = Counter(slot.tensor for slot in self.groups.slots if np.isin(lane[:1], slot.channels).any())
        return ", ".join(list(names)[:4]) + (", ..." if len(names) > 4 else "")


def _rule(group: Group, inside: Sequence[int], counts: Sequence[int]) -> str:
    """What a group asks for, in words, where it is asked to keep these counts of some of its lanes."""
    if group.table:
        total = sum(counts)
        of = {width: [group.counts(width)[number] for number in inside] for width in group.widths.tolist()}
        near = sorted(of, key=lambda width: (abs(sum(of[width]) - total), width))[:3]
        allowed = "; or ".join(f"{', '.join(map(str, of[width]))} ({sum(of[width])} in all)" for width in sorted(near))
        return (
            f"keeps in each of its {len(group.lanes)} lanes what the forward's own splits give it: of those in this "
            f"tensor, the nearest to what was asked, {allowed}"
        )
    if not any(counts):
        return "would lose all of its channels"
    if len(group.lanes) > 1:
        return f"must keep the same share in each of its {len(group.lanes)} lanes"
    return f"must keep a multiple of {group.step} channels"


def _listed(positions: NDArray[np.int64]) -> str:
    return ", ".join(map(str, positions[:8].tolist())) + (", ..." if len(positions) > 8 else "")


def _integers(positions: Any) -> list[int] | None:
    """The positions, if they are integers; a mask of booleans is none."""
    try:
        items = [item.item() if hasattr(item, "item") else item for item in positions]
        return None if any(isinstance(item, bool) for item in items) else [operator.index(item) for item in items]
    except (TypeError, ValueError, RuntimeError):
        return None
