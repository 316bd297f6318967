"""The first front end: record the ATen ops of one eager run.

It works on whatever runs, costs little more than that run, and sees the forward's Python numbers (`trace.widths`).
Composite ops come to it already decomposed. Writes in place are ops like any other: they bind what is written to
what is written over, so that every alias keeps its channels, and a replay in the same order aliases the same storage
again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from channelcut.core.entries import FORWARD, called, calls_of, further_entries, result_path
from channelcut.core.graph import Graph, Node, Ref, Site, WidthUse, as_spec, tensor_paths
from channelcut.core.modes import ThreadMode
from channelcut.core.randomness import Generators, computed
from channelcut.core.tensors import aliases
from channelcut.core.trees import mapped_only
from channelcut.tracing.attention import attention
from channelcut.tracing.attributes import tag_attributes
from channelcut.tracing.dropout import DROPOUT
from channelcut.tracing.eager import uncompiled
from channelcut.tracing.functions import Functions, Table
from channelcut.tracing.hollow import UNREAD, Hollow, ValuesNeeded, is_hollow, roots
from channelcut.tracing.layout import CONTIGUOUS_LINEAR
from channelcut.tracing.normalize import NORMALIZE
from channelcut.tracing.numbers import Recording
from channelcut.tracing.recurrent import recurrent, zeros
from channelcut.tracing.settled import settled
from channelcut.tracing.source import current_line
from channelcut.tracing.storage import data
from channelcut.tracing.torch_export import integers
from channelcut.tracing.whole import whole
from channelcut.tracing.widths import Widths


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    training: bool,
    widths: bool = True,
    hollow: bool = False,
    within: Hollow | None = None,
    recording: Recording | None = None,
) -> Graph:
    """Run `model` (a copy that may be changed) once and return the ops it ran as a `Graph`.

    `widths`: also note the numbers that the forward computes from shapes and attributes, see `tracing.widths`; they
    belong to `recording`. `hollow`: without the arithmetic, see `tracing.hollow`. `within`: the same, but a forward
    that takes values out of torch is not stopped.
    """
    recording = recording or Recording()
    numbers = integers(model) if widths else {}
    within = Hollow(roots(model, (args, kwargs))) if hollow else within
    recorder = _Recorder(aliases(model), within)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        recorder.declare("state", name, tensor)
    for entry, inputs in calls_of((args, kwargs)).items():
        for position, leaf in enumerate(pytree.tree_leaves(inputs)):
            if isinstance(leaf, torch.Tensor):
                recorder.declare("input", f"{'' if entry == FORWARD else f'{entry}.'}input_{position}", leaf)
    modules = list(model.named_modules())
    hooks = [module.register_forward_pre_hook(recorder.entering(name)) for name, module in modules]
    hooks += [module.register_forward_hook(recorder.leaving, always_call=True) for _, module in modules]
    seen = Widths(recording, recorder.known, recorder.site, recorder.steps, lambda: len(recorder.nodes))
    recorder.uses = seen.uses
    attributes = tag_attributes(model, recording) if widths else {}
    functions = Functions({**recorder.replaced(), **(UNREAD if hollow else {})}, seen if widths else None)
    try:
        with torch.no_grad(), uncompiled(), recorder, functions:
            outputs = called(model, (args, kwargs))
    finally:
        recording.close()  # what the forward has kept of its numbers is plain from now on
        for hook in hooks:
            hook.remove()
    leaves = tensor_paths(outputs)
    tree = [recorder.reference(leaf) for _, leaf in leaves]
    recorder.append(kind="output", name="output", value=None, args=(tree,), site=Site("network output"))
    entries = further_entries((args, kwargs))
    names = tuple(result_path(name) if entries else name for name, _ in leaves)
    uses, nodes, end = tuple(seen.uses), tuple(recorder.nodes), recorder.forward_end if entries else None
    graph = Graph(nodes, recorder.constants, recorder.shared, training, "dispatch", names, uses, attributes, hollow)
    return settled(replace(graph, integers=numbers, entries=entries, forward_end=end))


class _Recorder(ThreadMode):
    """Appends a node for every op; values are known by the identity of their tensors, for as long as these live."""

    def __init__(self, shared: Mapping[str, str], within: Hollow | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shared = shared
        self.nodes: list[Node] = []
        self.uses: list[WidthUse] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.path: list[str] = []
        self.forward_end: int | None = None
        self._known = WeakTensorKeyDictionary()
        self._paused = False
        # What is recorded has the shapes that `within` gives.
        self._compute = computed if within is None else within.run
        self._generators = Generators(self._compute)

    def replaced(self) -> Table:
        """The functions of torch that are recorded as something else."""
        tables = attention(self.step), whole(self.step), data(self.same, self.step), recurrent(self.zero)
        return {key: way for table in (*tables, NORMALIZE, DROPOUT, CONTIGUOUS_LINEAR) for key, way in table.items()}

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
        if not self.path and self.forward_end is None:
            self.forward_end = len(self.nodes)

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
            result = self._compute(func, args, kwargs)
            if isinstance(result, torch.Tensor) and isinstance(args[0], torch.Tensor):
                self._remember(result, self.reference(args[0]))
            return result
        if name == "aten.set_" and len(args) == 1:  # what else lies on the memory keeps it
            func = torch.ops.channelcut.emptied.default
            return self._step(func, tuple(args), {}, args[0].set_)
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
