"""Where a measurement was taken: enough to compare two, nothing that names a person or a place."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from channelcut.engine.driver import cuda_problem, current_capability
from channelcut.engine.registry import backends

LIBRARIES = (
    "channelcut",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "tensorrt",
    "tensorrt_rtx",
    "cuda-bindings",
    "openvino",
)

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPUINFO = Path("/proc/cpuinfo")


def environment(threads: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Device, processor, cores, clock governor, load, versions, as JSON values; no host name, no path.

    `threads`: how many the measured code uses, if known. `device`: what it runs on, in words.
    """
    facts: dict[str, Any] = {
        "device": device,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": _usable_cores(),
        "threads": threads,
        "governor": _first_line(_GOVERNOR),
        "cpu_mhz": _cpu_mhz(),
        "load_1min": _load(),
        "gpu": gpu_model(),
        **_gpu_facts(),
        "python": platform.python_version(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "libraries": library_versions(),
    }
    return {name: value for name, value in facts.items() if value is not None}


def machine() -> dict[str, Any]:
    """The environment, why no GPU can be used (None: one can), its compute capability, and which backends import."""
    packages = {"torch_cuda": "torch"}  # the backends that are not called as the package that they need
    return {
        **environment(),
        "gpu_problem": cuda_problem(),
        "capability": current_capability(),
        "backends": {name: find_spec(packages.get(name, name)) is not None for name in backends()},
        "cuda_packages": {"bindings": _found("cuda.bindings") or _found("cuda.cudart"), "pycuda": _found("pycuda")},
    }


def _found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def cpu_model() -> str:
    """Return the processor's marketing name where the system tells it, else its architecture."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in {"model name", "hardware", "cpu model"} and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _cpu_mhz() -> list[float] | None:
    """The clock of every core at this moment, where the system tells it."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return [float(line.partition(":")[2]) for line in lines if line.lower().startswith("cpu mhz")] or None


def _gpu_facts() -> dict[str, str]:
    """Driver, clocks, power and temperature of the NVIDIA GPUs as nvidia-smi tells them; empty where it is not."""
    if shutil.which("nvidia-smi") is None:
        return {}
    fields = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,persistence_mode"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError):
        return {}
    return {"gpu_state": done.stdout.strip(), "gpu_state_fields": fields}


def gpu_model() -> str | None:
    """Return the first CUDA device's name; None unless torch is loaded and sees one (asking must not load it)."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name(0))


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that a time can depend on, read without importing them."""
    return {name: version for name in LIBRARIES if (version := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int | None:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else None


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
