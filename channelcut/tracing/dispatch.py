"""The first front end: record the ATen ops of one eager run.

It works on whatever runs, costs little more than that run, and sees the forward's Python numbers (`trace.widths`).
Composite ops come to it already decomposed. Writes in place are ops like any other: they bind what is written to
what is written over, so that every alias keeps its channels, and a replay in the same order aliases the same storage
again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from channelcut.core.graph import Graph, Node, Ref, Site, WidthUse, as_spec, tensor_paths
from channelcut.core.modes import ThreadMode
from channelcut.core.randomness import Generators
from channelcut.core.trees import mapped_only
from channelcut.tracing.attention import AttentionMode
from channelcut.tracing.attributes import tag_attributes
from channelcut.tracing.dropout import WithoutDropout
from channelcut.tracing.eager import uncompiled
from channelcut.tracing.hollow import Hollow, Unread, ValuesNeeded, is_hollow, roots
from channelcut.tracing.layout import ContiguousLinear
from channelcut.tracing.normalize import NormalizeMode
from channelcut.tracing.numbers import Recording
from channelcut.tracing.recurrent import RecurrentMode, zeros
from channelcut.tracing.settled import settled
from channelcut.tracing.source import current_line
from channelcut.tracing.storage import DataMode
from channelcut.tracing.torch_export import aliases, integers
from channelcut.tracing.whole import WholeMode
from channelcut.tracing.widths import WidthMode

_REPLACED = (ContiguousLinear, WithoutDropout, NormalizeMode)  # functions that are recorded as others


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    training: bool,
    widths: bool = True,
    hollow: bool = False,
    recording: Recording | None = None,
) -> Graph:
    """Run `model` (a copy that may be changed) once and return the ops it ran as a `Graph`.

    `widths`: also note the numbers that the forward computes from shapes and attributes, see `tracing.widths`; they
    belong to `recording`. `hollow`: without the arithmetic, see `tracing.hollow`.
    """
    recording = recording or Recording()
    numbers = integers(model) if widths else {}
    recorder = _Recorder(aliases(model))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        recorder.declare("state", name, tensor)
    for position, leaf in enumerate(pytree.tree_leaves((args, kwargs))):
        if isinstance(leaf, torch.Tensor):
            recorder.declare("input", f"input_{position}", leaf)
    modules = list(model.named_modules())
    hooks = [module.register_forward_pre_hook(recorder.entering(name)) for name, module in modules]
    hooks += [module.register_forward_hook(recorder.leaving, always_call=True) for _, module in modules]
    recurrent = RecurrentMode(recorder.zero)
    mode = WidthMode(recording, recorder.known, recorder.site, recorder.steps, lambda: len(recorder.nodes))
    recorder.uses = mode.uses
    attributes = tag_attributes(model, recording) if widths else {}
    try:
        with ExitStack() as modes:
            hollows = (Hollow(roots(model, (args, kwargs))), Unread()) if hollow else ()
            own: tuple[Any, ...] = (recorder, *(mode() for mode in _REPLACED), AttentionMode(recorder.step), recurrent)
            own = (*own, DataMode(recorder.same, recorder.step), WholeMode(recorder.step), *((mode,) if widths else ()))
            # The mode entered last sees a call first. Hollow is below the recorder, so that what is recorded has the
            # shapes that Hollow gives; the function modes are above both, and WidthMode above all, because the others
            # call functions of their own, whose numbers are not the forward's.
            for entered in (torch.no_grad(), uncompiled(), *hollows, *own):
                modes.enter_context(entered)
            outputs = model(*args, **kwargs)
    finally:
        recording.close()  # what the forward has kept of its numbers is plain from now on
        for hook in hooks:
            hook.remove()
    leaves = tensor_paths(outputs)
    tree = [recorder.reference(leaf) for _, leaf in leaves]
    recorder.append(kind="output", name="output", value=None, args=(tree,), site=Site("network output"))
    names = tuple(name for name, _ in leaves)
    uses, nodes = tuple(mode.uses), tuple(recorder.nodes)
    graph = Graph(nodes, recorder.constants, recorder.shared, training, "dispatch", names, uses, attributes, hollow)
    return settled(replace(graph, integers=numbers))


class _Recorder(ThreadMode):
    """Appends a node for every op; values are known by the identity of their tensors, for as long as these live."""

    def __init__(self, shared: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shared = shared
        self.nodes: list[Node] = []
        self.uses: list[WidthUse] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.path: list[str] = []
        self._known = WeakTensorKeyDictionary()
        self._paused = False
        self._generators = Generators()

    def append(self, **fields: Any) -> Ref:
        self.nodes.append(Node(index=len(self.nodes), **fields))
        return Ref(len(self.nodes) - 1)

    def declare(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        self._remember(tensor, self.append(kind=kind, name=name, value=as_spec(tensor)))

    def entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self.path.append(name)

        return hook

    def leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        self.path.pop()

    def known(self, tensor: torch.Tensor) -> Ref | None:
        """The node that made a tensor, if it was recorded."""
        ref: Ref | None = self._known.get(tensor)  # type: ignore[no-untyped-call]
        return ref

    def same(self, new: torch.Tensor, old: torch.Tensor) -> None:
        """One tensor is the other one without its history."""
        self._remember(new, self.reference(old))

    def zero(self, tensor: torch.Tensor) -> bool:
        """Whether the forward made a tensor of zeros, of sizes that follow nothing, and wrote nothing else into it."""
        ref = self.known(tensor)
        follows = ref is not None and any(use.index == ref.index and use.axis == tensor.dim() - 1 for use in self.uses)
        return ref is not None and not follows and zeros(self.nodes, ref.index)

    def site(self) -> Site:
        """The place in the model that runs now."""
        return Site("a Python number", self.path[-1] if self.path else "", current_line(3))

    def steps(self, since: int) -> list[tuple[int, str, tuple[Any, ...]]]:
        """The nodes after the first `since`: index, op and arguments."""
        return [(node.index, node.name, node.args) for node in self.nodes[since:]]

    def reference(self, tensor: torch.Tensor) -> Ref:
        known = self.known(tensor)
        if known is not None:
            return known
        if is_hollow(tensor):  # a value that no op here has made is a constant, and this one has none
            raise ValuesNeeded("a constant")
        name = f"constant_{len(self.constants)}"
        with _disable_current_modes():  # type: ignore[no-untyped-call]  # its values count in a hollow forward too
            self.constants[name] = tensor.detach().clone()
        ref = self.append(kind="constant", name=name, value=as_spec(tensor))
        self._remember(tensor, ref)
        return ref

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return self._generators.run(func, args, kwargs)
        name = str(func.overloadpacket)
        if name in ("aten.detach", "aten.lift_fresh") or name.startswith("prim."):
            result = func(*args, **kwargs)
            if isinstance(result, torch.Tensor) and isinstance(args[0], torch.Tensor):
                self._remember(result, self.reference(args[0]))
            return result
        return self._step(func, tuple(args), kwargs, lambda: self._generators.run(func, args, kwargs))

    def step(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[], Any]) -> Any:
        """Record all that `run` does as one call of `target`."""

        def alone() -> Any:
            self._paused = True
            try:
                return run()
            finally:
                self._paused = False

        return self._step(target, args, kwargs, alone)

    def _step(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[], Any]) -> Any:
        name = str(func.overloadpacket)
        site = Site(name, self.path[-1] if self.path else "", current_line())
        links = mapped_only(torch.Tensor, self.reference, (args, kwargs))
        result = run()
        ref = self.append(
            kind="call", name=name, value=as_spec(result), site=site, target=func, args=links[0], kwargs=links[1]
        )
        if isinstance(result, torch.Tensor):
            self._remember(result, ref)
        elif isinstance(result, (list, tuple)):
            for position, item in enumerate(result):
                if isinstance(item, torch.Tensor):
                    self._remember(item, self._item(ref, position, item, site))
        return result

    def _item(self, ref: Ref, position: int, item: torch.Tensor, site: Site) -> Ref:
        return self.append(
            kind="call", name="getitem", value=as_spec(item), site=site, target=operator.getitem, args=(ref, position)
        )

    def _remember(self, tensor: torch.Tensor, ref: Ref) -> None:
        self._known[tensor] = ref
