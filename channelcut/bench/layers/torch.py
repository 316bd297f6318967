"""PyTorch's layers on a GPU: channels-last, fp32 or fp16, each layer captured in a CUDA graph several times over.

A single kernel of a few microseconds would be timed with the gap before it; a graph of many runs of it has no gaps, and
two events around it tell their time. Nothing is fused, so every step after a layer is a kernel of its own. On the CPU
the control flow runs, for tests; such times say nothing about a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

import channelcut
from channelcut.bench.inputs import inputs_for
from channelcut.bench.layers.clock import Kernel, Run, clocked
from channelcut.bench.layers.lone import input_shape
from channelcut.core.errors import UserError
from channelcut.cost.kinds import Entry
from channelcut.cost.table import Target
from channelcut.engine.driver import cuda_problem
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.torch_cuda import captured, runner_from_onnx, tried_algorithms

_REPEATS = 10
_CONVOLUTIONS: Mapping[tuple[str, int], type[nn.Module]] = {
    ("Conv", 1): nn.Conv1d,
    ("Conv", 2): nn.Conv2d,
    ("Conv", 3): nn.Conv3d,
    ("ConvTranspose", 1): nn.ConvTranspose1d,
    ("ConvTranspose", 2): nn.ConvTranspose2d,
    ("ConvTranspose", 3): nn.ConvTranspose3d,
}
_LAYERS = (*_CONVOLUTIONS.values(), nn.Linear)


class TorchClock:
    """Times lone layers and whole files with PyTorch. `device`: `cuda`, or `cpu` for tests."""

    def __init__(self, precision: str = "fp32", device: str = "cuda") -> None:
        problem = cuda_problem() if device == "cuda" else None
        if problem is not None or (device == "cuda" and not torch.cuda.is_available()):
            raise UserError(f"The backend torch-cuda needs an NVIDIA GPU, and {problem or 'PyTorch finds none'}.")
        self.precision, self.device = precision, torch.device(device)
        self.dtype = torch.float16 if precision == "fp16" else torch.float32

    def target(self) -> Target:
        """The GPU, and the version of PyTorch with its CUDA."""
        gpu = self.device.type == "cuda"
        device = torch.cuda.get_device_name(self.device) if gpu else "the CPU, as a stand-in"
        return Target(device, "torch_cuda", str(torch.__version__), self.precision)

    def prepared(self, entry: Entry) -> Run:
        """The layer by itself; raises `UserError` where PyTorch refuses it."""
        try:
            module, example = _lone(entry).to(self.device, self.dtype), self._drawn(input_shape(entry))
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            return self._repeated(lambda: module(example))
        except RuntimeError as problem:
            words = " ".join(str(problem).split())[:200]
            raise UserError(f"PyTorch refuses {entry.kind} with widths {tuple(entry.widths)}: {words}") from problem

    def network(self, path: Path) -> Run:
        """The whole file, through one CUDA graph."""
        options = EngineOptions(precision=self.precision, graph=True)
        runner = runner_from_onnx(path, options, self.device.type)
        inputs, _ = inputs_for(runner, 1, seed=0)
        return clocked(runner.prepared(inputs), self._clock())

    def kernels(self, path: Path, runs: int) -> list[Kernel]:
        """Every operator of the file, run by itself on what it reads in the network."""
        module = channelcut.from_onnx(path).to(self.device, self.dtype)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def least(work: Callable[[], Any]) -> float:
            return min(self._repeated(work)() for _ in range(max(2, runs // 4)))

        recorder = _Recorder(module, least)
        examples = channelcut.example_inputs_from_onnx(path)
        with torch.no_grad():
            recorder.run(*(self._placed(example) for example in examples))
        # A GPU takes some microseconds for a kernel of any size: the most of what stands between layers at batch 1.
        one = self._drawn((1,))
        launch = least(one.relu)
        return [replace(kernel, least_ms=min(launch, kernel.ms)) for kernel in recorder.found]

    def _drawn(self, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return self._placed(torch.rand(shape, generator=generator))

    def _placed(self, tensor: Tensor) -> Tensor:
        placed = tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
        return placed.contiguous(memory_format=torch.channels_last) if placed.ndim == 4 else placed

    def _clock(self) -> Callable[[], float]:
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.thread_time if alone else time.perf_counter

    def _repeated(self, work: Callable[[], Any]) -> Run:
        """Runs work many times without gaps; returns the time of one."""
        with torch.no_grad():
            work()
        if self.device.type != "cuda":
            timed = clocked(work, self._clock())

            def once() -> float:
                with torch.no_grad():
                    return timed()

            return once
        with torch.no_grad(), tried_algorithms():
            replay = captured(work, _REPEATS)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

        def run() -> float:
            begin.record()
            replay()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / _REPEATS

        return run


class _Recorder(fx.Interpreter):
    """Runs a file's module operator by operator, and times each on the values that it reads."""

    def __init__(self, module: fx.GraphModule, time_of: Callable[[Callable[[], Any]], float]) -> None:
        super().__init__(module)
        self.time_of = time_of
        self.found: list[Kernel] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator, and time it."""
        result = super().run_node(n)
        if n.op in ("call_function", "call_method", "call_module"):
            work = super().run_node
            ms = self.time_of(lambda: work(n))
            value = n.meta.get("value") or next((r.meta["value"] for r in n.users if "value" in r.meta), "")
            layer = n.op == "call_module" and isinstance(self.module.get_submodule(str(n.target)), _LAYERS)
            op = str(n.target) if n.op != "call_function" else getattr(n.target, "__name__", str(n.target))
            names = (value,) if value else ()
            self.found.append(Kernel(n.name, "layer" if layer else op, ms, frozenset(names), names, layer))
        return result


def _lone(entry: Entry) -> nn.Module:
    """The layer as a module; what PyTorch would run after it is no part of its kernel."""
    kind, (cin, cout, groups) = entry.kind, entry.widths
    if kind.op == "Gemm":
        return nn.Linear(cin, cout)
    kernel = kind.attribute("kernel_shape", ())
    axes = len(kernel)
    pads = kind.attribute("pads", (0,) * 2 * axes)
    said: dict[str, Any] = {
        "stride": kind.attribute("strides", (1,) * axes),
        "dilation": kind.attribute("dilations", (1,) * axes),
        "padding": pads[:axes],
        "groups": groups,
    }
    if pads[:axes] != pads[axes:]:
        raise UserError(f"PyTorch has no convolution with pads {pads}, which differ at both ends.")
    if kind.op == "ConvTranspose":
        said["output_padding"] = kind.attribute("output_padding", (0,) * axes)
    return _CONVOLUTIONS[kind.op, axes](cin, cout, kernel, **said)
