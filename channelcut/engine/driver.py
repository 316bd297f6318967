"""What the CUDA driver says about this machine, asked directly: that none is there is learnt without CUDA packages."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NO_DEVICE = 100


def cuda_problem() -> str | None:
    """Why nothing can run on a GPU here, in words; None when a driver and a GPU are there."""
    driver = _driver()
    if driver is None:
        return "no NVIDIA driver is installed (its library libcuda is not found)"
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return "the NVIDIA driver finds no GPU (in a container: was it started with GPUs?)"
    if status != 0:
        return f"the NVIDIA driver does not start (cuInit returned {status})"
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "the NVIDIA driver finds no GPU (check CUDA_VISIBLE_DEVICES)"
    return None


def current_capability() -> str | None:
    """Return the first GPU's compute capability, "sm89"; None without one."""
    driver = _driver()
    if driver is None or cuda_problem() is not None:
        return None
    device = ctypes.c_int(0)
    values = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int(0)
        if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetAttribute(
            ctypes.byref(value), attribute, device
        ):
            return None
        values.append(value.value)
    return f"sm{values[0]}{values[1]}"


def _driver() -> ctypes.CDLL | None:
    for name in ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None
