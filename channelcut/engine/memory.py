"""The one place that touches GPU memory and streams, behind a seam that PyTorch or pycuda can fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from channelcut.core.errors import MissingExtraError
from channelcut.engine.protocol import Array


class Memory(Protocol):
    """Buffers by opaque handle, one stream. Copies and work are queued on it; `synchronize` waits for all."""

    @property
    def stream(self) -> int:
        """The CUDA stream's address."""
        ...

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        """Return a buffer for an array of that shape and NumPy dtype."""
        ...

    def address(self, buffer: Any) -> int:
        """Return the buffer's address on the device."""
        ...

    def upload(self, buffer: Any, array: Array) -> None:
        """Copy a host array into the buffer."""
        ...

    def download(self, buffer: Any) -> Array:
        """Return the buffer's content on the host; waits for the stream."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued on the stream is done."""
        ...


class TorchMemory:
    """Buffers are CUDA tensors of bytes with a shape and dtype beside them."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def stream(self) -> int:
        """The CUDA stream's address."""
        return int(self._stream.cuda_stream)

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        """Allocate a buffer; never an empty one, whose address would be null."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return self._torch.empty(max(1, size), dtype=self._torch.uint8, device="cuda"), tuple(shape), kind

    def address(self, buffer: Any) -> int:
        """Return the buffer's address on the device."""
        return int(buffer[0].data_ptr())

    def upload(self, buffer: Any, array: Array) -> None:
        """Queue a copy of the host array into the buffer."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._torch.cuda.stream(self._stream):
            buffer[0][: data.size].copy_(self._torch.from_numpy(data))

    def download(self, buffer: Any) -> Array:
        """Wait for the stream, then copy the buffer to the host."""
        self.synchronize()
        tensor, shape, dtype = buffer
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        array: Array = tensor[:size].cpu().numpy().view(dtype).reshape(shape)
        return array

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()


class PycudaMemory:
    """Buffers are pycuda allocations in the device's primary context."""

    def __init__(self) -> None:
        import pycuda.autoprimaryctx  # noqa: F401  # makes the context
        import pycuda.driver as cuda

        self._cuda = cuda
        self._stream = cuda.Stream()

    @property
    def stream(self) -> int:
        """The CUDA stream's address."""
        return int(self._stream.handle)

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        """Allocate a buffer; never an empty one, whose address would be null."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return self._cuda.mem_alloc(max(1, size)), tuple(shape), kind

    def address(self, buffer: Any) -> int:
        """Return the buffer's address on the device."""
        return int(buffer[0])

    def upload(self, buffer: Any, array: Array) -> None:
        """Queue a copy of the host array into the buffer."""
        self._cuda.memcpy_htod_async(buffer[0], np.ascontiguousarray(array), self._stream)

    def download(self, buffer: Any) -> Array:
        """Wait for the stream, then copy the buffer to the host."""
        self.synchronize()
        array: Array = np.empty(buffer[1], buffer[2])
        if array.nbytes:
            self._cuda.memcpy_dtoh(array, buffer[0])
        return array

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()


def gpu_memory() -> Memory:
    """PyTorch's where it has CUDA, else pycuda's; raises `MissingExtraError` where neither can be had."""
    import torch

    if torch.cuda.is_available():
        return TorchMemory()
    try:
        return PycudaMemory()
    except ImportError as problem:
        raise MissingExtraError("pycuda", "tensorrt", "running an engine with a PyTorch that lacks CUDA") from problem
