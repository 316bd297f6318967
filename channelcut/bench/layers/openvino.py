"""OpenVINO's layers on the CPU.

Its compiled model names, for every kernel, the nodes of the file that were fused into it. A lone layer still changes
layouts at its borders; what these changes took at their quickest is taken off the time of the whole run, which with one
thread is processor time of the process.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from channelcut.bench.inputs import inputs_for
from channelcut.bench.layers.clock import Kernel, Overhead, Run, clocked
from channelcut.bench.layers.lone import INPUT, empty_model, in_int8, lone_model
from channelcut.bench.layers.processor import processor
from channelcut.core.errors import UserError
from channelcut.cost.kinds import Entry
from channelcut.cost.table import Target
from channelcut.engine.openvino import load, openvino_module
from channelcut.engine.protocol import EngineOptions
from channelcut.onnx_out.files import load_onnx, save_onnx

_BORDER = "Reorder"
_LAYERS = {
    "Convolution", "Deconvolution", "FullyConnected", "FullyConnectedQuantizedLegacy", "FullyConnectedQuantized",
    "MatMul",
}  # fmt: skip
_QUANTILE = 0.1  # of a kernel's times: what another process interrupts is above it
_WARM = 3
_FIRST = 6  # runs whose profile tells what borders take: of more, its rounding to microseconds shows


class OpenVINOClock:
    """Times lone layers and whole files with OpenVINO on the CPU."""

    def __init__(self, threads: int = 1, precision: str = "fp32") -> None:
        self.threads, self.precision, self.api = threads, precision, openvino_module()
        self._overhead: Overhead | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Sessions are a process's own: a clock that is sent to another makes its own there."""
        return type(self), (self.threads, self.precision)

    def target(self) -> Target:
        """The processor and the version of OpenVINO."""
        version = str(self.api.__version__).partition("-")[0]
        return Target(processor(), "openvino", version, self.precision, self.threads)

    def prepared(self, entry: Entry) -> Run:
        """The layer without its borders; raises `UserError` where OpenVINO refuses it."""
        try:
            lone = lone_model(entry)
            run, layer = self._bound(in_int8(lone) if self.precision == "int8" else lone)
        except RuntimeError as problem:
            words = " ".join(str(problem).split())[:200]
            raise UserError(f"OpenVINO refuses {entry.kind} with widths {tuple(entry.widths)}: {words}") from problem
        if self._overhead is None:
            self._overhead = Overhead(self._bound(empty_model())[0])
        whole = self._overhead.without(run)
        return lambda: whole() * layer

    def _bound(self, model: onnx.ModelProto) -> tuple[Run, float]:
        """A request with its inputs in place, and the share of its time that is not changes of layout."""
        compiled = self._compiled(self.api.Core().read_model(model.SerializeToString(), b""))
        request = compiled.create_infer_request()
        generator = np.random.default_rng(0)
        for port in request.model_inputs:
            request.set_tensor(port, self.api.Tensor(generator.random(tuple(port.shape), np.float32)))
        return clocked(request.infer, self._clock()), self._share(request)

    def _share(self, request: Any) -> float:
        """The share of a run in which no layout is changed, nor a lone layer's precision; of kernels at their quickest.

        The profile tells the mean over all runs since the request was made: one that was interrupted would stay in it.
        It is of wall time, which where other work runs is longer than processor time: a share is of both.
        """
        sums: dict[tuple[str, bool], list[float]] = defaultdict(list)
        for number in range(1, _FIRST + 1):
            request.infer()
            for kernel in request.get_profiling_info():
                border = kernel.node_type == _BORDER or kernel.node_name.startswith(f"{INPUT}.Q")
                sums[kernel.node_name, border].append(number * kernel.real_time.total_seconds() * 1000)
        quickest = {place: max(float(np.diff(found).min()), 0.0) for place, found in sums.items() if len(found) > 1}
        whole = sum(quickest.values())
        return 1 - sum(ms for (_, border), ms in quickest.items() if border) / whole if whole > 0 else 1.0

    def network(self, path: Path) -> Run:
        """The whole file as it is deployed."""
        with self._file(path) as file:
            runner = load(file, EngineOptions(threads=self.threads))
        inputs, _ = inputs_for(runner, 1, seed=0)
        return clocked(runner.prepared(inputs), self._clock())

    @contextmanager
    def _file(self, path: Path) -> Iterator[Path]:
        """The file in the precision that is timed."""
        if self.precision != "int8":
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.onnx"
            save_onnx(in_int8(load_onnx(path)), file)
            yield file

    def kernels(self, path: Path, runs: int) -> list[Kernel]:
        """The kernels of the compiled file, each with the time that interruptions leave alone."""
        with self._file(path) as file:
            compiled = self._compiled(self.api.Core().read_model(file))
        request = compiled.create_infer_request()
        inputs, _ = inputs_for(load(path), 1, seed=0)
        times: dict[str, list[float]] = defaultdict(list)
        for number in range(runs + _WARM):
            request.infer(dict(inputs))
            for kernel in request.get_profiling_info() if number >= _WARM else ():
                if kernel.status == kernel.Status.EXECUTED:
                    times[kernel.node_name].append(kernel.real_time.total_seconds() * 1000)
        graph = load_onnx(path, weights=False).graph
        written = {node.name: tuple(node.output) for node in graph.node} | {v.name: (v.name,) for v in graph.input}
        return _kernels(compiled.get_runtime_model(), times, written)

    def _compiled(self, model: Any) -> Any:
        config = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        return self.api.Core().compile_model(model, "CPU", {**config, "PERF_COUNT": True})

    def _clock(self) -> Callable[[], float]:
        # OpenVINO computes in the calling thread or in one of its own, as it likes.
        return time.process_time if self.threads == 1 else time.perf_counter


def _kernels(graph: Any, times: Mapping[str, list[float]], written: Mapping[str, tuple[str, ...]]) -> list[Kernel]:
    """The kernels of a compiled model's own graph, which says what each is made of."""
    found = []
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        if name not in times:
            continue
        made = _made_of(node, written)
        near = made
        for port in node.inputs() if not made else ():  # a change of layout is no node of the file
            near = near or _made_of(port.get_source_output().get_node(), written)
        op = str(node.get_rt_info()["layerType"].value)
        values = tuple(value for part in near for value in written[part])
        names = frozenset({*made, *(value for part in made for value in written[part])})
        ms = float(np.quantile(times[name], _QUANTILE))
        found.append(Kernel(name, op, ms, names, values, op in _LAYERS))
    return found


def _made_of(node: Any, written: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The nodes of the file that a node of the compiled model is made of."""
    said = str(node.get_rt_info()["originalLayersNames"].value)
    # OpenVINO adds words of its own to some names.
    names = (part.partition("/WithoutBiases")[0] for part in said.split(","))
    return [name for name in names if name in written]
