"""Importance: one number per channel, higher is kept."""

from channelcut.scoring.criteria import SCORES, Importance, check_importance, importance_name, score

__all__ = ["SCORES", "Importance", "check_importance", "importance_name", "score"]
