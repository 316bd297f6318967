"""The seam through pycuda, which compiles against a CUDA toolkit when it is installed. Not run on a GPU yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from channelcut.core.errors import UserError
from channelcut.engine.memory import Work
from channelcut.engine.protocol import Array


@dataclass
class Buffer:
    """pycuda's device allocation, and a pinned array of the same shape."""

    device: Any
    host: Array


class PycudaMemory:
    """Buffers in the device's primary context; pycuda frees them when they are no longer referred to."""

    def __init__(self) -> None:
        import pycuda.autoprimaryctx  # noqa: F401  # makes the context
        import pycuda.driver as cuda

        self._cuda = cuda
        self._stream = cuda.Stream()

    @property
    def stream(self) -> int:
        """The CUDA stream's address."""
        return int(self._stream.handle)

    def allocate(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """Allocate both sides; never nothing, whose address would be null."""
        host: Array = self._cuda.pagelocked_empty(tuple(shape), np.dtype(dtype))
        return Buffer(self._cuda.mem_alloc(max(1, host.nbytes)), host)

    def address(self, buffer: Buffer) -> int:
        """Return the buffer's address on the device."""
        return int(buffer.device)

    def upload(self, buffer: Buffer, array: Array) -> None:
        """Fill the pinned side, once earlier work no longer reads it, and queue its copy."""
        self.synchronize()
        buffer.host[...] = array
        if buffer.host.nbytes:
            self._cuda.memcpy_htod_async(buffer.device, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> Array:
        """Copy to the pinned side, wait, and return a copy that later runs leave alone."""
        if buffer.host.nbytes:
            self._cuda.memcpy_dtoh_async(buffer.host, buffer.device, self._stream)
        self.synchronize()
        array: Array = buffer.host.copy()
        return array

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def capture(self, work: Work) -> Work:
        """Record `work` as a graph; raises `UserError` where this pycuda has no graphs."""
        if not hasattr(self._stream, "begin_capture"):
            raise UserError(
                "The installed pycuda has no CUDA graphs. Run without them, or with --cuda bindings (pip install "
                "cuda-bindings)."
            )
        self._stream.begin_capture()
        try:
            work()
        except BaseException:
            self._stream.end_capture()
            raise
        executable = self._stream.end_capture().instantiate()

        def launch() -> None:
            executable.launch(self._stream)

        return launch

    def elapsed_ms(self, work: Work) -> float:
        """Run `work` between two events."""
        start, end = self._cuda.Event(), self._cuda.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return float(end.time_since(start))

    def used_mib(self) -> float:
        """Device memory in use by every process."""
        free, total = self._cuda.mem_get_info()
        return float(total - free) / 2**20
