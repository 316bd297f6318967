"""How numbers are written, in plain ASCII."""

from __future__ import annotations

import math

UNKNOWN = "not known"

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """A whole number with thousands apart: 2,572,280."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def scaled(value: float | None) -> str:
    """Three digits and a decimal prefix: 3.04 G."""
    if value is None:
        return UNKNOWN
    for size, prefix in _PREFIXES:
        # 999.95 would be written as 1000 of the smaller prefix
        if abs(value) >= 0.9995 * size:
            return f"{significant(value / size)} {prefix}"
    return significant(value)


def significant(value: float | None, digits: int = 3) -> str:
    """That many digits: 24.4, 0.00123, 1e-14."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    # Rounded first: 9.996 has the places of 10.0, not those of 9.99.
    places = digits - 1 - math.floor(math.log10(float(f"{abs(value):.{digits - 1}e}")))
    return f"{value:.{max(0, places)}f}"


def unit(value: float | None, name: str) -> str:
    """Three digits and a unit: 41.2 ms."""
    return UNKNOWN if value is None else f"{significant(value)} {name}"


def change(before: float | None, after: float | None) -> str:
    """The change in per cent of what was before: -40.7 %; empty where it has no meaning."""
    if before is None or after is None or before == 0:
        return ""
    percent = 100 * (after / before - 1)
    return "0 %" if percent == 0 else f"{percent:+.1f} %"


def comparison(before: float | None, after: float | None, noun: str) -> str:
    """The change in words: `40.7 % fewer parameters`; empty where it has no meaning."""
    if before is None or after is None or before == 0:
        return ""
    percent = 100 * (after / before - 1)
    if percent == 0:
        return f"as many {noun} as before"
    return f"{abs(percent):.1f} % {'fewer' if percent < 0 else 'more'} {noun}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """The number and its noun: 1 place, 6 places."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
