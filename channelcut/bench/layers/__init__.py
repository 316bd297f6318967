"""Layers of a deployed file, timed one by one at the widths that a cut may leave them."""
