"""demucs."""
from __future__ import annotations
from benchmarks.zoo.catalogue import Example
DISTRIBUTION = "demucs"
def names() -> list[str]:
    return []
def example(name: str) -> Example:
    raise KeyError(name)
