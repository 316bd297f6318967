"""Run a TensorRT or TensorRT-RTX engine: buffers, shapes and the stream, the same for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError
from channelcut.engine.driver import cuda_problem
from channelcut.engine.layer_profile import timed_layers
from channelcut.engine.memory import Memory, gpu_memory
from channelcut.engine.protocol import DEFAULTS, Array, Arrays, EngineOptions, Stages, checked_inputs
from channelcut.engine.runtime_cache import check_validity, context_from_engine, save_runtime_cache
from channelcut.engine.tensorrt_common import Session, engine_bytes


class TensorRTRunner:
    """A deserialised engine with one execution context; not for use by several threads at once.

    `inputs`: name to (shape with None for an open extent, dtype).
    """

    def __init__(self, session: Session, engine: Any, memory: Memory, options: EngineOptions = DEFAULTS) -> None:
        self._session, self._engine, self._memory, self._graph = session, engine, memory, options.graph
        self._context, self._cache = context_from_engine(session, engine, options.runtime_cache)
        self._cache_file = options.runtime_cache
        self.peak_mib: float | None = None
        if self._context is None:
            raise UserError(f"{session.product} cannot prepare the engine to run: {session.errors}.")
        api = session.api
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.outputs = [n for n in names if engine.get_tensor_mode(n) == api.TensorIOMode.OUTPUT]
        self.inputs = {
            n: (tuple(None if e < 0 else e for e in engine.get_tensor_shape(n)), self._dtype(n))
            for n in names
            if n not in self.outputs
        }
        self._buffers: dict[str, tuple[tuple[int, ...], Any]] = {}

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """All outputs for the given inputs, copied back to the host; raises `UserError` for inputs that do not fit."""
        self.prepared(inputs)()
        return {name: self._memory.download(self._buffers[name][1]) for name in self.outputs}

    def prepared(self, inputs: Arrays) -> Callable[[], None]:
        """Return a callable that runs once on these inputs, already on the device; valid until the next inputs."""
        self._place(inputs)
        return self._compute()

    def stages(self, inputs: Arrays) -> Stages:
        """Upload, compute and download apart, each waiting for the stream; valid until the next inputs."""
        arrays = self._place(inputs)

        def upload() -> None:
            for name, array in arrays.items():
                self._memory.upload(self._buffers[name][1], array)
            self._memory.synchronize()

        def download() -> None:
            for name in self.outputs:
                self._memory.download(self._buffers[name][1])

        return Stages(upload, self._compute(), download)

    def _place(self, inputs: Arrays) -> dict[str, Array]:
        """Check the inputs, make their shapes known, find buffers for everything and upload."""
        arrays = checked_inputs(inputs, self.inputs)
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, array.shape):
                raise UserError(
                    f"Input {name!r} of shape {array.shape} is outside the engine's profile: {self._session.errors}. "
                    "Build the engine with a batch range that includes it."
                )
            self._memory.upload(self._bind(name, tuple(array.shape)), array)
        for name in self.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if any(extent < 0 for extent in shape):
                raise UserError(
                    f"Output {name!r} has a shape that depends on the input's values {shape}; expected fixed shapes. "
                    "Keep filters such as non-maximum suppression out of the exported model."
                )
            self._bind(name, shape)
        self._memory.synchronize()
        return arrays

    def _compute(self) -> Callable[[], None]:
        """What runs once and waits. A graph is recorded after one plain run, which does what only a first run does."""
        queue = self._enqueue
        if self._graph:
            queue()
            self._memory.synchronize()
            queue = self._memory.capture(self._enqueue)
            save_runtime_cache(self._cache, self._cache_file)

        def run() -> None:
            queue()
            self._memory.synchronize()

        return run

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise UserError(f"{self._session.product} failed to run the engine: {self._session.errors}.")

    def layer_times(self, inputs: Arrays, runs: int = 30) -> dict[str, float]:
        """Median milliseconds of every layer on these inputs, by the engine's names. Has not run on a GPU yet.

        The layers run one after the other then, so that their sum is more than an inference takes. Raises `UserError`
        where the library reports none.
        """
        self._place(inputs)

        def run() -> None:
            self._enqueue()
            self._memory.synchronize()

        return timed_layers(self._session.api, self._session.product, self._context, run, runs)

    def save_cache(self) -> None:
        """Write the runtime cache, if one was asked for: the next load compiles fewer kernels."""
        save_runtime_cache(self._cache, self._cache_file)

    def _bind(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return the buffer of that tensor, allocated anew when its shape changed, and known to the context."""
        if self._buffers.get(name, (None, None))[0] != shape:
            buffer = self._memory.allocate(shape, self._dtype(name))
            self._buffers[name] = (shape, buffer)
            self._context.set_tensor_address(name, self._memory.address(buffer))
        return self._buffers[name][1]

    def _dtype(self, name: str) -> Any:
        kind = self._engine.get_tensor_dtype(name)
        try:
            return self._session.api.nptype(kind)
        except TypeError as problem:
            raise UserError(
                f"Tensor {name!r} of the engine has the type {kind}, which NumPy does not have. Export with float32 or "
                "float16 inputs and outputs."
            ) from problem


def runner_from_engine(session: Session, engine: Path, options: EngineOptions = DEFAULTS) -> TensorRTRunner:
    """Deserialise and prepare; raises `UserError` for a missing GPU or an engine of another GPU or version."""
    data = engine_bytes(engine)
    check_validity(session, engine, data)
    problem = cuda_problem()
    if problem is not None:
        raise UserError(
            f"Running the engine {str(engine)!r} needs an NVIDIA GPU, and {problem}. The engine file itself can be "
            "copied to the machine that has the GPU and run there."
        )
    memory = gpu_memory(options.cuda)
    before = memory.used_mib()
    runtime = session.api.Runtime(session.logger)
    loaded = runtime.deserialize_cuda_engine(data)
    if loaded is None:
        raise UserError(
            f"{session.product} {session.api.__version__} cannot load {str(engine)!r}: {session.errors}. Expected an "
            "engine built by this version for this GPU; build it again here."
        )
    session.alive.append(runtime)
    runner = TensorRTRunner(session, loaded, memory, options)
    runner.peak_mib = max(0.0, memory.used_mib() - before)
    return runner
