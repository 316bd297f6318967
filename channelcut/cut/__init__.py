"""Cutting: a `Plan` applied to a copy of the module, and the on-disk form of the result."""

from channelcut.cut.apply import cut
from channelcut.cut.planning import make_plan
from channelcut.cut.storage import load_plan, restore, store

__all__ = ["cut", "load_plan", "make_plan", "restore", "store"]
