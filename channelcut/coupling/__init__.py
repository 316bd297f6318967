"""Coupling: a `Graph` in, the `Groups` of channels that live and die together out."""

from channelcut.coupling.couple import CoupleOptions, Coupling, couple

__all__ = ["CoupleOptions", "Coupling", "couple"]
