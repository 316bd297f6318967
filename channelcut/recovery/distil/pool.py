"""What teaches: a folder of images, a tensor, a data set, a loader, or an iterable of batches, as items by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, default_collate

from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs
from channelcut.core.labels import Loss
from channelcut.core.words import kind_of
from channelcut.recovery.batches import is_single, mapped, taken
from channelcut.recovery.chunks import usable_memory
from channelcut.recovery.images import (
    Preprocessing,
    check_readable,
    decoded,
    image_files,
    prepared,
    unreadable_words,
)

_KEPT = 1 << 30  # bytes of an iterable that are kept, and at least of decoded images
_FEWEST = 2  # images that teach anything at all
_EXPECTED = (
    "Expected a folder of images, a tensor (N, ...), a data set or loader of inputs or of (input, label), or an "
    "iterable of batches."
)
Report = Callable[[int, int], None]
Vary = Callable[[int, int, int], Any]
"""vary(number, seed, epoch) -> an item as it is trained on, changed as the seed says."""


@dataclass(frozen=True)
class Pool:
    """Items by number, and how some of them become a batch.

    size: how many there are; `whole`: each is a batch already, which is not taken apart.
    item: reads one; in threads where `threads` says that it may.
    joined: a batch of them as the data gives it.
    named: one in words, for messages.
    unreadable: images that could not be decoded.
    notes: what a reader of the report has to know.
    example: what the network takes.
    varied: of data that brings its own augmentation: varied(numbers of the items that are trained on) -> how each of
        these is changed, by no others.
    """

    size: int
    item: Callable[[int], Any]
    joined: Callable[[Sequence[Any]], Any]
    named: Callable[[int], str]
    whole: bool = False
    threads: bool = False
    unreadable: int = 0
    notes: tuple[str, ...] = ()
    example: Inputs = ((), {})
    varied: Callable[[Sequence[int]], Vary] | None = None


@dataclass(frozen=True)
class Labelled:
    """Labels, and what makes a loss of them.

    data: what `channelcut.recover` takes, or items by number; its batches are what the loss takes.
    loss: the task loss; None where there are no labels.
    notes: what a reader of the report has to know.
    """

    data: Any
    loss: Loss | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How data is read.

    example: what the network takes.
    how: how images of a folder become inputs.
    labelled: whether a task loss takes what comes with the inputs, which else is left out.
    workers: threads that read a folder.
    report: called as report(images read, images in all).
    """

    example: Inputs
    how: Preprocessing | None
    labelled: bool
    workers: int
    report: Report


def pool_of(data: Any, reading: Reading) -> Pool:
    """What `data` holds, see `channelcut.recover`.

    Raises:
        UserError: it is none of these, too few images can be read, or it holds nothing.
    """
    if isinstance(data, Pool):
        return replace(data, example=reading.example)
    if isinstance(data, (str, Path)):
        return replace(_folder(Path(data), reading), example=reading.example)
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor):
        found = Pool(len(data) if data.dim() else 0, data.__getitem__, _stacked, lambda i: f"input {i}")
    elif isinstance(data, (Mapping, bytes)):
        raise UserError(f"data is {kind_of(data)}. {_EXPECTED}")
    elif isinstance(data, DataLoader) and _by_number(data.dataset):
        joined = data.collate_fn if data.batch_sampler is not None else default_collate
        found = _data_set(data.dataset, joined)
    elif _by_number(data) and not isinstance(data, (list, tuple)):
        found = _data_set(data, default_collate)
    elif isinstance(data, Iterable):
        found = _read(data, reading.example, labelled=reading.labelled)
    else:
        raise UserError(f"data is {kind_of(data)}. {_EXPECTED}")
    if not found.size:
        raise UserError(f"data holds no inputs. {_EXPECTED}")
    return replace(found, example=reading.example)


