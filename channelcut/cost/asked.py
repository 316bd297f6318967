"""A cost that a caller wrote, a bare function of widths: what it returns is looked at before it is chosen by."""

from __future__ import annotations

import inspect
import math
from numbers import Real
from typing import Any

from channelcut.core.errors import UserError
from channelcut.core.words import kind_of
from channelcut.cost.protocol import Widths

_EXPECTED = (
    "Expected a function that is called as cost(widths), with the width of every group, shape (groups,), and returns "
    "milliseconds: a finite number above 0, at least 0 where a group has no channel left."
)


class AskedCost:
    """A caller's function of widths. What else it has, such as a `step`, it has here too."""

    def __init__(self, cost: Any) -> None:
        self._cost = cost

    def __call__(self, widths: Widths) -> float:
        """The milliseconds when group g keeps widths[g] steps, shape (groups,).

        Raises:
            UserError: the function returned something else. What it raises itself comes out as it is.
        """
        found = self._cost(widths)
        if hasattr(found, "item") and getattr(found, "shape", None) == ():
            found = found.item()  # an array or a tensor of one number
        if isinstance(found, bool) or not isinstance(found, Real):
            raise UserError(f"cost returned {kind_of(found)}. {_EXPECTED}")
        ms = float(found)
        if not math.isfinite(ms) or ms < 0 or (ms == 0 and bool((widths > 0).all())):
            raise UserError(f"cost returned {ms:g} for the widths {_some(widths)}. {_EXPECTED}")
        return ms

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # before `_cost` is there, while it is copied, say
            raise AttributeError(name)
        return getattr(self._cost, name)

    def __repr__(self) -> str:
        return repr(self._cost)


def asked_cost(cost: Any) -> Any:
    """A cost that is known here as it is, and a caller's function such that what it returns is looked at.

    Raises:
        UserError: it cannot be called with the widths alone.
    """
    if cost is None or (hasattr(cost, "on") and not isinstance(cost, type)):
        return cost
    if not callable(cost) or isinstance(cost, type):
        raise UserError(f"cost is {kind_of(cost)}. {_EXPECTED} channelcut.measure gives one.")
    try:
        inspect.signature(cost).bind(None)
    except TypeError as problem:
        raise UserError(f"cost cannot be called with the widths alone ({problem}). {_EXPECTED}") from problem
    except ValueError:  # not written in Python: the first call shows
        pass
    return AskedCost(cost)


def _some(widths: Widths) -> str:
    """The first of some widths."""
    return f"[{', '.join(map(str, widths[:6].tolist()))}{', ...' if len(widths) > 6 else ''}]"
