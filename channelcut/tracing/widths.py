"""Numbers that remember where they come from.

A forward turns widths into Python numbers (`b, c, h, w = x.shape`, `self.c`) and numbers into sizes (`view(b, c //
2, 2)`). While a forward is recorded, extents and integer attributes are `int`s that carry their origin through
arithmetic, and every op that is called with one is noted: so a hard-coded width can be refreshed where it is kept,
and a size that is taken from another tensor is known to follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from channelcut.core.graph import Extent, Free, Origin, Ref, Site, WidthUse
from channelcut.ops.registry import op
from channelcut.tracing.numbers import Fraction, Recording, Width, tagged_numbers

_ALWAYS = ("shape", "axis", "sections", "like")  # what they leave to the op, or divide, counts without a number as well
_COUNTS = ("count", "chunks", "sections", "indices_or_sections")


class Widths:
    """Tags shapes, so that extents remember their tensor, and notes every op that is called with such a number.

    `reference(tensor)` is the recorder's `Ref` of a tensor that it knows, `site()` the place that runs now, and
    `steps(since)` the nodes recorded after that many, as (index, name, args).
    """

    def __init__(
        self,
        recording: Recording,
        reference: Callable[[torch.Tensor], Ref | None],
        site: Callable[[], Site],
        steps: Callable[[int], list[tuple[int, str, tuple[Any, ...]]]],
        count: Callable[[], int],
    ) -> None:
        self.recording, recording.on_float, recording.on_multiple = recording, self._number, self._multiple
        self.reference, self.site, self.steps, self.count = reference, site, steps, count
        self.uses: list[WidthUse] = []
        self._known: dict[str, str] = {}

    def seen(self, name: str, args: Any, kwargs: Any, result: Any, before: int) -> Any:
        """The result of a call with its extents tagged; notes the tagged numbers that the call was given."""
        if isinstance(result, torch.Size):
            owner = args[0] if args and isinstance(args[0], torch.Tensor) else None
            return result if owner is None else self._size(owner, result)
        if name == "size" and type(result) is int:
            axis = int(args[1] if len(args) > 1 else kwargs["dim"])
            return self._extent(args[0], axis % args[0].dim(), result)
        if self._sizes(name) in _ALWAYS or tagged_numbers((args, kwargs), self.recording):
            self._note(name, args, kwargs, result, before)
        return result

    def _sizes(self, name: str) -> str:
        """How a function reads numbers as sizes."""
        if name not in self._known:
            self._known[name] = op(f"aten.{name}").sizes
        return self._known[name]

    def _size(self, tensor: torch.Tensor, size: torch.Size) -> torch.Size:
        return torch.Size([self._extent(tensor, axis, extent) for axis, extent in enumerate(size)])

    def _extent(self, tensor: torch.Tensor, axis: int, extent: int) -> int:
        ref = self.reference(tensor)
        return extent if ref is None else Width(extent, Extent(ref.index, axis, extent), self.recording)

    def _note(self, name: str, args: Any, kwargs: Any, result: Any, before: int) -> None:
        sizes = self._sizes(name)
        if sizes in ("shape", "broadcast") and isinstance(result, torch.Tensor):
            given = kwargs.get("shape", kwargs.get("size", args[1:]))
            given = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
            self._extents(result, given, result.dim() - len(given))
        elif sizes == "axis" and isinstance(result, torch.Tensor):
            dim, given = (*args[1:], *kwargs.values())[:2]
            self._extents(result, given, dim % args[0].dim())
        elif sizes == "like" and isinstance(result, torch.Tensor):
            other = args[1] if len(args) > 1 else kwargs["other"]
            self._extents(result, self._size(other, other.shape), 0)
        elif sizes == "repeats" and isinstance(result, torch.Tensor):
            self._repeats(args, kwargs, result)
        elif sizes == "fresh" and isinstance(result, torch.Tensor):
            self._fresh(name, args, kwargs, result)
        elif sizes == "sections" and isinstance(result, (tuple, list)) and result:
            self._sections(args, kwargs, before)
        elif sizes == "pieces" and isinstance(result, (tuple, list)):
            self._pieces(args, kwargs, result)
        elif sizes == "last axes":
            shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
            for axis, number in enumerate(shape, args[0].dim() - len(shape)):
                self._use(self.reference(args[0]), "extent", axis, number)
        elif sizes == "groups":
            self._groups(name, args, kwargs)
        elif sizes == "narrow":
            self._narrow(args, kwargs, before)
        elif name in ("__getitem__", "__setitem__"):
            self._slices(args[0], args[1], before)
        else:
            for number in tagged_numbers((args, kwargs), self.recording):
                self._number(number.origin)

    def _extents(self, result: torch.Tensor, sizes: Any, first: int) -> None:
        ref = self.reference(result)
        for axis, number in enumerate(sizes, first):
            self._use(ref, "extent", axis, number)
            if ref is not None and int(number) == -1:
                self.uses.append(WidthUse(ref.index, "free", axis, Free(), self.site()))

    def _repeats(self, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        """How often one element is there is an extent; how often several are must not change."""
        given = kwargs.get("repeats", args[1:])
        given = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
        before = result.dim() - args[0].dim()
        for axis, number in enumerate(given):
            if axis < before or args[0].shape[axis - before] == 1:
                self._use(self.reference(result), "extent", axis, number)
            else:
                for tagged in tagged_numbers(number, self.recording):
                    self._number(tagged.origin)

    def _fresh(self, name: str, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        """The sizes of a new tensor, `zeros(size)`, `x.new_zeros(size)` or `full(size, value)`; a value stays."""
        given = args[1:] if args and isinstance(args[0], torch.Tensor) else args
        filled = name.endswith("full")
        sizes = kwargs.get("size", given[0] if given and (filled or isinstance(given[0], (tuple, list))) else given)
        if len(sizes) == result.dim():
            self._extents(result, sizes, 0)
        values = (given[1:] if filled else (), kwargs.get("fill_value"), kwargs.get("stride"))
        for number in tagged_numbers(values, self.recording):
            self._number(number.origin)

    def _groups(self, name: str, args: Any, kwargs: Any) -> None:
        """As many groups as channels follow the channels; any other number, such as a stride, must not change."""
        at, tensor = (1 if name == "group_norm" else 6), args[0]
        groups = kwargs.get("groups", kwargs.get("num_groups", args[at] if len(args) > at else None))
        axis = 1 if name == "group_norm" else tensor.dim() - int(name.rpartition("d")[0][-1]) - 1
        own = isinstance(groups, Width) and int(groups) == tensor.shape[axis]
        for number in tagged_numbers((args, kwargs), self.recording):
            if not (own and number is groups):
                self._number(number.origin)
        if own:
            self._use(self.reference(tensor), "extent", axis, groups)

    def _narrow(self, args: Any, kwargs: Any, before: int) -> None:
        _, start, length = (*args[1:], *kwargs.values())[:3]
        made = [i for i, name, _ in self.steps(before) if name.endswith("slice")]
        if made:
            self._use(Ref(made[0]), "start", -1, start)
            self._use(Ref(made[0]), "stop", -1, start + length)

    def _pieces(self, args: Any, kwargs: Any, result: Any) -> None:
        sizes = (*args[1:], *(v for k, v in kwargs.items() if k != "dim"))[0]
        axis = int(kwargs.get("dim", args[2] if len(args) > 2 else 0)) % args[0].dim()
        each = sizes if isinstance(sizes, (tuple, list)) else [sizes] * len(result)
        for piece, number in zip(result, each, strict=True):
            if int(number) == piece.shape[axis]:  # the last piece of split(size) may be smaller
                self._use(self.reference(piece), "extent", axis, number)

    def _sections(self, args: Any, kwargs: Any, before: int) -> None:
        """A number of pieces: equal ones follow the extent; of unequal ones each would become another piece of it."""
        given = dict(zip(("input", "count", "dim"), args, strict=False)) | kwargs
        tensor = given["input"]
        count = next((given[key] for key in _COUNTS if key in given), None)
        axis = int(given.get("dim", 0)) % tensor.dim()
        extent = self._extent(tensor, axis, tensor.shape[axis])
        for number in tagged_numbers((count, kwargs), self.recording):
            self._number(number.origin)
        if not isinstance(count, int) or not isinstance(extent, Width):
            return
        if int(extent) % count:
            self._number(extent.origin)
            return
        made = [index for index, name, _ in self.steps(before) if name.endswith("slice")]
        for position, index in enumerate(made):  # of tensor_split; chunk is one op, which keeps its pieces equal
            self._use(Ref(index), "start", axis, extent // count * position)
            self._use(Ref(index), "stop", axis, extent // count * (position + 1))

    def _slices(self, tensor: torch.Tensor, index: Any, before: int) -> None:
        """Bounds of slices; a number that selects one position, or indexes otherwise, must not change."""
        items = list(index) if isinstance(index, tuple) else [index]
        axis, steps = 0, self.steps(before)
        taken = sum(item is not None and item is not Ellipsis for item in items)
        for item in items:
            if item is None:
                continue
            if item is Ellipsis:
                axis += tensor.dim() - taken
                continue
            if isinstance(item, slice):
                made = [i for i, name, arguments in steps if name.endswith("slice") and _dim(arguments) == axis]
                for role, number in (("start", item.start), ("stop", item.stop)):
                    if isinstance(number, Width) and made:
                        self._use(Ref(made[0]), role, axis, number)
            else:
                for number in tagged_numbers(item, self.recording):
                    self._number(number.origin)
            axis += 1

    def _use(self, ref: Ref | None, role: Any, axis: int, number: Any) -> None:
        if ref is not None and isinstance(number, (Width, Fraction)) and number.recording is self.recording:
            self.uses.append(WidthUse(ref.index, role, axis, number.origin, self.site()))

    def _multiple(self, origin: Origin) -> None:
        self.uses.append(WidthUse(max(self.count() - 1, 0), "multiple", -1, origin, self.site()))

    def _number(self, origin: Origin) -> None:
        self.uses.append(WidthUse(max(self.count() - 1, 0), "number", -1, origin, self.site()))


def _dim(arguments: tuple[Any, ...]) -> int:
    return int(arguments[1]) if len(arguments) > 1 else 0