def _by_number(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _stacked(items: Sequence[Any]) -> Any:
    return torch.stack(list(items))


def _data_set(data: Any, joined: Callable[[Any], Any]) -> Pool:
    return Pool(len(data), data.__getitem__, lambda items: joined(list(items)), lambda i: f"item {i}")


def _read(data: Iterable[Any], example: Inputs, *, labelled: bool) -> Pool:
    """An iterable, read once: single inputs, or batches that are taken apart where no label holds them together."""
    singles: list[Any] = []
    batches: list[Any] = []
    size, notes = 0, ()
    for place, item in enumerate(data):
        inputs = taken(item, example, place)
        single = is_single(inputs, example)
        if labelled:
            (singles if single else batches).append(item)
            size += sum(t.nbytes for t in pytree.tree_leaves(item) if isinstance(t, Tensor))
        else:
            tensors = [value for value in (*inputs[0], *inputs[1].values()) if isinstance(value, Tensor)]
            count = 1 if single else len(tensors[0])
            singles += [inputs] if single else [mapped(inputs, lambda t, i=i: t[i]) for i in range(count)]  # type: ignore[misc]
            size += sum(t.nbytes for t in tensors)
        if size > _KEPT:
            notes = (f"Of the data the first {place + 1} items were read, {size / 2**30:.1f} GiB.",)  # type: ignore[assignment]
            break
    if batches and singles:
        raise UserError(f"data gives single inputs and batches in turns. {_EXPECTED}")
    if batches:
        one: Callable[[Sequence[Any]], Any] = lambda items: items[0]  # noqa: E731
        return Pool(len(batches), batches.__getitem__, one, lambda i: f"batch {i}", whole=True, notes=notes)
    joined = default_collate if labelled else _joined_inputs
    return Pool(len(singles), singles.__getitem__, lambda s: joined(list(s)), lambda i: f"input {i}", notes=notes)


def _joined_inputs(items: Sequence[Inputs]) -> Any:
    """Inputs as a network takes them, from single ones: a tuple of positional ones, or a dict."""
    args, kwargs = zip(*items, strict=True)
    if kwargs[0]:
        return {name: torch.stack([each[name] for each in kwargs]) for name in kwargs[0]}
    columns = tuple(torch.stack(parts) for parts in zip(*args, strict=True))
    return columns[0] if len(columns) == 1 else columns


def _folder(folder: Path, reading: Reading) -> Pool:
    """The images of a folder: each decoded once to see whether it can be, and kept while there is room."""
    example, how = reading.example, reading.how or Preprocessing()
    given = [a for a in (*example[0], *example[1].values()) if isinstance(a, Tensor)]
    if len(given) != 1 or given[0].dim() != 4:
        raise UserError("A folder of images fits a network with one image input (N, C, H, W). Pass tensors instead.")
    shape = tuple(int(extent) for extent in given[0].shape[1:])
    files = image_files(folder)
    room = max(_KEPT, usable_memory(torch.device("cpu")) // 4)
    most = max(1, room // (4 * int(np.prod(shape))))

    def read(path: Path) -> Tensor | None:
        image = decoded(path)
        return None if image is None else prepared(image, shape, how)  # type: ignore[arg-type]

    kept: dict[Path, Tensor] = {}
    good: list[Path] = []
    with ThreadPoolExecutor(reading.workers) as threads:
        step = 8 * reading.workers  # not all at once: what is decoded waits in memory
        for start in range(0, len(files), step):
            part = files[start : start + step]
            for path, image in zip(part, threads.map(read, part), strict=True):
                if image is not None:
                    good.append(path)
                    if len(kept) < most:
                        kept[path] = image
            reading.report(min(start + step, len(files)), len(files))
    read_well = set(good)
    broken = [path.name for path in files if path not in read_well]
    check_readable(f"in {folder}", len(files), len(broken), _FEWEST)

    def item(number: int) -> Tensor:
        image = kept.get(good[number])
        image = read(good[number]) if image is None else image
        if image is None:
            raise UserError(f"The image {good[number]} could be read before and cannot be now: it was changed.")
        return image

    notes = (unreadable_words(len(broken), len(good), broken),) if broken else ()
    names = [path.name for path in good]
    return Pool(len(good), item, _stacked, names.__getitem__, threads=True, unreadable=len(broken), notes=notes)
