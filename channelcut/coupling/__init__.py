"""Coupling: graphs in, the `Groups` of channels that live and die together out."""

from channelcut.coupling.couple import couple
from channelcut.coupling.facts import CoupleOptions

__all__ = ["CoupleOptions", "couple"]
