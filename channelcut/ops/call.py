"""`Call`: one op with its arguments, and everything that a rule may ask and say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import Extent, Graph, Node, Origin, Site, Spec, specs
from channelcut.core.groups import Role
from channelcut.core.reasons import COMPUTED_WEIGHT, FIXED_TENSOR, RULE_SAYS, SHARED_FIXED, Reason
from channelcut.core.schema import keyword_only
from channelcut.core.trees import leaves, mapped_only
from channelcut.ops.host import Bound, Factor, Host, State

FIXED = torch.zeros(0, dtype=torch.int32)
"""An extent that no removal changes, for `Call.account`."""


@dataclass(frozen=True)
class Call:
    """One op with its arguments by their schema names; tensors are replaced by ids, parameters by `State`.

    Rules run twice: once on all ids, to collect what they say, and then on what a selection keeps, to check that it
    fits. A rule must not keep anything between its calls.
    """

    node: Node
    arguments: Mapping[str, Any]
    graph: Graph = field(repr=False)
    run: int
    host: Host = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        """Return an argument: ids for a tensor, a `State` for a parameter or buffer, numbers as they are."""
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that some overloads lack."""
        return self.arguments.get(name, default)

    @property
    def name(self) -> str:
        """The op's name, such as `aten.conv2d`."""
        return self.node.name

    @property
    def site(self) -> Site:
        """The op's place in the model."""
        return self.node.site

    @property
    def place(self) -> tuple[int, int]:
        """The run of the model and the node in it, as a key."""
        return self.run, self.node.index

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) output."""
        found = specs(self.node.value)
        return found[0].shape if found else ()

    @property
    def several(self) -> bool:
        """Whether the op has several outputs."""
        return isinstance(self.node.value, (list, tuple))

    # Ids of arguments and outputs

    def ids(self, name: str) -> Tensor:
        """The ids of a tensor argument, in its shape; a parameter in that place gets ids of its own."""
        return self.activation(self.arguments[name])

    def activation(self, value: Any) -> Tensor:
        """The ids of a value; a parameter or buffer with one long axis owns its elements, any other is fixed."""
        if not isinstance(value, State):
            return value  # type: ignore[no-any-return]
        long = self.long_axes(value)
        if len(long) != 1:
            if long:
                self.fix(value, COMPUTED_WEIGHT if self.computes_a_weight else SHARED_FIXED)
            return I.zeros(value.shape)
        return I.along(self.slot(value, long[0], None, Role.PARAM), long[0], value.shape)

    @property
    def computes_a_weight(self) -> bool:
        """Whether the op computes with parameters alone, and single numbers."""
        values = [value for value in leaves(dict(self.arguments)) if isinstance(value, (State, Tensor))]
        return any(isinstance(value, State) for value in values) and all(
            isinstance(value, State) or (value.numel() == 1 and not bool(value.any())) for value in values
        )

    def long_axes(self, state: State) -> list[int]:
        """The axes of a parameter or buffer along which there is more than one element."""
        # A check may have one channel left of many, along what would then be no long axis any more.
        extents = enumerate(state.shape)
        return [axis for axis, extent in extents if self.decide(f"{state} is long along {axis}", extent > 1)]

    def line(self, name: str, axis: int) -> Tensor | None:
        """The ids of a tensor argument along one axis, shape (extent,); None where they vary along another as well."""
        return self.line_of(self.ids(name), axis, name)

    def line_of(self, ids: Tensor, axis: int, name: str = "") -> Tensor | None:
        """The same for ids at hand; a rule that asks of several values names each."""
        found = I.line(ids, axis)
        # Channels that are joined later on may no longer vary along the other axis when the rule runs again.
        if not self.decide(f"{name} varies along {axis % ids.dim()} alone", found is not None):
            return None
        if found is None:
            self.host.misfit(self, [ids], ValueError("channels vary along several axes"))
        return found

    def along(self, line: Tensor, axis: int) -> Tensor:
        """Ids of the (first) output that follow `line`, shape (extent,), along `axis` and vary along no other."""
        try:
            return I.along(line, axis % len(self.shape), self.shape)
        except RuntimeError as problem:
            self.host.misfit(self, [line], problem)

    def fixed(self) -> Any:
        """Ids of the outputs without removable channels, in the outputs' structure."""
        return fixed_like(self.node.value)

    # The op itself on ids; what does not fit is a misfit of the ids, not of the rule

    def moved(self) -> Any:
        """The op run on its ids."""
        args = mapped_only(State, self.activation, dict(self.arguments))
        if "size" in args:
            args["size"] = self.shape
        if not args or self.node.target is None:
            return self.fixed()
        if self.node.name.endswith("_"):  # in place: the ids keep the shape that the op found
            args = mapped_only(Tensor, lambda ids: ids.view(ids.shape), args)
        skipped = keyword_only(self.node.target)
        try:
            return self.node.target(*(value for name, value in args.items() if name not in skipped))
        except (RuntimeError, ValueError, IndexError) as problem:
            self.host.misfit(self, [leaf for leaf in args.values() if isinstance(leaf, Tensor)], problem)

    def reshaped(self, ids: Tensor, *shape: int) -> Tensor:
        """The ids in another shape."""
        try:
            return ids.reshape(shape)
        except RuntimeError as problem:
            self.host.misfit(self, [ids], problem)

    def spread(self, ids: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """The ids broadcast to a shape, by default the output's."""
        try:
            return ids.expand(tuple(self.shape if shape is None else shape))
        except RuntimeError as problem:
            self.host.misfit(self, [ids], problem)

    def divided(self, ids: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
        """The ids in pieces of these sizes along an axis."""
        try:
            return torch.split(ids, list(sizes), axis)
        except RuntimeError as problem:
            self.host.misfit(self, [ids], problem)

    def joined(self, pieces: Sequence[Tensor], axis: int) -> Tensor:
        """Pieces one after the other."""
        try:
            return torch.cat(list(pieces), axis)
        except RuntimeError as problem:
            self.host.misfit(self, pieces, problem)

    # What a rule says

    def mint(self, count: int) -> Tensor:
        """Fresh ids, shape (count,): new channels begin here."""
        return self.host.mint(self, count)

    def slot(self, state: object, axis: int, ids: Tensor | None, role: Role | str) -> Tensor:
        """`axis` of a parameter or buffer follows `ids`, shape (extent,), and loses what they lose; None mints them.

        `role`: `out` and `in` of a weight that mixes channels, `depthwise`, `group`, `norm`, `bias`, `param` for
        anything else. Returns the slot's ids.

        Raises:
            TypeError: `state` is a computed tensor.
        """
        if not isinstance(state, State):
            raise TypeError(f"only parameters and buffers have slots, and this is {type(state).__name__}")
        (first, *others) = factors = state.factors[axis]
        if first.stored and not others:
            return self._stored(first, ids, Role(role))
        if not any(factor.stored or factor.held for factor in factors):  # all positions are alike
            return I.zeros((state.shape[axis],)) if ids is None else ids
        return self._merged(state, factors, ids, Role(role))

    def _merged(self, state: State, factors: Sequence[Factor], ids: Tensor | None, role: Role) -> Tensor:
        """The same for an axis of several factors: one of them may lose positions, with all that shares one with it."""
        extents = [factor.extent for factor in factors]
        stored = [n for n, factor in enumerate(factors) if factor.stored]
        wide = None if ids is None else self.reshaped(ids, *extents)
        if wide is not None:  # of many channels, one may be left in a check
            varying = I.varying_axes(wide)
            found = [n for n in range(len(factors)) if self.decide(f"{state} loses along {n}", n in varying)]
        else:
            found = []
        found = found or [n for n in stored if extents[n] > 1][:1] or stored[:1]
        if len(found) != 1 or any(factor.held for factor in factors) or found[0] not in stored:
            if ids is not None:
                self.pin(ids, COMPUTED_WEIGHT)
            self.fix(State(state.name, (tuple(factors),)), COMPUTED_WEIGHT)
            if ids is None:  # channels that stay, so that the pin is seen where they are
                ids = self.mint(math.prod(extents))
                self.pin(ids, COMPUTED_WEIGHT)
            return ids
        line = None if wide is None else wide.movedim(found[0], 0).reshape(extents[found[0]], -1)[:, 0]
        line = self._stored(factors[found[0]], line, role)
        return I.along(line, found[0], extents).reshape(-1)

    def _stored(self, factor: Factor, ids: Tensor | None, role: Role) -> Tensor:
        """Every stored axis of a factor follows `ids`; the first has the role, the others belong to it."""
        for stored in factor.stored:
            ids = self.host.slot(self, stored, factor.extent, ids, role)
            role = role if role in (Role.IN, Role.DEPTHWISE, Role.GROUP) else Role.PARAM
        assert ids is not None
        return ids

    def positions(self, index: State, line: Tensor) -> Tensor:
        """The positions along `line`, shape (extent,), that a parameter or buffer holds: its values follow a cut."""
        return torch.from_numpy(self.host.positions(self, index.stored[0], line))

    def bind(self, a: Tensor, b: Tensor, reason: Reason | str = FIXED_TENSOR) -> Tensor:
        """Elements at the same place of `a` and `b`, which broadcast, live or die together; returns the result's ids.

        Where one of them cannot be removed, the other is pinned for `reason`.
        """
        return self.host.bind(self, a, b, reason)

    def bind_along(self, ids: Tensor, axis: int) -> Tensor:
        """Bind every slab along `axis` to the first one; returns the ids with the first one's in every slab."""
        if ids.shape[axis] > 1 and not I.is_constant(I.compact(ids), axis):
            first = ids.narrow(axis, 0, 1)
            rest = ids.narrow(axis, 1, ids.shape[axis] - 1)
            self.bind(first.expand_as(rest), rest)
            return first.expand(ids.shape)
        return ids

    def one_line(self, ids: Tensor, axis: int, name: str = "") -> Tensor | None:
        """The ids along an axis, where all that they vary along others of goes together; None where it is only others.

        As after a view of (N, C·h·w) as (N, C, h, w). A rule that asks of several values names each.
        """
        axis, varying = axis % ids.dim(), I.varying_axes(ids)
        # In a check, the channels that are left may not vary along an axis any more.
        others = [a for a in range(ids.dim()) if a != axis and self.decide(f"{name} varies along {a}", a in varying)]
        if others and not self.decide(f"{name} varies along its own axis", axis in varying):
            return None
        if not others and ids.numel():
            return ids.as_strided((ids.shape[axis],), (ids.stride(axis),))
        for other in others:
            ids = self.bind_along(ids, other)
        return I.compact(I.compress(ids.movedim(axis, -1)))[(0,) * (ids.dim() - 1)].expand(ids.shape[axis])

    def bind_equal(self, pieces: Sequence[Tensor], axis: int) -> None:
        """The pieces keep equal numbers of channels along `axis`, not the same ones."""
        self.host.bind_equal(self, pieces, axis)

    def rectangle(self, ids: Tensor) -> Tensor:
        """The ids vary along several axes, of which the last alone may lose elements: the same share in every row."""
        if len(I.varying_axes(ids)) > 1:
            self.host.rectangle(self, ids)
        return ids

    def pin(self, ids: Tensor, reason: Reason | str, remedy: str = "") -> None:
        """These channels cannot be removed, because of `reason`, here; `remedy` says what would free them."""
        self.host.pin(self, ids, reason, remedy or self._remedy(reason))

    def pin_value(self, value: object, reason: Reason | str, remedy: str = "") -> None:
        """Pin an argument, whatever it is: the channels of an activation, all slots of a parameter."""
        if isinstance(value, State):
            self.fix(value, reason, remedy)
        elif isinstance(value, Tensor):
            self.pin(value, reason, remedy)

    def fix(self, state: State, reason: Reason | str = SHARED_FIXED, remedy: str = "") -> None:
        """A parameter or buffer is used in a way that no removal may change: its slots are pinned."""
        for stored in state.stored:
            self.host.fix(self, stored, reason, remedy or self._remedy(reason))

    def _remedy(self, reason: Reason | str) -> str:
        return (reason if isinstance(reason, Reason) else RULE_SAYS).remedy.format(op=self.name)

    def account(self, macs: float, rows: Tensor, columns: Tensor) -> None:
        """Charge `macs` multiply-accumulates, proportional to what is kept of `rows` and of `columns` (or `FIXED`)."""
        self.host.account(self, macs, rows, columns)

    def decide(self, question: str, answer: bool) -> bool:
        """A rule that goes one way or another by how ids vary asks here: a check, which may have one channel left of
        many, goes the way that was gone before.
        """
        return self.host.decide(self, question, answer)

    # What the forward's own numbers say

    @property
    def sees_numbers(self) -> bool:
        """Whether the tracer notes where the forward's sizes come from."""
        return bool(self.graph.uses)

    def follows(self, axis: int) -> bool:
        """Whether the extent along an axis of the output was left open, or taken from an axis that channels lie along.

        `batch * self.heads` is taken from a shape as well, and follows no channels.
        """
        if (self.node.index, axis) not in self.graph.following:
            return False
        origins = self.origins(axis)
        extents = [source for origin in origins for source in origin.sources() if isinstance(source, Extent)]
        beside = any(self.host.varies(extent.node, extent.axis) for extent in extents)
        return self.decide(f"axis {axis} follows", beside or not extents)

    def origins(self, axis: int) -> list[Origin]:
        """The numbers of the forward that the extent along an axis of the output was given by."""
        return [
            use.origin
            for use in self.graph.uses_of.get(self.node.index, ())
            if use.axis == axis and use.role == "extent"
        ]

    def slice_bound(self, which: Bound, line: Tensor, position: int, sign: int) -> None:
        """A slice along the channels starts or stops at `position` of `line`.

        A bound whose origin is known moves with the channels before it (`sign` 1) or after it (-1, counted from the
        end); any other is hard-coded, and these channels stay.
        """
        self.host.bound(self, which, line, position, sign)


def fixed_like(value: Any) -> Any:
    """Replace every `Spec` in a node's value by ids without removable channels."""
    if isinstance(value, Spec):
        return I.zeros(value.shape)
    if isinstance(value, (list, tuple)):
        return tuple(fixed_like(item) for item in value)
    return value
