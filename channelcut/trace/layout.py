"""Kinds of ops that a comparison of two graphs treats in a way of its own."""

from __future__ import annotations

# Which of these the dispatcher takes depends on strides.
RESHAPES = frozenset({"aten.view", "aten._unsafe_view", "aten._reshape_alias", "aten.reshape"})
COPIES = frozenset({"aten.clone", "aten.contiguous", "aten.alias"})
# Their integers are operands rather than axes or sizes.
ARITHMETIC = frozenset(f"aten.{name}" for name in "add sub mul div pow rsub remainder floor_divide fmod".split())
