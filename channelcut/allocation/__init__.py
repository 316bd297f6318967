"""Allocation: how many channels each group keeps, and which."""

from channelcut.allocation.blocks import Candidate, blocks_to_go, emptied
from channelcut.allocation.budget import LIMITS, Allocation, Budget, absolute, allocate, least_widths
from channelcut.allocation.layers import excluded, kept_shares, select_layers
from channelcut.allocation.steps import admissible_widths

__all__ = [
    "LIMITS", "Allocation", "Budget", "Candidate", "absolute", "admissible_widths", "allocate", "blocks_to_go",
    "emptied", "excluded", "kept_shares", "least_widths", "select_layers",
]  # fmt: skip
