"""ONNX Runtime's layers on the CPU.

In a network, a convolution's values stay in the runtime's own blocked layout from one layer to the next; alone in a
file it pays for the change of layout on both sides, which can take longer than the convolution. So the lone file is
optimised first, and what was optimised is freed of the changes at its borders: what is left is the kernel that runs in
a network.

With one thread, times are processor time of the calling thread, which other processes on the machine hardly disturb.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from channelcut.bench.inputs import inputs_for
from channelcut.bench.layers.clock import Kernel, Overhead, Run, clocked
from channelcut.bench.layers.lone import RESIDUAL, empty_model, in_int8, lone_model
from channelcut.bench.layers.processor import processor
from channelcut.bench.profile import SUFFIX, WEIGHTED, profiled
from channelcut.core.errors import UserError
from channelcut.cost.kinds import Entry
from channelcut.cost.table import Target
from channelcut.engine.onnxruntime import load
from channelcut.onnx_out.files import load_onnx, save_onnx
from channelcut.onnx_out.runtime import failures, onnxruntime

_BLOCKED = "com.microsoft.nchwc"
_BORDERS = {"ReorderInput", "ReorderOutput"}
_WARM = 3
# Of what a kernel took in several runs, this share were faster: what another process interrupts is above it.
_QUANTILE = 0.1


class OnnxRuntimeClock:
    """Times lone layers and whole files with ONNX Runtime on the CPU."""

    def __init__(self, threads: int = 1, precision: str = "fp32") -> None:
        self.threads, self.precision = threads, precision
        self._overhead: Overhead | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Sessions are a process's own: a clock that is sent to another makes its own there."""
        return type(self), (self.threads, self.precision)

    def target(self) -> Target:
        """The processor and the version of the runtime."""
        return Target(processor(), "onnxruntime", str(onnxruntime().__version__), self.precision, self.threads)

    def prepared(self, entry: Entry) -> Run:
        """The layer's kernel alone; raises `UserError` where the runtime refuses it."""
        try:
            if self.precision == "int8":  # its changes of precision are kernels of their own, and no border
                return self._without_calls(self._bound(in_int8(lone_model(entry))))
            product = entry.kind.op == "Gemm"
            blocked = None if product else self._blocked(entry)
            # Without the blocked layout there are no borders.
            plain = lone_model(entry, stored=not product) if blocked is None else blocked
            run = self._bound(plain, level="all" if blocked is None else "none")
        except _failed() as problem:
            raise UserError(
                f"ONNX Runtime refuses {entry.kind} with widths {tuple(entry.widths)}: {problem}"
            ) from problem
        return self._without_calls(run)

    def _without_calls(self, run: Run) -> Run:
        if self._overhead is None:
            self._overhead = Overhead(self._bound(empty_model()))
        return self._overhead.without(run)

    def network(self, path: Path) -> Run:
        """The whole file as it is deployed."""
        inputs, _ = inputs_for(load(path), 1, seed=0)
        return self._bound(in_int8(load_onnx(path)) if self.precision == "int8" else str(path), inputs)

    def kernels(self, path: Path, runs: int) -> list[Kernel]:
        """The kernels of the file's optimised graph, each with the time that interruptions leave alone."""
        inputs, _ = inputs_for(load(path), 1, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            optimised, file = Path(folder) / "optimised.onnx", path
            if self.precision == "int8":
                file = Path(folder) / "int8.onnx"
                save_onnx(in_int8(load_onnx(path)), file)
            events = profiled(file, inputs, runs + _WARM, self._options(optimised))
            nodes = {node.name: node for node in load_onnx(optimised, weights=False).graph.node}
        return _kernels(events, nodes, load_onnx(path, weights=False))

    def _options(self, optimised: Path | None = None) -> Any:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        if self.threads > 1:  # idle threads of one session must not spin while another is timed
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        return options

    def _blocked(self, entry: Entry) -> onnx.ModelProto | None:
        """The layer between neighbours in the blocked layout; None where the runtime does not use it here."""
        plain = lone_model(replace(entry, kind=replace(entry.kind, after=_without_sum(entry))))
        blocked = _without_borders(self._optimised(plain))
        if blocked is not None and "Add" in entry.kind.after:
            _add_residual(blocked, plain)
        return blocked

    def _optimised(self, model: onnx.ModelProto) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimised.onnx"
            onnxruntime().InferenceSession(
                model.SerializeToString(), self._options(path), providers=["CPUExecutionProvider"]
            )
            return onnx.load(path)

    def _bound(self, model: onnx.ModelProto | str, inputs: Mapping[str, Any] | None = None, level: str = "all") -> Run:
        """A session with its inputs in place, and outputs where the runtime left the last ones."""
        ort = onnxruntime()
        options = self._options()
        if level == "none":
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        given = model if isinstance(model, str) else model.SerializeToString()
        session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        generator = np.random.default_rng(0)
        held = []
        for value in session.get_inputs():
            array = inputs[value.name] if inputs else generator.random(value.shape, np.float32)
            held.append(ort.OrtValue.ortvalue_from_numpy(array))
            binding.bind_ortvalue_input(value.name, held[-1])
        session.run_with_iobinding(_outputs_anywhere(session, binding))
        for value, result in zip(session.get_outputs(), binding.get_outputs(), strict=True):
            held.append(result)
            binding.bind_ortvalue_output(value.name, result)

        def work(keep: Any = held) -> None:  # noqa: ARG001  what is bound must live as long as the session
            session.run_with_iobinding(binding)

        return clocked(work, time.thread_time if self.threads == 1 else time.perf_counter)


def _outputs_anywhere(session: Any, binding: Any) -> Any:
    for value in session.get_outputs():
        binding.bind_output(value.name)
    return binding


def _failed() -> tuple[type[BaseException], ...]:
    return (*failures(), onnx.checker.ValidationError, onnx.shape_inference.InferenceError, IndexError, KeyError)


def _without_sum(entry: Entry) -> tuple[str, ...]:
    return tuple(words for words in entry.kind.after if words != "Add")


def _without_borders(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The optimised lone layer that takes and gives the blocked layout, as between its neighbours; None without one."""
    graph = model.graph
    weights = {w.name: tuple(w.dims) for w in graph.initializer}
    nodes = {kind: [node for node in graph.node if (node.op_type in _BORDERS) == kind] for kind in (True, False)}
    if not any(node.domain == _BLOCKED for node in nodes[False]):
        return None
    changed = {node.input[0]: node.output[0] for node in nodes[True] if node.op_type == "ReorderInput"}
    for value in graph.input:
        if value.name in changed:
            value.name = changed[value.name]
            reader = next(node for node in nodes[False] if value.name in node.input)
            shape = weights[reader.input[1]]
            groups = next((a.i for a in reader.attribute if a.name == "group"), 1)
            # The runtime fills channels up to its block.
            value.type.tensor_type.shape.dim[1].dim_value = shape[0] if groups > 1 else shape[1]
    for node in nodes[True]:
        if node.output[0] == graph.output[0].name:
            graph.output[0].name = node.input[0]
            graph.output[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
    del graph.node[:]
    graph.node.extend(nodes[False])
    del graph.value_info[:]
    return model


def _add_residual(blocked: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    """Let the convolution add a residual, as it does in a network where both sides are in the blocked layout."""
    graph = blocked.graph
    first = next(node for node in graph.node if node.domain == _BLOCKED)
    width = next(w.dims[0] for w in graph.initializer if w.name == first.input[1])
    extents = [int(d.dim_value) for d in plain.graph.output[0].type.tensor_type.shape.dim]
    extents[1] = int(width)
    graph.input.append(onnx.helper.make_tensor_value_info(RESIDUAL, onnx.TensorProto.FLOAT, extents))
    first.input.extend([""] * (3 - len(first.input)) + [RESIDUAL])


def _kernels(events: list[dict[str, Any]], nodes: Mapping[str, Any], file: onnx.ModelProto) -> list[Kernel]:
    """The profiler's events as kernels, named after what of the file they are made of."""
    times: dict[str, list[float]] = defaultdict(list)
    operators: dict[str, str] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(SUFFIX):
            times[name.removesuffix(SUFFIX)].append(float(event["dur"]) / 1000)
            operators[name.removesuffix(SUFFIX)] = event["args"]["op_name"]
    values = {v for node in file.graph.node for v in node.output} | {v.name for v in file.graph.input}
    written = {node.name: tuple(node.output) for node in file.graph.node}
    made = {output: node for node in nodes.values() for output in node.output}
    found = []
    for name, taken in times.items():
        # A fused node is called after the node or the value that it ends with.
        called = {name, name.removesuffix("_nchwc"), name.partition("/")[0]}
        names = frozenset(called & (values | set(written)))
        node = nodes.get(name)
        near = [v for n in names for v in written.get(n, (n,))]
        if node is not None and not near:
            near = [v for v in (*node.output, *node.input) if v in values]
        if node is not None and not near:  # between two values of the runtime's own: what is before has a name
            before = [made[i].name for i in node.input if i in made]
            near = [
                v
                for b in before
                for v in (b.removesuffix("_nchwc"), *written.get(b.partition("/")[0], ()))
                if v in values
            ]
        ms = float(np.quantile(taken[_WARM:] or taken, _QUANTILE))
        op = operators[name]
        found.append(Kernel(name, op, ms, names, tuple(near), op in WEIGHTED))
    return found
