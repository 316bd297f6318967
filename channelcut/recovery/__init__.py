"""Recovery: what restores accuracy after a cut, cheapest first."""

from channelcut.recovery.batches import calibration_batches
from channelcut.recovery.images import Preprocessing, load_images
from channelcut.recovery.means import cut_means
from channelcut.recovery.recalibrate import recalibrate
from channelcut.recovery.rescale import check_rescale, rescale, rescales

__all__ = [
    "Preprocessing",
    "calibration_batches",
    "check_rescale",
    "cut_means",
    "load_images",
    "recalibrate",
    "rescale",
    "rescales",
]
