"""PyTorch itself on the GPU: channels-last, half precision, CUDA graphs, torch.compile on request.

cuDNN picks the fastest of its algorithms by trying them, as whoever deploys with PyTorch would have it do. The device
is an argument of `TorchRunner`, so that the tests run its control flow on "cpu"; such a run says nothing about a GPU.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from channelcut.core.errors import UserError
from channelcut.engine.driver import cuda_problem, current_capability
from channelcut.engine.protocol import (
    DEFAULTS,
    Array,
    Arrays,
    BuildProgress,
    EngineOptions,
    EngineReport,
    Stages,
    checked_inputs,
)
from channelcut.onnx_out.files import copy_onnx, load_onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "torch_cuda"


class TorchRunner:
    """A module on a device. `inputs`: name to (shape, dtype), in the forward's order; `outputs`: names, else y0, y1."""

    def __init__(
        self, module: nn.Module, inputs: dict[str, tuple[tuple[int | None, ...], Any]], options: EngineOptions,
        device: str = "cuda",
    ) -> None:  # fmt: skip
        import torch

        self._torch, self._device, self._graph = torch, torch.device(device), options.graph
        self._dtype = torch.float16 if options.precision == "fp16" else torch.float32
        self.inputs = inputs
        self.outputs: list[str] = []
        self._module: Any = module.eval().to(device=self._device, dtype=self._dtype)
        self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.compiled:
            self._module = torch.compile(self._module)
        self._placed: list[Tensor] = []
        self._results: list[Tensor] = []

    @property
    def peak_mib(self) -> float | None:
        """The most GPU memory that PyTorch has held since the process started, in MiB; None on the CPU."""
        if self._device.type != "cuda":
            return None
        return float(self._torch.cuda.max_memory_allocated(self._device)) / 2**20

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """All outputs for the given inputs, in their own precision, on the host."""
        self.prepared(inputs)()
        names = self.outputs or [f"y{i}" for i in range(len(self._results))]
        return {name: value.detach().cpu().numpy() for name, value in zip(names, self._results, strict=True)}

    def prepared(self, inputs: Arrays) -> Callable[[], None]:
        """Return a callable that runs once on these inputs, already on the device, and waits."""
        arrays = checked_inputs(inputs, self.inputs)
        self._placed = [self._place(array) for array in arrays.values()]
        return self._compute()

    def stages(self, inputs: Arrays) -> Stages:
        """Copy in (from pinned memory on a GPU), compute and copy out, each waiting for the device."""
        arrays = checked_inputs(inputs, self.inputs)
        self._placed = [self._place(array) for array in arrays.values()]
        host = [self._pinned(array) for array in arrays.values()]

        def upload() -> None:
            for target, source in zip(self._placed, host, strict=True):
                target.copy_(source, non_blocking=True)
            self._wait()

        def download() -> None:
            for value in self._results:
                value.cpu()

        return Stages(upload, self._compute(), download)

    def _compute(self) -> Callable[[], None]:
        placed = self._placed

        def forward() -> None:
            with self._torch.no_grad(), tried_algorithms():
                self._results = list(_tensors(self._module(*placed)))

        forward()  # a first run compiles, and picks algorithms
        self._wait()
        queue = captured(forward) if self._graph and self._device.type == "cuda" else forward

        def run() -> None:
            queue()
            self._wait()

        return run

    def _place(self, array: Array) -> Tensor:
        tensor = self._pinned(array).to(self._device)
        if tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=self._torch.channels_last)
        return tensor

    def _pinned(self, array: Array) -> Tensor:
        tensor: Tensor = self._torch.from_numpy(np.array(array))
        if tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)


def captured(work: Callable[[], object], repeats: int = 1) -> Callable[[], None]:
    """What replays so many runs of `work` as one CUDA graph; it holds `work`, whose tensors the graph reads in place.

    PyTorch asks for a few runs on another stream before. Its own context collects garbage and gives its memory back at
    each capture, which takes longer than to time a layer.
    """
    import torch

    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        with warnings.catch_warnings():  # what only looks at memory in another way launches nothing
            warnings.filterwarnings("ignore", "The CUDA Graph is empty")
            graph.capture_begin()
            try:
                for _ in range(repeats):
                    work()
            finally:
                graph.capture_end()
    torch.cuda.current_stream().wait_stream(side)
    return partial(_replayed, graph, work)


def _replayed(graph: Any, work: object) -> None:
    del work  # held by the caller for as long as this may run
    graph.replay()


@contextmanager
def tried_algorithms() -> Iterator[None]:
    """Within it cuDNN tries its algorithms for each new shape and keeps the fastest."""
    import torch

    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def check(options: EngineOptions = DEFAULTS) -> None:
    """Refuse nothing: what runs on a GPU is built without one."""
    del options


def build(
    onnx: Path, engine: Path, options: EngineOptions = DEFAULTS, on_progress: BuildProgress | None = None
) -> EngineReport:
    """Check that the ONNX model becomes a module, and copy it: PyTorch needs no other file.

    Raises `UserError` for a file that is not ONNX, or an operator that has no PyTorch form.
    """
    import torch

    import channelcut

    del options
    start = time.perf_counter()
    if on_progress is not None:
        on_progress("importing", 0, 1)
    channelcut.from_onnx(onnx)
    size = copy_onnx(onnx, engine)
    if on_progress is not None:
        on_progress("importing", 1, 1)
    where = current_capability() or "any"
    return EngineReport(engine, NAME, where, time.perf_counter() - start, size / 2**20, str(torch.__version__))


def load(engine: Path, options: EngineOptions = DEFAULTS) -> TorchRunner:
    """Return a runner on this machine's GPU; raises `UserError` without one or with a PyTorch that lacks CUDA."""
    import torch

    problem = cuda_problem()
    if problem is None and not torch.cuda.is_available():
        problem = f"PyTorch {torch.__version__} has no CUDA, or one that this driver is too old for"
    if problem is not None:
        raise UserError(f"The backend torch-cuda needs an NVIDIA GPU, and {problem}. Take the backend onnxruntime.")
    return runner_from_onnx(engine, options)


def runner_from_onnx(path: Path, options: EngineOptions, device: str = "cuda") -> TorchRunner:
    """Import an ONNX file and put it on the device, under the file's own input names."""
    import channelcut

    model = load_onnx(path, weights=False)
    weights = {w.name for w in model.graph.initializer}
    inputs: dict[str, tuple[tuple[int | None, ...], Any]] = {}
    for value in model.graph.input:
        if value.name not in weights:
            kind = value.type.tensor_type
            shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            inputs[value.name] = (shape, _numpy_type(kind.elem_type))
    runner = TorchRunner(channelcut.from_onnx(path), inputs, options, device)
    runner.outputs = [value.name for value in model.graph.output]
    return runner


def _numpy_type(kind: int) -> Any:
    import onnx

    return onnx.helper.tensor_dtype_to_np_dtype(kind)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _tensors(part)]
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _tensors(part)]
    return [value] if hasattr(value, "detach") else []
