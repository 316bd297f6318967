"""Importance: one number per channel, higher is kept."""

from channelcut.scoring.criteria import (
    DETECTORS,
    SCORES,
    WITH_IMAGES,
    WITHOUT_IMAGES,
    Importance,
    check_importance,
    check_labels,
    importance_name,
    names,
    ranks_by_gradients,
    reads_images,
    score,
    unit_of,
    without_images,
)
from channelcut.scoring.gradients import Sample
from channelcut.scoring.sampled import SAMPLED, Scored, Unit, sampled_score

__all__ = [
    "DETECTORS",
    "SAMPLED",
    "SCORES",
    "WITHOUT_IMAGES",
    "WITH_IMAGES",
    "Importance",
    "Sample",
    "Scored",
    "Unit",
    "check_importance",
    "check_labels",
    "importance_name",
    "names",
    "ranks_by_gradients",
    "reads_images",
    "sampled_score",
    "score",
    "unit_of",
    "without_images",
]
