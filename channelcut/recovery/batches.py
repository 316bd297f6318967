"""Calibration data as batches of inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs, split_inputs
from channelcut.core.sensitivity import run
from channelcut.core.words import kind_of
from channelcut.recovery.images import Preprocessing, Read, check_preprocessing, load_images

MOST = 4096  # inputs that are read of an iterable, which may be endless: statistics say nothing new after them
EXPECTED = (
    "Expected a folder of images, a tensor (N, ...), or an iterable of batches, such as a loader of images or of "
    "(image, "
    "label)."
)


class Batches(list[Inputs]):
    """Batches of inputs; `unreadable` are the names of images that could not be decoded."""

    def __init__(self, batches: Iterable[Inputs] = (), unreadable: Sequence[str] = ()) -> None:
        super().__init__(batches)
        self.unreadable = tuple(unreadable)


def calibration_batches(
    calibration: Any, inputs: Inputs, preprocessing: Preprocessing | None, size: int = 32
) -> Batches:
    """Batches for recalibration: from a folder of images, a tensor (N, ...), or an iterable of batches.

    Args:
        calibration: a folder, a tensor, an iterable, or None. What an iterable gives are batches as the network takes
            them, or single inputs, which are put together; what comes after the network's inputs, such as labels, is
            left out. At most `MOST` inputs are read.
        inputs: the example, which says what the network takes.
        preprocessing: how images of a folder become inputs.
        size: inputs in a batch, where batches are made here.

    Raises:
        UserError: it is none of these, holds nothing, does not fit the example, or is a folder most of whose images
            cannot be decoded.
    """
    if calibration is None:
        return Batches()
    check_preprocessing(preprocessing)
    if isinstance(calibration, (str, Path)):
        calibration = _images(Path(calibration), inputs, preprocessing)
    broken: tuple[str, ...] = ()
    if isinstance(calibration, Read):
        calibration, broken = calibration.images, calibration.broken
    if isinstance(calibration, (Tensor, np.ndarray)):
        whole = taken(calibration, inputs, 0)
        batched = [_sliced(whole, start, size) for start in range(0, _length(whole), size)]
        found = [batch for batch in batched if _length(batch) > 1 or _length(whole) == 1]
    elif isinstance(calibration, (Mapping, bytes)):
        raise UserError(f"calibration is {kind_of(calibration)}. {EXPECTED}")
    elif isinstance(calibration, Iterable):
        found = _of_iterable(calibration, inputs, size)
    elif hasattr(calibration, "__getitem__") and hasattr(calibration, "__len__"):  # a data set of torch
        found = _of_iterable((calibration[i] for i in range(len(calibration))), inputs, size)
    else:
        raise UserError(f"calibration is {kind_of(calibration)}. {EXPECTED}")
    if not found:
        raise UserError(f"calibration holds no inputs. {EXPECTED}")
    return Batches(found, broken)


def _images(folder: Path, inputs: Inputs, preprocessing: Preprocessing | None) -> Read:
    given = [a for a in (*inputs[0], *inputs[1].values()) if isinstance(a, Tensor)]
    if len(given) != 1 or given[0].dim() != 4:
        raise UserError(
            "A folder of images fits a network with one image input (N, C, H, W). Pass tensors as calibration instead."
        )
    channels, height, width = (int(s) for s in given[0].shape[1:])
    images, broken = load_images(folder, (channels, height, width), preprocessing)
    return Read(images, tuple(broken))


def _of_iterable(calibration: Iterable[Any], inputs: Inputs, size: int) -> list[Inputs]:
    """Batches as they come; single inputs put together."""
    found: list[Inputs] = []
    single: list[Inputs] = []
    count = 0
    for place, item in enumerate(calibration):
        batch = taken(item, inputs, place)
        if is_single(batch, inputs):
            batch = mapped(batch, lambda t: t[None])
            single.append(batch)
        else:
            found.append(batch)
        count += _length(batch)
        if count >= MOST:
            break
    while single:
        found.append(_joined(list(itertools.islice(single, size))))
        del single[:size]
    return found


def taken(item: Any, inputs: Inputs, place: int) -> Inputs:
    """What the network takes of an item, by position or by name, on the example's device and in its type."""
    args, kwargs = inputs
    parts = item
    if isinstance(item, Mapping):
        names = [*kwargs] or _named(item, args)
        if not all(name in item for name in names):
            raise UserError(
                f"Item {place} of calibration is a dict of {', '.join(map(str, item)) or 'nothing'}, and the network "
                f"takes {', '.join(kwargs) or 'one tensor'}. {EXPECTED}"
            )
        parts = [item[name] for name in names]
    elif not isinstance(item, (tuple, list)):
        parts = [item]
    elif len(args) + len(kwargs) > 1 and len(item) and isinstance(item[0], (tuple, list)):
        parts = item[0]  # ((image, mask), label)
    examples = [*args, *kwargs.values()]
    if len(parts) < len(examples):
        raise UserError(
            f"Item {place} of calibration holds {len(parts)} inputs, and the network takes {len(examples)}. {EXPECTED}"
        )
    fitted = [_fitted(part, like, place) for part, like in zip(parts, examples, strict=False)]
    return tuple(fitted[: len(args)]), dict(zip(kwargs, fitted[len(args) :], strict=True))


