"""Cutting: a `Plan` applied to a copy of the module, and the on-disk form of the result."""

from channelcut.cutting.apply import cut
from channelcut.cutting.by_hand import PlanContext
from channelcut.cutting.compose import compose
from channelcut.cutting.halfway import Halfway, carried
from channelcut.cutting.planning import make_plan
from channelcut.cutting.storage import load_plan, restore, store

__all__ = ["Halfway", "PlanContext", "carried", "compose", "cut", "load_plan", "make_plan", "restore", "store"]
