"""Interleaved A/B measurement and its statistics."""
