"""`channelcut env`: what this machine can build and run with. The docker images' health command."""

from __future__ import annotations

import json
from argparse import Namespace
from importlib.util import find_spec
from typing import Any


def facts() -> dict[str, Any]:
    """The environment of a measurement, why no GPU can be used (null: one can), and which backends import."""
    from channelcut.bench.environment import environment
    from channelcut.engine.driver import cuda_problem, current_capability
    from channelcut.engine.registry import backends

    packages = {"torch_cuda": "torch"}
    return {
        **environment(),
        "gpu_problem": cuda_problem(),
        "capability": current_capability(),
        "backends": {name: find_spec(packages.get(name, name)) is not None for name in backends()},
        "cuda_packages": {"bindings": _found("cuda.bindings") or _found("cuda.cudart"), "pycuda": _found("pycuda")},
    }


def env(flags: Namespace) -> int:
    """`channelcut env`: always JSON."""
    del flags
    print(json.dumps(facts(), indent=1))  # noqa: T201
    return 0


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
