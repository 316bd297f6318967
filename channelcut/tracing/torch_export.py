"""The front end on torch.export: functional ATen ops with module paths and source lines."""

from __future__ import annotations

import operator
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from channelcut.core.copies import cloned, private_copy
from channelcut.core.errors import TraceError
from channelcut.core.graph import Graph, Node, Ref, Site, as_spec, named_outputs, specs, tensor_paths
from channelcut.core.quiet import quietly
from channelcut.core.randomness import OwnRandom
from channelcut.core.tensors import aliases, named_tensors
from channelcut.tracing.recurrent import RECURRENCE, whole, zeros
from channelcut.tracing.source import from_stack_trace

# Blocks of a forward that torch.export wraps into a sub-graph without changing what they compute: they are inlined.
_WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, training: bool) -> Graph:
    """Trace `model` (a copy that may be changed) by torch.export in non-strict mode.

    The forward runs once before, so that what it caches beyond the model is real: torch.export runs it on tensors
    without values, and one of those in a cache would break the user's model for good. torch.export keeps state of its
    own in the process, so one thread at a time is in it.
    """
    with _ONE_AT_A_TIME, quietly(), torch.no_grad():
        with OwnRandom():
            own_args, own_kwargs = cloned((args, kwargs))
            result = private_copy(model)(*own_args, **own_kwargs)
        program = torch.export.export(model, args, kwargs, strict=False)
    graph = replace(_Reader(program, aliases(model), training).read(), integers=integers(model))
    _check_shapes(graph, result)
    return graph


def _check_shapes(graph: Graph, result: Any) -> None:
    """Refuse a trace whose outputs have other shapes than those of the forward.

    PyTorch 2.11 gives the last states of an LSTM of several layers an axis too many.

    Raises:
        TraceError: names the first such output.
    """
    real = {path: tuple(leaf.shape) for path, leaf in tensor_paths(result)}
    for path, index in named_outputs(graph):
        for spec in specs(graph.nodes[index].value):
            if path in real and tuple(spec.shape) != real[path]:
                raise TraceError(
                    f"torch.export of PyTorch {torch.__version__} gives the output {path!r} the shape "
                    f"{tuple(spec.shape)}, and the forward {real[path]}. Expected the same: take tracer='auto', the "
                    "default, or 'dispatch' (--tracer), which run the forward."
                )


