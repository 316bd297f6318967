"""Distillation: the original teaches its cut on unlabelled images, and the task's own loss joins in where there is one.

pool (what teaches) -> augment -> lesson (teacher, student, losses at places) -> training (steps, checkpoints).
"""

from channelcut.recovery.distil.losses import Teaching
from channelcut.recovery.distil.options import DEFAULT, RecoverOptions
from channelcut.recovery.distil.training import Course, distil

__all__ = ["DEFAULT", "Course", "RecoverOptions", "Teaching", "distil"]
