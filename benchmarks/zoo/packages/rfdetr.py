"""rfdetr."""
from __future__ import annotations
from benchmarks.zoo.catalogue import Example
DISTRIBUTION = "rfdetr"
def names() -> list[str]:
    return []
def example(name: str) -> Example:
    raise KeyError(name)
