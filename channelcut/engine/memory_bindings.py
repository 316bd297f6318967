"""The seam through cuda-bindings, NVIDIA's own package, which the CUDA build of torch brings. Not run on a GPU yet."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from channelcut.core.errors import UserError
from channelcut.engine.memory import Work
from channelcut.engine.protocol import Array


@dataclass
class Buffer:
    """Device memory and pinned host memory of the same size. `host`: an array of the right shape over `pinned`."""

    device: int
    pinned: int
    host: Array


class BindingsMemory:
    """Buffers in the primary context of the current device; they are freed with this object."""

    def __init__(self) -> None:
        self._cuda = _runtime()
        self._buffers: list[Buffer] = []
        self._graphs: list[Any] = []
        self._call("cudaSetDevice", 0)
        self._stream = self._call("cudaStreamCreate")

    @property
    def stream(self) -> int:
        """The CUDA stream's address."""
        return int(self._stream)

    def allocate(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """Allocate both sides; never nothing, whose address would be null."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        size = max(1, count * kind.itemsize)
        device = int(self._call("cudaMalloc", size))
        pinned = int(self._call("cudaMallocHost", size))
        raw = (ctypes.c_uint8 * size).from_address(pinned)
        host: Array = np.frombuffer(raw, kind, count).reshape(tuple(shape))
        buffer = Buffer(device, pinned, host)
        self._buffers.append(buffer)
        return buffer

    def address(self, buffer: Buffer) -> int:
        """Return the buffer's address on the device."""
        return buffer.device

    def upload(self, buffer: Buffer, array: Array) -> None:
        """Fill the pinned side, once earlier work no longer reads it, and queue its copy."""
        self.synchronize()
        buffer.host[...] = array
        self._copy(buffer.device, buffer.pinned, buffer.host.nbytes, "cudaMemcpyHostToDevice")

    def download(self, buffer: Buffer) -> Array:
        """Copy to the pinned side, wait, and return a copy that later runs leave alone."""
        self._copy(buffer.pinned, buffer.device, buffer.host.nbytes, "cudaMemcpyDeviceToHost")
        self.synchronize()
        array: Array = buffer.host.copy()
        return array

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Work) -> Work:
        """Record `work` as a graph; a failure inside ends the capture before it is raised."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(self._stream)
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._graphs += [graph, executable]

        def launch() -> None:
            self._call("cudaGraphLaunch", executable, self._stream)

        return launch

    def elapsed_ms(self, work: Work) -> float:
        """Run `work` between two events."""
        start, end = self._call("cudaEventCreate"), self._call("cudaEventCreate")
        try:
            self._call("cudaEventRecord", start, self._stream)
            work()
            self._call("cudaEventRecord", end, self._stream)
            self._call("cudaEventSynchronize", end)
            return float(self._call("cudaEventElapsedTime", start, end))
        finally:
            self._cuda.cudaEventDestroy(start)
            self._cuda.cudaEventDestroy(end)

    def used_mib(self) -> float:
        """Device memory in use by every process."""
        free, total = self._call("cudaMemGetInfo")
        return float(total - free) / 2**20

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        if size:
            self._call("cudaMemcpyAsync", target, source, size, getattr(self._cuda.cudaMemcpyKind, kind), self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the runtime: every function returns its status first. Raises `UserError` with CUDA's words."""
        status, *values = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            _, text = self._cuda.cudaGetErrorString(status)
            words = text.decode() if isinstance(text, bytes) else str(text)
            raise UserError(
                f"CUDA's {name} failed: {words} (error {int(status)}). Expected a GPU with enough free memory and a "
                "driver new enough for the installed cuda-bindings; check nvidia-smi."
            )
        return values[0] if len(values) == 1 else tuple(values)

    def __del__(self) -> None:
        for buffer in getattr(self, "_buffers", ()):
            self._cuda.cudaFree(buffer.device)
            self._cuda.cudaFreeHost(buffer.pinned)


def _runtime() -> Any:
    """The runtime's module: cuda.bindings.runtime since 12.6, cuda.cudart before."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError:
        return importlib.import_module("cuda.cudart")
