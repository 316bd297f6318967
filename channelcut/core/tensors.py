"""The tensors of a model by name: what identifies it, and which positions of each are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.groups import Groups, Ids

Kept = dict[str, dict[int, tuple[int, ...]]]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, every shared one under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer, with the first name of the same tensor."""
    first: dict[int, str] = {}
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def aliases(model: nn.Module) -> dict[str, str]:
    """Name every tensor that is registered more than once: later name to first name."""
    return {name: first for name, first in first_names(model).items() if name != first}


def architecture_fingerprint(model: nn.Module) -> str:
    """Identify an architecture by the names, shapes and types of its parameters and buffers."""
    lines = [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in sorted(named_tensors(model).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def weights_fingerprint(model: nn.Module) -> str:
    """Identify the values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named_tensors(model).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def kept_positions(groups: Groups, kept: NDArray[np.bool_]) -> Kept:
    """The kept positions along every slot that loses any, in the order in which the cut network has them."""
    found: Kept = {}
    arrival = groups.arrival(kept)
    for slot in groups.slots:
        mask = kept[slot.channels]
        if not mask.all():
            positions = np.flatnonzero(mask)
            if (arrived := arrival.slots.get((slot.tensor, slot.axis))) is not None:
                positions = positions[rearranged(slot.channels[positions], arrived)]
            found.setdefault(slot.tensor, {})[slot.axis] = tuple(positions.tolist())
    return found


def rearranged(before: Ids, after: Ids) -> Ids:
    """The positions in a line of channels that those of another order of it had, shape (extent,).

    A channel that has moved is there once.
    """
    found: Ids = np.arange(len(before))
    moved = np.flatnonzero(before != after)
    order, wanted = np.argsort(before[moved]), np.argsort(after[moved])
    found[moved[wanted]] = moved[order]
    return found


def renumbered(values: Ids, line: NDArray[np.bool_], own: NDArray[np.bool_]) -> Ids:
    """Positions along a line of which what is marked in `line` is kept; `own` marks those of the positions that are."""
    found: Ids = (np.cumsum(line) - 1)[values[own]]
    return found


def kept_indices(groups: Groups, kept: NDArray[np.bool_]) -> dict[str, tuple[int, ...]]:
    """The new values of the tensors of positions whose values or number change."""
    slots = {(slot.tensor, slot.axis): slot.channels for slot in groups.slots}
    found = {}
    for index in groups.indices:
        values = renumbered(index.values, kept[index.channels], kept[slots[index.tensor, 0]])
        if not np.array_equal(values, index.values):
            found[index.tensor] = tuple(values.tolist())
    return found


def kept_channels(groups: Groups, kept: Mapping[str, Mapping[int, tuple[int, ...]]]) -> NDArray[np.bool_] | None:
    """The channels that are left where tensors keep these positions, shape (channel_count,).

    None where no set of channels says so: the positions belong to another coupling.
    """
    found = np.ones(groups.channel_count, dtype=bool)
    for slot in groups.slots:
        positions = kept.get(slot.tensor, {}).get(slot.axis)
        if positions is not None:
            dropped = np.ones(len(slot.channels), dtype=bool)
            dropped[list(positions)] = False
            found[slot.channels[dropped]] = False
    same = {name: dict(axes) for name, axes in kept.items()}
    return found if found[0] and kept_positions(groups, found) == same else None


def shapes_fingerprint(model: nn.Module) -> str:
    """Identify the shapes of a model's parameters and buffers, of whatever type they are."""
    lines = [f"{name} {tuple(t.shape)}" for name, t in sorted(named_tensors(model).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def cut_tensor(
    name: str, tensor: Tensor, kept: Mapping[str, Mapping[int, tuple[int, ...]]], indices: Mapping[str, tuple[int, ...]]
) -> Tensor:
    """What a plan leaves of a tensor, from its positions and its new values.

    Raises:
        RuntimeError: these are not as many as the plan keeps.
    """
    found = select(tensor, kept.get(name, {}))
    if name not in indices:
        return found
    return torch.tensor(indices[name], dtype=tensor.dtype, device=tensor.device).view(found.shape)


def select(tensor: Tensor, kept: Mapping[int, tuple[int, ...]]) -> Tensor:
    """The kept positions of a tensor along each cut axis."""
    for axis, positions in kept.items():
        tensor = tensor.index_select(axis, torch.tensor(positions, dtype=torch.long, device=tensor.device))
    return tensor.contiguous()
