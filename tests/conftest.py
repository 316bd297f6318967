"""One thread, because several test runs may share a machine, and the assets where they are."""

from __future__ import annotations

import sys
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)


def _read_torchlib_once() -> None:
    """Let torch parse the sources of ONNX's functions once a process, in the place of once an export: half its time."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return  # a torch to come: each export takes longer
    read = cache(ONNXRegistry.from_torchlib)

    def again(*args: Any, **kwargs: Any) -> ONNXRegistry:
        found = copy(read(*args, **kwargs))
        found.functions = {target: list(functions) for target, functions in found.functions.items()}
        return found

    ONNXRegistry.from_torchlib = staticmethod(again)


_read_torchlib_once()

# Files with a few long tests. A worker takes a file at a time: one of these taken last leaves the others idle.
LONG = (
    "test_random_networks", "test_benchmark_engines", "test_onnx_in", "test_cli", "test_ultralytics_versions",
    "test_zoo_command", "test_bench_engines", "test_callbacks", "test_examples", "test_recover",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front; the order within a file stays. Leave out what an old PyTorch cannot do."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 12):
        for item in items:
            given = getattr(getattr(item, "callspec", None), "params", {})
            if (given.get("name"), given.get("front_end")) == ("Recurrent", "export"):
                item.add_marker(pytest.mark.skip(reason="torch.export below 2.12 gives states of LSTMs other shapes"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew")
