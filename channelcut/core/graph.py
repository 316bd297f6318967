"""A traced forward: what every front end produces and every later stage reads."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

from channelcut.core.errors import UserError
from channelcut.core.trees import leaves, mapped_only, opened

Kind = Literal["input", "state", "constant", "call", "output"]


@dataclass(frozen=True)
class Ref:
    """The value that node `index` produced, as an argument of a later node."""

    index: int


@dataclass(frozen=True)
class Spec:
    """Shape and element type of a traced tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Site:
    """A place in the user's model: the op, the path of the module that ran it, and `file.py:line` of the source."""

    op: str = ""
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        """Read as `aten.view in model.10.attn (block.py:1331)`."""
        return f"{self.op} in {self.module or 'the model'}" + (f" ({self.source})" if self.source else "")


@dataclass(frozen=True)
class Node:
    """One step of the forward.

    `name` is the input's, parameter's, buffer's or constant's name, or the op's (`aten.conv2d`). `args` and `kwargs`
    hold `Ref`s where the op takes the values of earlier nodes. `value` is a pytree of `Spec` (and plain constants).
    """

    index: int
    kind: Kind
    name: str
    value: Any
    site: Site = field(default_factory=Site)
    target: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """The values that it reads, in order; one that it reads twice is there twice."""
        return tuple(refs((self.args, dict(self.kwargs))))


@dataclass(frozen=True)
class Extent:
    """A number of the forward that is the extent of a node's value along an axis."""

    node: int
    axis: int
    value: int

    def sources(self) -> Iterator[Extent | Attribute]:
        """The extents and attributes that the number is made of."""
        yield self


@dataclass(frozen=True)
class Attribute:
    """A number of the forward that a module keeps, by the module's path and the (dotted) name."""

    module: str
    name: str
    value: int

    def sources(self) -> Iterator[Extent | Attribute]:
        """The extents and attributes that the number is made of."""
        yield self


@dataclass(frozen=True)
class Free:
    """An extent that the forward leaves to the op (-1)."""

    def sources(self) -> Iterator[Extent | Attribute]:
        """The extents and attributes that the number is made of."""
        yield from ()


@dataclass(frozen=True)
class Arithmetic:
    """A number that the forward computes from others: `op` is the name of a function of Python's `operator`."""

    op: str
    operands: tuple[Origin | float, ...]

    def sources(self) -> Iterator[Extent | Attribute]:
        """The extents and attributes that the number is made of."""
        for part in self.operands:
            if not isinstance(part, (int, float)):
                yield from part.sources()


Origin = Extent | Attribute | Free | Arithmetic
"""Where a Python number of the forward comes from."""


@dataclass(frozen=True)
class WidthUse:
    """A Python number, known by its origin, that an op was called with.

    `role` says what it decides of node `index`: `extent` (of its value along `axis`), `free` (the same, left to the
    op by -1), `start` or `stop` (of a slice), `multiple` (what was left over by a division, nothing, must be nothing
    again), or `number` (anything else, such as a factor: it must not change).
    """

    index: int
    role: Literal["extent", "free", "start", "stop", "multiple", "number"]
    axis: int
    origin: Origin
    site: Site