def integers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of whole numbers that have one axis, by name: copies that nobody changes."""
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in named_tensors(model).items()
        if tensor.dim() == 1 and tensor.dtype in _POSITIONS
    }


_POSITIONS = (torch.int16, torch.int32, torch.int64)
_ONE_AT_A_TIME = threading.Lock()


class _Reader:
    """Reads an ExportedProgram into a `Graph`, inlining wrappers."""

    def __init__(self, program: torch.export.ExportedProgram, shared: dict[str, str], training: bool) -> None:
        self.program, self.shared, self.training = program, shared, training
        self.nodes: list[Node] = []
        self.constants: dict[str, torch.Tensor] = {}

    def read(self) -> Graph:
        signature = self.program.graph_signature
        states = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = dict(signature.inputs_to_lifted_tensor_constants)
        env: dict[FxNode, Any] = {}
        for fx in self.program.graph.nodes:
            if fx.op == "placeholder":
                env[fx] = self._placeholder(fx, states, lifted)
            elif fx.op == "output":
                self._outputs(fx, env, signature)
            else:
                self._step(fx, env, self.program.graph_module)
        names = _output_names(self.program)
        return Graph(tuple(self.nodes), self.constants, self.shared, self.training, "export", names)

    def _append(self, **fields: Any) -> Ref:
        self.nodes.append(Node(index=len(self.nodes), **fields))
        return Ref(len(self.nodes) - 1)

    def _placeholder(self, fx: FxNode, states: dict[str, str], lifted: dict[str, str]) -> Any:
        value = fx.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return value
        if fx.name in states:
            name = states[fx.name]
            return self._append(kind="state", name=self.shared.get(name, name), value=as_spec(value))
        if fx.name in lifted:
            name = lifted[fx.name]
            self.constants[name] = self.program.constants[name].detach()
            return self._append(kind="constant", name=name, value=as_spec(value))
        return self._append(kind="input", name=fx.name, value=as_spec(value))

    def _outputs(self, fx: FxNode, env: dict[FxNode, Any], signature: Any) -> None:
        user = set(signature.user_outputs)
        tree = [
            torch.fx.node.map_arg(leaf, lambda n: env[n])
            for leaf in pytree.tree_leaves(fx.args)
            if isinstance(leaf, FxNode) and leaf.name in user
        ]
        self._append(kind="output", name="output", value=None, args=(tree,), site=Site("network output"))

    def _step(self, fx: FxNode, env: dict[FxNode, Any], owner: nn.Module) -> None:
        if fx.op == "get_attr":
            value = operator.attrgetter(str(fx.target))(owner)
            if isinstance(value, torch.Tensor):
                self.constants[str(fx.target)] = value.detach()
                env[fx] = self._append(kind="constant", name=str(fx.target), value=as_spec(value))
            else:
                env[fx] = value
            return
        name = _op_name(fx.target)
        if name in _WRAPPERS:
            env[fx] = self._inline(fx, env, _WRAPPERS[name])
            return
        args: Any = torch.fx.node.map_arg(fx.args, lambda n: env[n])
        kwargs: Any = torch.fx.node.map_arg(fx.kwargs, lambda n: env[n])
        if name == "getitem" and not isinstance(args[0], Ref):
            env[fx] = args[0][args[1]]
            return
        if any(isinstance(leaf, nn.Module) for leaf in pytree.tree_leaves((args, kwargs))):
            raise TraceError(
                f"The forward has control flow on tensors ({name} at {from_stack_trace(fx.meta.get('stack_trace'))})."
            )
        target = fx.target
        recurrent = whole(name.removeprefix("aten."), args, lambda ref: zeros(self.nodes, ref.index))
        if recurrent is not None:
            name, target, args = str(RECURRENCE.overloadpacket), RECURRENCE, recurrent
        site = Site(name, _module_path(fx), from_stack_trace(fx.meta.get("stack_trace")))
        env[fx] = self._append(
            kind="call",
            name=name,
            value=as_spec(fx.meta.get("val")),
            site=site,
            target=target,
            args=args,
            kwargs=kwargs,
        )

    def _inline(self, fx: FxNode, env: dict[FxNode, Any], skip: int) -> Any:
        """Read the sub-graph of a wrapper in place; its arguments follow `skip` settings and the sub-graph itself."""
        settings: Any = fx.args
        first: Any = settings[skip]
        module = env[first] if isinstance(first, FxNode) else first
        values: Iterator[Any] = iter([env[a] if isinstance(a, FxNode) else a for a in settings[skip + 1 :]])
        inner: dict[FxNode, Any] = {}
        for step in module.graph.nodes:
            if step.op == "placeholder":
                inner[step] = next(values)
            elif step.op == "output":
                return torch.fx.node.map_arg(step.args[0], lambda n: inner[n])
            else:
                self._step(step, inner, module)
        raise TraceError(f"The sub-graph of {_op_name(fx.target)} has no output.")


def _output_names(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The paths of the tensors in the result, in the order of the graph's outputs."""
    specs = program.graph_signature.output_specs
    user = [s for s in specs if s.kind == torch.export.graph_signature.OutputKind.USER_OUTPUT]
    marked = [torch.empty(0) if isinstance(s.arg, torch.export.graph_signature.TensorArgument) else None for s in user]
    result = pytree.tree_unflatten(marked, program.call_spec.out_spec)
    return tuple(name for name, _ in tensor_paths(result))


def _op_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket)
    return getattr(target, "__name__", str(target))


def _module_path(fx: FxNode) -> str:
    stack = list((fx.meta.get("nn_module_stack") or {}).values())
    return re.sub(r"@\d+", "", str(stack[-1][0])) if stack else ""
