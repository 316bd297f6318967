"""One thread, because several test runs may share a machine, and the assets where they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)

# Files with a few long tests. A worker takes a file at a time: one of these taken last leaves the others idle.
LONG = (
    "test_random_networks", "test_benchmark_engines", "test_onnx_in", "test_cli", "test_ultralytics_versions",
    "test_zoo_command", "test_bench_engines", "test_callbacks", "test_examples", "test_recover",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front; the order within a file stays."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew")
