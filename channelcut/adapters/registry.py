"""Which adapter a network belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut.adapters.base import Adapter
from channelcut.adapters.timm import Timm
from channelcut.adapters.torchvision import Torchvision
from channelcut.adapters.ultralytics.adapter import Ultralytics
from channelcut.adapters.ultralytics.data import calibration_images, is_data_set
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.detections import Detections, weighing
from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.core.sensitivity import Weighing
from channelcut.cost import deployed_costs
from channelcut.recovery.distil.detecting import DetectionsLoss
from channelcut.recovery.distil.losses import Teaching
from channelcut.recovery.images import Preprocessing, Read, check_preprocessing, load_images

# The first that owns a network has it.
_ADAPTERS: tuple[Adapter, ...] = (Ultralytics(), Torchvision(), Timm(), Adapter())


def adapter_of(model: nn.Module) -> Adapter:
    """The adapter of the library that a network comes from; the plain one where none knows it."""
    return next(adapter for adapter in _ADAPTERS if adapter.owns(model))


def deployed_form(model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
    """What of a network runs in production, see `Adapter.deployed`."""
    return adapter_of(model).deployed(model, inputs, deploy, dynamic=dynamic)


def deployed_groups(model: nn.Module, groups: Groups, deploy: Deploy) -> Groups:
    """The groups of a network with the work of its deployed form alone, see `cost.deployed_costs`."""
    return deployed_costs(model, groups, deploy, adapter_of(model).undeployed(model, deploy))


def weighing_of(model: nn.Module, deploy: Deploy, detections: Detections | None = None) -> Weighing:
    """What of the outputs counts: what `detections` reads in them, else see `Adapter.weighing`."""
    return adapter_of(model).weighing(model, deploy) if detections is None else weighing(detections)


def teaching_of(model: nn.Module, detections: Detections | None = None) -> Teaching:
    """What helps to teach a cut: the loss of what `detections` reads in the outputs, else see `Adapter.teaching`."""
    known = adapter_of(model).teaching(model)
    return known if detections is None else replace(known, output=DetectionsLoss(detections), dense=True)


def images_of(
    model: nn.Module,
    data: str | Path,
    shape: tuple[int, ...],
    preprocessing: Preprocessing | None = None,
    limit: int = 256,
) -> tuple[Tensor, list[str]]:
    """Images for a network, from a folder of them or from a data set of its library's, see `Adapter.images`.

    Args:
        model: the network that takes them.
        data: a folder, or such a data set.
        shape: (channels, height, width) of its input.
        preprocessing: how images of a folder become inputs; by default as the library of the network says.
        limit: the most images to read.

    Returns:
        The images, and the names of those that could not be read.

    Raises:
        UserError: there are none, or they do not fit.
    """
    channels, height, width = shape
    adapter = adapter_of(model)
    if adapter.is_data_set(model, data):
        return adapter.images(model, data, (channels, height, width), preprocessing, limit)
    if Path(data).suffix.lower() in (".yaml", ".yml") and not Path(data).is_dir():
        raise UserError(
            f"{data} looks like a data set of Ultralytics, and {type(model).__name__} is no network of theirs. Give a "
            "folder of images."
        )
    return load_images(Path(data), (channels, height, width), preprocessing_of(model, preprocessing), limit)


def images_for_file(
    metadata: Mapping[str, str],
    data: str | Path,
    shape: tuple[int, int, int],
    preprocessing: Preprocessing | None = None,
    limit: int = 256,
) -> tuple[Tensor, list[str]]:
    """Images for an ONNX file, from a folder of them or from a data set of the library that its metadata name.

    Args:
        metadata: what the file says of itself.
        data: a folder, or such a data set.
        shape: (channels, height, width) of its input.
        preprocessing: how images of a folder become inputs.
        limit: the most images to read.

    Returns:
        The images, and the names of those that could not be read.

    Raises:
        UserError: there are none, or they do not fit.
    """
    task = metadata.get("task", "")
    if task and is_data_set(data, task):
        return calibration_images(data, task, shape, preprocessing, limit)
    if is_data_set(data, ""):
        raise UserError(
            f"{data} looks like a data set of Ultralytics, and the ONNX file does not say that it is of a network of "
            "theirs (it has no `task` in its metadata). Give a folder of images."
        )
    return load_images(Path(data), shape, preprocessing, limit)


def calibration_of(model: nn.Module, calibration: Any, example: Any, preprocessing: Preprocessing | None = None) -> Any:
    """Calibration data, with the images read where it names a data set of the library's; anything else as it is."""
    if not adapter_of(model).is_data_set(model, calibration):
        return calibration
    if not isinstance(example, Tensor) or example.dim() != 4:
        raise UserError(f"The data set {calibration} fits a network with one image input (N, C, H, W).")
    images, broken = images_of(model, calibration, tuple(example.shape[1:]), preprocessing)
    return Read(images, tuple(broken))


def preprocessing_of(model: nn.Module, asked: Preprocessing | None = None) -> Preprocessing | None:
    """How images become inputs of a network: as is asked for, else see `Adapter.preprocessing`.

    Raises:
        UserError: what is asked for is no preprocessing.
    """
    check_preprocessing(asked)
    return adapter_of(model).preprocessing(model) if asked is None else asked