@dataclass(frozen=True)
class Graph:
    """The forward of one model in one mode, in execution order.

    `constants` are tensors that the forward made outside the traced ops; `aliases` names every parameter and buffer
    that shares its tensor with an earlier one, with that one's name. `outputs` names the tensors of the result by their
    path in it, such as `1.feats.0`. `uses` are the numbers that the forward computed from shapes and attributes, where
    the front end can see them; `attributes` are the integers that modules keep, by module path and name. `hollow` says
    that it was recorded without the forward's arithmetic. `unsettled` are the nodes that are read where values decide
    how many values there are: what follows is not in the graph. `integers` are the values of the parameters and buffers
    of whole numbers that have one axis, by name: a forward may pick channels by them. `entries` are the methods that
    were run after `forward`, and `forward_end` is the index of the first node of theirs.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, torch.Tensor]
    aliases: Mapping[str, str]
    training: bool
    front_end: str
    outputs: tuple[str, ...] = ()
    uses: tuple[WidthUse, ...] = ()
    attributes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    hollow: bool = False
    unsettled: tuple[int, ...] = ()
    integers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    entries: tuple[str, ...] = ()
    forward_end: int | None = None

    @cached_property
    def tagged(self) -> frozenset[tuple[int, str]]:
        """The nodes and roles that `uses` speaks of."""
        return frozenset((use.index, use.role) for use in self.uses)

    @cached_property
    def uses_of(self) -> Mapping[int, list[WidthUse]]:
        """`uses` by the node that they decide something of."""
        found: dict[int, list[WidthUse]] = {}
        for use in self.uses:
            found.setdefault(use.index, []).append(use)
        return found

    @cached_property
    def following(self) -> frozenset[tuple[int, int]]:
        """The nodes and axes whose extents were taken from the shape of a value, or left to the op."""
        open_ = (u for u in self.uses if u.role == "free")
        taken = (u for u in self.uses if u.role == "extent" and any(isinstance(o, Extent) for o in u.origin.sources()))
        return frozenset((use.index, use.axis) for use in (*open_, *taken))

    @cached_property
    def alive(self) -> tuple[Node, ...]:
        """The nodes without parameters and buffers that no other node reads."""
        read = {*self.unsettled, *(ref.index for node in self.nodes for ref in node.inputs)}
        return tuple(node for node in self.nodes if node.kind != "state" or node.index in read)

    @property
    def calls(self) -> tuple[Node, ...]:
        """The nodes that compute."""
        return tuple(node for node in self.nodes if node.kind == "call")


def refs(tree: Any) -> list[Ref]:
    """Every `Ref` in a pytree of arguments, in order."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Ref)]


def specs(tree: Any) -> list[Spec]:
    """Every `Spec` in a node's value, in order."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Spec)]


def named_outputs(graph: Graph) -> list[tuple[str, int]]:
    """The path of every output in the forward's result and the index of its node."""
    found = [ref.index for node in graph.nodes if node.kind == "output" for ref in refs(node.args)]
    return list(zip(graph.outputs or ("",) * len(found), found, strict=True))


def output_paths(graphs: Iterable[Graph]) -> list[str]:
    """The paths of the outputs of all graphs."""
    return [name for graph in graphs for name, _ in named_outputs(graph)]


def is_named(path: str, patterns: Iterable[str]) -> bool:
    """Whether an output is named by one of the patterns: by its own path, or by that of what it is in."""
    return any(fnmatch(path, pattern) or fnmatch(path, f"{pattern}.*") for pattern in patterns)


def check_named(paths: Iterable[str], patterns: Iterable[str], option: str) -> None:
    """Refuse a pattern of an option that names no output.

    Raises:
        UserError: there is one; names the outputs, and the nearest of them.
    """
    known = list(dict.fromkeys(paths))
    for pattern in patterns:
        if not any(is_named(path, [pattern]) for path in known):
            near = difflib.get_close_matches(pattern, known, 1, 0.5)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{option}: {pattern!r} names no output of this forward.{meant} It returns {', '.join(known[:8])}"
                f"{', ...' if len(known) > 8 else ''}: give one of these paths, what it is in, or a pattern."
            )


def tensor_paths(tree: Any) -> list[tuple[str, torch.Tensor]]:
    """Every tensor in a nested result with its path, such as `1.feats.0`; a lone tensor has the path `0`."""
    found = []
    for path, leaf in pytree.tree_flatten_with_path(opened(tree))[0]:
        if isinstance(leaf, torch.Tensor):
            found.append((".".join(path_piece(entry) for entry in path) or "0", leaf))
    return found


def path_piece(entry: Any) -> str:
    """One step of a path in a nested result: a key, a position or a field."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def as_spec(tree: Any) -> Any:
    """Replace the tensors in a pytree by their `Spec`."""
    return mapped_only(torch.Tensor, lambda t: Spec(tuple(map(int, t.shape)), t.dtype), tree)
