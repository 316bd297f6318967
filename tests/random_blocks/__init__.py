"""The blocks that random networks are made of, by family. Importing this package fills the tables."""

from __future__ import annotations

from random_blocks import attention, convolutions, heads, joining, mixing, movement, sequences
from random_blocks.base import BLOCKS, HEADS, Kind, Options, Shape

__all__ = [
    "BLOCKS",
    "HEADS",
    "Kind",
    "Options",
    "Shape",
    "attention",
    "convolutions",
    "heads",
    "joining",
    "mixing",
    "movement",
    "sequences",
]
