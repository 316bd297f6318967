"""The real inputs of a run: images of a folder, prepared as the network's library does, or what a user's file gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from channelcut.adapters import Adapter, calibration_of
from channelcut.adapters.user_file import UserFile
from channelcut.core.inputs import Inputs, split_inputs
from channelcut.core.progress import Stopwatch
from channelcut.recovery import calibration_batches
from channelcut.recovery.images import Preprocessing, Read, load_images

if TYPE_CHECKING:
    from channelcut.options import CompressOptions, PruneOptions

_MOST = 256  # inputs that are taken of a user's file, as many as images of a folder
_REAL = 2  # batches of real images that the ONNX files are compared on


def preprocessing_for(owner: Adapter, model: nn.Module, data: Any, asked: Mapping[str, Any]) -> Preprocessing | None:
    """How images become inputs of a network: as was asked for, field by field, else as its library says.

    None where `data` is a data set of the library's, which prepares it itself, and nothing was asked for.
    """
    if owner.is_data_set(model, data):
        return Preprocessing(**asked) if asked else None
    return replace(owner.preprocessing(model) or Preprocessing(), **asked)


def described(how: Preprocessing, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A preprocessing as JSON data for a report; `asked` lists the fields that somebody asked for."""
    return {**vars(how), "mean": list(how.mean), "std": list(how.std), "asked": sorted(asked)}


def with_samples(
    options: CompressOptions, owner: Adapter, model: nn.Module, example: Any, watch: Stopwatch
) -> tuple[CompressOptions, dict[str, Any] | None]:
    """The options with what calibrates, and how its images are prepared where it is a folder.

    Raises:
        UserError: the function `batches` of a user's file fails, or what it gives does not fit the network.
    """
    prune, asked = options.prune, options.images
    if isinstance(prune.calibration, (str, Path)):
        how = prune.preprocessing or preprocessing_for(owner, model, prune.calibration, asked)
        said = None if how is None else described(how, asked)
        return replace(options, prune=replace(prune, preprocessing=how)), said
    if prune.calibration is not None or not isinstance(owner, UserFile) or (given := owner.batches()) is None:
        return options, None
    inputs = split_inputs(example)
    with watch.stage("images"):
        found = calibration_batches(_few(given, inputs), inputs, None)
    return replace(options, prune=replace(prune, calibration=_joined(found, example))), None


def _few(batches: Iterator[Any], inputs: Inputs) -> Iterator[Any]:
    """The first inputs of an iterable that may be endless."""
    first = next((a for a in (*inputs[0], *inputs[1].values()) if isinstance(a, Tensor)), None)
    count = 0
    for item in batches:
        yield item
        tensors = [t for t in _leaves(item) if first is not None and t.dim() == first.dim()]
        count += len(tensors[0]) if tensors else 1
        if count >= _MOST:
            return


def _leaves(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from _leaves(part)
    elif isinstance(item, Mapping):
        yield from _leaves(list(item.values()))


def _joined(batches: list[Inputs], example: Any) -> Any:
    """One tensor where the network takes one and all have its shape, else the batches as the network takes them."""
    if not isinstance(example, Tensor):
        return [kwargs or args for args, kwargs in batches]
    tensors = [args[0] for args, _ in batches]
    return torch.cat(tensors) if len({tuple(t.shape[1:]) for t in tensors}) == 1 else tensors


def real_inputs(options: PruneOptions, example: Any) -> list[Tensor]:
    """A few of the calibration's images, in batches as large as the example; none for a network that takes no image."""
    data = options.calibration
    if not isinstance(example, Tensor) or example.dim() != 4 or not example.is_floating_point():
        return []
    if isinstance(data, (str, Path)):
        channels, height, width = example.shape[1:]
        limit = _REAL * len(example)
        data = load_images(Path(data), (channels, height, width), options.preprocessing, limit)[0]
    data = data.images if isinstance(data, Read) else data
    if not isinstance(data, Tensor) or data.shape[1:] != example.shape[1:]:
        return []
    batches = torch.split(data.to(example.device, example.dtype), len(example))
    return [batch for batch in batches[:_REAL] if len(batch) == len(example)]


def with_images(options: CompressOptions, model: nn.Module, example: Any) -> tuple[CompressOptions, Tensor | None]:
    """The images of the recalibration, which the precisions use as well, read once; and the options that hold them."""
    prune = options.prune
    data = calibration_of(model, prune.calibration, example, prune.preprocessing)
    if isinstance(data, (str, Path)):
        shape = tuple(example.shape) if isinstance(example, Tensor) else ()
        if len(shape) != 4:
            return options, None
        channels, height, width = shape[1:]
        images, broken = load_images(Path(data), (channels, height, width), prune.preprocessing)
        data = Read(images, tuple(broken))
    elif data is not None and not isinstance(data, (Tensor, Read)):
        data = list(data)
    options = replace(options, prune=replace(prune, calibration=data))
    if isinstance(data, list):
        tensors = [item for item in data if isinstance(item, Tensor)]
        return options, torch.cat(tensors) if tensors and len(tensors) == len(data) else None
    return options, data.images if isinstance(data, Read) else data
