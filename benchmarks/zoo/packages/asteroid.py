"""asteroid."""
from __future__ import annotations
from benchmarks.zoo.catalogue import Example
DISTRIBUTION = "asteroid"
def names() -> list[str]:
    return []
def example(name: str) -> Example:
    raise KeyError(name)
