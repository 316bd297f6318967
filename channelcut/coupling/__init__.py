"""Coupling: graphs in, the `Groups` of channels that live and die together out."""

from channelcut.coupling.collect import CoupleOptions
from channelcut.coupling.couple import couple

__all__ = ["CoupleOptions", "couple"]
