"""TensorRT's and TensorRT-RTX's layers on this machine's GPU, by the engine's own profile.

An engine names a layer after the ONNX nodes that it is made of; changes of format at a lone layer's borders have names
of their own and are left out. In fp16 every operator that ONNX defines for it is cast. The control flow is tested on a
stand-in; it has not run on a GPU yet.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from channelcut.bench.inputs import inputs_for
from channelcut.bench.layers.clock import Kernel, Run, clocked
from channelcut.bench.layers.lone import lone_model
from channelcut.bench.layers.reading import WEIGHTED
from channelcut.core.errors import UserError
from channelcut.cost.kinds import Entry
from channelcut.cost.table import Target
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.registry import require
from channelcut.onnx_out.files import load_onnx, save_onnx
from channelcut.precision.cast import cast, castable, prepared

_BORDER = "Reformatting"
_RUNS = 5  # of a lone engine, whose median is one sample
_NOTHING = '<ir_version: 8, opset_import: ["" : 17]> nothing (float[1] x) => (float[1] y) { y = Relu(x) }'


class TensorRTClock:
    """Times lone layers and whole files with TensorRT; `backend`: `tensorrt` or `tensorrt_rtx`."""

    def __init__(self, backend: str, precision: str = "fp32", options: EngineOptions | None = None) -> None:
        self.backend: Any = require(backend)
        self.precision, self.options = precision, options or EngineOptions()

    def target(self) -> Target:
        """The GPU and the version of the library; raises `UserError` without a GPU."""
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"{self.backend.PRODUCT} runs on an NVIDIA GPU, and PyTorch finds none here.")
        version = str(self.backend._api().__version__)
        return Target(torch.cuda.get_device_name(0), self.backend.NAME, version, self.precision)

    def prepared(self, entry: Entry) -> Run:
        """The layer's engine; raises `UserError` where TensorRT builds none."""
        model = lone_model(entry)
        runner, own = self._runner(model, graph=False), {node.name for node in model.graph.node}
        inputs, _ = inputs_for(runner, 1, seed=0)

        def run() -> float:
            times = runner.layer_times(inputs, _RUNS)
            return float(sum(ms for name, ms in times.items() if _parts(name, own)))

        return run

    def network(self, path: Path) -> Run:
        """The whole file as an engine, through a CUDA graph."""
        runner = self._runner(load_onnx(path), graph=True)
        inputs, _ = inputs_for(runner, 1, seed=0)
        return clocked(runner.prepared(inputs))

    def kernels(self, path: Path, runs: int) -> list[Kernel]:
        """The layers of the file's engine, each at least as long as one with next to nothing to do."""
        model, nothing = load_onnx(path), onnx.parser.parse_model(_NOTHING)
        (found, launch) = (self._layer_times(each, runs) for each in (model, nothing))
        least = min((ms for name, ms in launch.items() if not name.startswith(_BORDER)), default=0.0)
        return [replace(kernel, least_ms=min(least, kernel.ms)) for kernel in kernels_of(found, model)]

    def _layer_times(self, model: onnx.ModelProto, runs: int) -> dict[str, float]:
        """What the engine of a model says of its layers."""
        runner = self._runner(model, graph=False)
        inputs, _ = inputs_for(runner, 1, seed=0)
        times: dict[str, float] = runner.layer_times(inputs, runs)
        return times

    def _runner(self, model: onnx.ModelProto, *, graph: bool) -> Any:
        if self.precision != "fp32":
            ready = prepared(model, self.precision)
            model = cast(ready, self.precision, castable(ready, self.precision))
        with tempfile.TemporaryDirectory() as folder:
            source, engine = Path(folder) / "model.onnx", Path(folder) / "model.engine"
            save_onnx(model, source)
            options = replace(self.options, graph=graph)
            self.backend.build(source, engine, options)
            return self.backend.load(engine, options)


def kernels_of(times: dict[str, float], model: onnx.ModelProto) -> list[Kernel]:
    """The layers of an engine by their names, as kernels of the file that it was built from."""
    nodes = {node.name: node for node in model.graph.node}
    found = []
    for name, ms in times.items():
        made = [nodes[part] for part in _parts(name, nodes)]
        values = tuple(value for node in made for value in node.output)
        weighted = any(node.op_type in WEIGHTED for node in made)
        op = next((node.op_type for node in made), name.partition(" ")[0])
        found.append(Kernel(name, op, ms, frozenset({*(n.name for n in made), *values}), values, weighted))
    return found


def _parts(name: str, nodes: Iterable[str]) -> list[str]:
    """Which nodes a layer's name is made of: `conv + PWN(PWN(sigmoid), mul)`; none of a change of format."""
    words = set(re.findall(r"[^\s+(),]+", name))
    return [] if name.startswith(_BORDER) else [node for node in nodes if node in words]
