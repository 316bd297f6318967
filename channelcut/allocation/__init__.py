"""Allocation: how many channels each group keeps, and which."""

from channelcut.allocation.budget import LIMITS, Allocation, Budget, allocate, least_widths
from channelcut.allocation.layers import excluded, kept_shares
from channelcut.allocation.steps import admissible_widths
from channelcut.allocation.whole import Whole, blocks_to_go, emptied

__all__ = [
    "LIMITS", "Allocation", "Budget", "Whole", "admissible_widths", "allocate", "blocks_to_go", "emptied",
    "excluded", "kept_shares", "least_widths",
]  # fmt: skip
