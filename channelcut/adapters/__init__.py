"""What channelcut knows of the libraries that networks come from, behind one protocol: see `base.Adapter`."""

from channelcut.adapters.base import Adapter
from channelcut.adapters.registry import (
    adapter_of,
    calibration_of,
    deployed_form,
    deployed_groups,
    images_for_file,
    images_of,
    preprocessing_of,
    teaching_of,
    weighing_of,
)

__all__ = [
    "Adapter",
    "adapter_of",
    "calibration_of",
    "deployed_form",
    "deployed_groups",
    "images_for_file",
    "images_of",
    "preprocessing_of",
    "teaching_of",
    "weighing_of",
]
