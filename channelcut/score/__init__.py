"""Importance: one number per channel, higher is kept."""

from channelcut.score.api import SCORES, score

__all__ = ["SCORES", "score"]