def put_back(item: Any, given: Inputs) -> Any:
    """An item that `taken` took inputs of, with other inputs in their place."""
    args, kwargs = given
    values = [*args, *kwargs.values()]
    if isinstance(item, Mapping):
        return {**item, **dict(zip([*kwargs] or _named(item, args), values, strict=True))}
    if not isinstance(item, (tuple, list)):
        return values[0]
    if len(values) > 1 and isinstance(item[0], (tuple, list)):
        return (tuple(values), *item[1:])
    return (*values, *item[len(values) :])


def _named(item: Mapping[Any, Any], args: Sequence[Any]) -> list[Any]:
    """The entry that is meant by a network's one input: the only one of the example's number of axes."""
    like = [key for key, value in item.items() if isinstance(value, Tensor) and value.dim() == _axes(args)]
    return like if len(like) == 1 else [""]


def _axes(args: Sequence[Any]) -> int:
    return args[0].dim() if len(args) == 1 and isinstance(args[0], Tensor) else -1


def _fitted(part: Any, like: Any, place: int) -> Any:
    """An input on the device and in the type of the example's."""
    if not isinstance(like, Tensor):
        return part
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(part)
    if not isinstance(part, Tensor):
        raise UserError(f"Item {place} of calibration holds {kind_of(part)} where a tensor is due. {EXPECTED}")
    if part.is_meta:
        raise UserError(f"Item {place} of calibration is on the meta device and has no values. {EXPECTED}")
    if part.is_floating_point() != like.is_floating_point():
        raise UserError(
            f"Item {place} of calibration is {str(part.dtype).removeprefix('torch.')}, and the network takes "
            f"{str(like.dtype).removeprefix('torch.')}. Prepare it as for the network: pixels divided by 255, say."
        )
    return part.to(like.device, like.dtype)


def is_single(batch: Inputs, inputs: Inputs) -> bool:
    """Whether an item has no axis for the batch: one axis less than the example."""
    for part, like in zip((*batch[0], *batch[1].values()), (*inputs[0], *inputs[1].values()), strict=True):
        if isinstance(like, Tensor) and isinstance(part, Tensor):
            return part.dim() == like.dim() - 1
    return False


def _joined(single: Sequence[Inputs]) -> Inputs:
    if len({tuple(t.shape for t in _tensors(one)) for one in single}) > 1:
        raise UserError(
            "calibration gives single inputs of several shapes, which make no batch. Give batches, or inputs of one "
            "shape."
        )
    args = tuple(torch.cat(parts) for parts in zip(*(one[0] for one in single), strict=True))
    return args, {name: torch.cat([one[1][name] for one in single]) for name in single[0][1]}


def _sliced(batch: Inputs, start: int, size: int) -> Inputs:
    return mapped(batch, lambda t: t[start : start + size])


def mapped(batch: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """A batch with a function applied to every tensor."""
    args, kwargs = batch

    def each(value: Any) -> Any:
        return function(value) if isinstance(value, Tensor) else value

    return tuple(each(a) for a in args), {name: each(a) for name, a in kwargs.items()}


def _tensors(batch: Inputs) -> list[Tensor]:
    return [value for value in (*batch[0], *batch[1].values()) if isinstance(value, Tensor)]


def _length(batch: Inputs) -> int:
    """Inputs in a batch."""
    return next((len(value) for value in _tensors(batch) if value.dim()), 0)


def run_batch(model: nn.Module, batch: Any) -> Any:
    """What a model returns for a batch of calibration inputs: as `channelcut.prune` takes them, or (args, kwargs).

    Raises:
        UserError: the model does not take them.
    """
    with torch.no_grad():
        return run(model, _inputs(batch))


def batch_length(batch: Any) -> int:
    """The inputs in a batch."""
    return _length(_inputs(batch))


def _inputs(batch: Any) -> Inputs:
    if isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[0], tuple) and isinstance(batch[1], dict):
        return batch
    return split_inputs(batch)
