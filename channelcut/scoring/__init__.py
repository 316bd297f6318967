"""Importance: one number per channel, higher is kept."""

from channelcut.scoring.criteria import SCORES, score

__all__ = ["SCORES", "score"]
