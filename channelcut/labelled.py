"""Labels to rank channels by: what a loss is taken of, one image at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.adapters import Adapter, adapter_of
from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs, check_callable, evenly
from channelcut.core.labels import Loss, Targets
from channelcut.ranking import MOST
from channelcut.recovery.batches import MOST as MOST_READ
from channelcut.recovery.batches import put_back, taken
from channelcut.recovery.distil.pool import Pool, Reading, pool_of
from channelcut.recovery.images import Preprocessing

LIBRARY = "library"
"""What stands for the loss of the network's library."""


def rereadable(calibration: Any, *, twice: bool) -> Any:
    """Calibration data that can be gone through `twice` where that is needed, as for images and for labels."""
    if not twice or not isinstance(calibration, Iterator):
        return calibration
    return list(islice(calibration, MOST_READ))


def targets_of(
    model: nn.Module,
    calibration: Any,
    loss: Loss | Targets | str | None,
    example: Inputs,
    preprocessing: Preprocessing | None = None,
    owner: Adapter | None = None,
) -> Targets | None:
    """The labelled images that channels are ranked by, evenly out of all; None without a loss.

    Args:
        model: the network.
        calibration: images with labels: a loader, a data set or batches; or a data set of the library's.
        loss: the caller's, or `library` for that of the network's library.
        example: inputs of the network.
        preprocessing: how images become inputs.
        owner: the adapter that has labels; by default that of the network's library.

    Raises:
        UserError: there are no labels, or they do not fit.
    """
    if loss is None or isinstance(loss, Targets):
        return loss
    if isinstance(loss, str):
        calibration, loss = _of_library(model, calibration, loss, example, (preprocessing, owner))
    check_callable(loss, "loss", f"loss(model, batch), or {LIBRARY!r}")
    if isinstance(calibration, (str, Path, Tensor, np.ndarray)) or calibration is None:
        raise UserError(
            "loss= ranks by labels, and calibration= has none. Give it labelled: a loader or data set of (input, "
            f"label), batches of these, or, with loss={LIBRARY!r}, a data.yaml of an Ultralytics network."
        )
    reading = Reading(example, preprocessing, labelled=True, workers=1, report=lambda *_: None)
    pool = pool_of(calibration, reading)
    places = [(item, image) for item in range(pool.size) for image in range(_length(pool, item))]
    chosen = [places[place] for place in evenly(len(places), MOST)]
    device = next((t.device for t in pytree.tree_leaves(example) if isinstance(t, Tensor)), torch.device("cpu"))

    def batch(number: int) -> Any:
        item, image = chosen[number]
        whole = pool.joined([pool.item(item)])
        if pool.whole:
            whole = _one(whole, image, _length(pool, item))
        whole = put_back(whole, taken(whole, example, item))
        return pytree.tree_map_only(Tensor, lambda t: t.to(device), whole)

    return Targets(len(chosen), batch, loss)


def _of_library(
    model: nn.Module,
    data: Any,
    loss: str,
    example: Inputs,
    how: tuple[Preprocessing | None, Adapter | None],
) -> tuple[Any, Loss]:
    """The labelled data and the loss of the network's library, or of a user's file."""
    if loss != LIBRARY:
        raise UserError(f"loss={loss!r}: expected a function loss(model, batch), or {LIBRARY!r}.")
    given = [a for a in (*example[0], *example[1].values()) if isinstance(a, Tensor)]
    shape = tuple(given[0].shape[1:]) if len(given) == 1 and given[0].dim() == 4 else ()
    found = (how[1] or adapter_of(model)).labelled(model, data, shape, how[0], plain=True)
    if found is None or found.loss is None:
        raise UserError(
            f"There are no labels to rank {type(model).__name__} by: {' '.join([*found.notes, '']) if found else ''}"
            "Expected a data.yaml of an Ultralytics network with labels in its `train` split, or batches() and loss() "
            "beside a factory. Leave --labels (loss= in Python) out, and channels are ranked by the outputs."
        )
    return rereadable(found.data, twice=True), found.loss


def _length(pool: Pool, item: int) -> int:
    """The images that an item is."""
    if not pool.whole:
        return 1
    inputs = taken(pool.item(item), pool.example, item)
    return next((len(t) for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor) and t.dim()), 1)


def _one(batch: Any, image: int, size: int) -> Any:
    """One image of a batch, with its label.

    Raises:
        UserError: a part of the batch has no row for each image.
    """
    if isinstance(batch, Tensor):
        if not batch.dim() or len(batch) != size:
            raise UserError(
                f"A batch of {size} images has a part of shape {tuple(batch.shape)}, which is not one for each image, "
                "so that the gradient of a single image cannot be taken. Give a data set of single (input, label), or "
                "batches of one image."
            )
        return batch[image : image + 1]
    if isinstance(batch, Mapping):
        return {name: _one(value, image, size) for name, value in batch.items()}
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return type(batch)([_one(value, image, size) for value in batch])  # type: ignore[call-arg]
    return batch
