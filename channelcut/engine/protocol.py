"""What every inference backend offers: an engine from ONNX, a runner from an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from channelcut.core.errors import UserError

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]
CUDA_PACKAGES = ("bindings", "pycuda")
COMPATIBILITY = ("ampere_plus", "same_compute_capability")
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

BuildProgress = Callable[[str, int, int], None]
"""Called as on_progress(phase, done, total), perhaps from another thread than the build's caller."""


@dataclass(frozen=True)
class EngineOptions:
    """How to build and load an engine.

    `capability`: the CUDA compute capability to build for, "sm89"; several, comma-separated, where the backend allows;
    None: this machine's GPU. `batch`: least, best and greatest batch of an ONNX model with a dynamic one.
    `workspace_mib`, `optimization_level` (0 to 5): None leaves the library's default. `timing_cache`: a file that makes
    the next build faster. `version_compatible`: later versions of the library may run the engine. `threads`: for CPU
    backends. `resolution`: least, best and greatest (height, width) of an image input with open extents.
    `hardware_compatible`: one of `COMPATIBILITY`, for TensorRT engines that other GPUs may run. `layers`: where to
    write what the engine's layers are, as JSON. `runtime_cache`: a file of TensorRT-RTX's compiled kernels, read and
    updated when an engine runs. `cuda`: one of `CUDA_PACKAGES`; None: whichever imports. `graph`: run through a CUDA
    graph. `provider`: ONNX Runtime's, "cpu", "cuda" or "tensorrt". `precision`, `compiled`: for torch-cuda, "fp32" or
    "fp16", and whether to go through torch.compile.
    """

    capability: str | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    batch: tuple[int, int, int] = (1, 1, 8)
    timing_cache: Path | None = None
    version_compatible: bool = False
    threads: int = 1
    resolution: Sizes | None = None
    hardware_compatible: str | None = None
    layers: Path | None = None
    runtime_cache: Path | None = None
    cuda: str | None = None
    graph: bool = False
    provider: str = "cpu"
    precision: str = "fp32"
    compiled: bool = False

    def __post_init__(self) -> None:
        least, best, greatest = self.batch
        if not 1 <= least <= best <= greatest:
            raise UserError(
                f"The engine's batch range {self.batch} is not (least, best, greatest) with 1 <= each <= next."
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UserError(f"The optimisation level is {self.optimization_level}; expected 0 (fast build) to 5.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UserError(f"The workspace limit is {self.workspace_mib} MiB; expected at least 1.")
        if self.resolution is not None and not all(
            1 <= low <= best <= high for low, best, high in zip(*self.resolution, strict=True)
        ):
            raise UserError(
                f"The engine's resolutions {self.resolution} are not (least, best, greatest) pairs of height and width "
                "with 1 <= each <= next."
            )
        for what, value, known in (
            ("hardware compatibility", self.hardware_compatible, COMPATIBILITY),
            ("CUDA package", self.cuda, CUDA_PACKAGES),
            ("precision of torch-cuda", self.precision, ("fp32", "fp16")),
        ):
            if value is not None and value not in known:
                raise UserError(f"The {what} is {value!r}; expected one of {', '.join(known)}.")
        if self.threads < 1:
            raise UserError(f"The number of threads is {self.threads}; expected at least 1.")

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The named compute capabilities, in order and without repeats; empty for this machine's GPU."""
        names = (c.strip().lower() for c in (self.capability or "").split(","))
        return tuple(dict.fromkeys(name for name in names if name))


DEFAULTS = EngineOptions()


@dataclass(frozen=True)
class EngineReport:
    """An engine that was written. `version` is the library's; `batch` is None where the ONNX model fixes it."""

    path: Path
    backend: str
    capability: str
    build_s: float
    size_mib: float
    version: str
    batch: tuple[int, int, int] | None = None
    warnings: tuple[str, ...] = ()


class Runner(Protocol):
    """A loaded engine. Inputs and outputs are NumPy arrays by name, on the host."""

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """All outputs for the given inputs."""
        ...

    def prepared(self, inputs: Arrays) -> Callable[[], None]:
        """Return a callable that computes on these inputs, already where they are needed, and returns when it is done.

        This is what to time: copies between host and device are not in it.
        """
        ...


@dataclass(frozen=True)
class Stages:
    """The three parts of one inference, each of which returns when it is done: to the device, on it, and back."""

    upload: Callable[[], None]
    compute: Callable[[], None]
    download: Callable[[], None]


class Backend(Protocol):
    """A module of this package. `check` says what is missing, `build` writes an engine file, `load` makes it run."""

    NAME: str

    def check(self, options: EngineOptions = ...) -> None:
        """Raise what `build` would refuse whatever the model: a library, a GPU or a capability that is not there."""
        ...

    def build(
        self, onnx: Path, engine: Path, options: EngineOptions = ..., on_progress: BuildProgress | None = ...
    ) -> EngineReport:
        """Write `engine` from `onnx`."""
        ...

    def load(self, engine: Path, options: EngineOptions = ...) -> Runner:
        """Return a runner for the engine file."""
        ...


def refuse_capabilities(backend: str, options: EngineOptions) -> None:
    """Of a back end that runs on the CPU: raises `UserError` where an engine for a GPU is asked for."""
    if options.capabilities:
        raise UserError(
            f"The {backend} backend runs on the CPU and cannot build for {options.capability!r}. Leave the capability "
            "out, or take the backend tensorrt_rtx or tensorrt."
        )


def checked_inputs(inputs: Arrays, expected: Mapping[str, tuple[tuple[int | None, ...], Any]]) -> dict[str, Array]:
    """Return the inputs as contiguous arrays; raises `UserError` where they differ from `expected`.

    `expected`: by name, the shape (None for an open extent) and the NumPy dtype. Names, axes, extents and dtypes
    must all agree.
    """
    if set(inputs) != set(expected):
        raise UserError(f"The engine's inputs are {sorted(expected)}; got {sorted(inputs)}. Pass one array for each.")
    checked: dict[str, Array] = {}
    for name, (shape, dtype) in expected.items():
        array = np.ascontiguousarray(inputs[name])
        fits = array.ndim == len(shape) and all(w is None or w == g for w, g in zip(shape, array.shape, strict=True))
        if not fits or array.dtype != np.dtype(dtype):
            wanted = "×".join("?" if extent is None else str(extent) for extent in shape)
            raise UserError(
                f"Input {name!r} has shape {array.shape} and type {array.dtype}; the engine expects {wanted} and "
                f"{np.dtype(dtype)}."
            )
        checked[name] = array
    return checked
