"""The seam to the GPU: device memory, pinned host memory, one stream, events and graphs, filled by two packages.

Both implementations follow their package's documented API and have not run on a GPU yet; the tests exercise their
control flow on stand-ins, and cuda-bindings' refusal on a machine without a driver for real.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from channelcut.core.errors import UserError
from channelcut.engine.driver import cuda_problem
from channelcut.engine.protocol import CUDA_PACKAGES, Array

Work = Callable[[], None]


class Memory(Protocol):
    """Buffers by opaque handle, one stream. Copies and work are queued on it; `synchronize` waits for all."""

    @property
    def stream(self) -> int:
        """The CUDA stream's address."""
        ...

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        """Return a buffer for an array of that shape and NumPy dtype: on the device, with pinned memory beside it."""
        ...

    def address(self, buffer: Any) -> int:
        """Return the buffer's address on the device."""
        ...

    def upload(self, buffer: Any, array: Array) -> None:
        """Copy a host array into pinned memory and queue its copy to the device; waits for work queued before."""
        ...

    def download(self, buffer: Any) -> Array:
        """Return the buffer's content on the host, as an array of its own; waits for the stream."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued on the stream is done."""
        ...

    def capture(self, work: Work) -> Work:
        """Record what `work` queues as a CUDA graph, without running it; return what queues the graph."""
        ...

    def elapsed_ms(self, work: Work) -> float:
        """Run `work` between two events and return the milliseconds between them, on the device's clock."""
        ...

    def used_mib(self) -> float:
        """Return the device memory that is in use, by every process, in MiB."""
        ...


def gpu_memory(package: str | None = None) -> Memory:
    """Memory of the named package ("bindings" or "pycuda"), else of the first that imports.

    Raises `UserError` without a driver or GPU, and when the package is absent, with the pip command.
    """
    if package is not None and package not in CUDA_PACKAGES:
        raise UserError(f"There is no CUDA package called {package!r}; known: {', '.join(CUDA_PACKAGES)}.")
    problem = cuda_problem()
    if problem is not None:
        raise UserError(f"Running on a GPU needs one, and {problem}.")
    reasons = []
    for name in (package,) if package is not None else CUDA_PACKAGES:
        module, make = {
            "bindings": ("channelcut.engine.memory_bindings", "BindingsMemory"),
            "pycuda": ("channelcut.engine.memory_pycuda", "PycudaMemory"),
        }[name]
        try:
            memory: Memory = getattr(importlib.import_module(module), make)()
            return memory
        except ImportError as absent:
            reasons.append(f"{name}: {absent}")
    raise UserError(
        f"Running a TensorRT engine needs a Python package for CUDA, and none loads ({'; '.join(reasons)}). Run: "
        "pip install cuda-bindings (wheels, any driver of its CUDA version), or pip install pycuda (compiled here, "
        "needs a CUDA toolkit)."
    )
