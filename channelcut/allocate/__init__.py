"""Allocation: how many channels each group keeps, and which."""

from channelcut.allocate.api import Budget, allocate
from channelcut.allocate.steps import admissible_widths

__all__ = ["Budget", "admissible_widths", "allocate"]
