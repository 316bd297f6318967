"""Recovery: what restores accuracy after a cut, cheapest first."""

from channelcut.recovery.batches import calibration_batches
from channelcut.recovery.images import Preprocessing, load_images
from channelcut.recovery.recalibrate import recalibrate

__all__ = ["Preprocessing", "calibration_batches", "load_images", "recalibrate"]
