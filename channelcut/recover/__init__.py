"""Recovery: what restores accuracy after a cut, cheapest first."""

from channelcut.recover.images import Preprocessing, load_images
from channelcut.recover.recalibrate import recalibrate

__all__ = ["Preprocessing", "load_images", "recalibrate"]
