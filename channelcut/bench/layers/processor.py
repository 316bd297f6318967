"""Which processor this is, as far as the times of kernels depend on it."""

from __future__ import annotations

from pathlib import Path

from channelcut.bench.environment import cpu_model

_CPUINFO = Path("/proc/cpuinfo")
_WIDTHS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("sve", "SVE"), ("asimd", "NEON"))


def processor() -> str:
    """The processor's name with the vector instructions that decide its kernels, such as `AMD EPYC (AVX2)`."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return cpu_model()
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    found = next((name for flag, name in _WIDTHS if f" {flag}" in flags), "")
    return f"{cpu_model()} ({found})" if found else cpu_model()
