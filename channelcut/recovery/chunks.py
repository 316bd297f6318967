"""Batches of one size, as many as memory holds: all of them go through the cut network side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from channelcut.core.graph import Graph, Node, Spec
from channelcut.core.inputs import Inputs
from channelcut.core.sensitivity import images_of
from channelcut.core.trees import mapped_only

LARGEST = 16  # images in a batch: more are no faster
_OF_ALL, _OF_FREE = 0.25, 0.5  # of the memory: what others take for a while is to change no result


def usable_memory(device: torch.device) -> int:
    """Bytes that may be taken: a part of what the device has, the same whenever about half of it or more is free."""
    free, whole = torch.cuda.mem_get_info(device) if device.type == "cuda" else _main_memory()
    return int(min(whole * _OF_ALL, free * _OF_FREE))


def _main_memory() -> tuple[int, int]:
    """Bytes that the kernel could give, caches included, and that there are; as many where it does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free, whole = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        try:
            free = whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            free = whole = 1 << 33
    return free, whole


def bytes_of_image(graph: Graph, images: int) -> tuple[int, int]:
    """What one image of a batch takes: with all values kept, as for gradients; and with those still to be read."""
    last = {ref.index: node.index for node in graph.nodes for ref in node.inputs}
    ends: dict[int, list[int]] = {}
    for index, reader in last.items():
        ends.setdefault(reader, []).append(index)
    sizes = [_bytes(graph, node) for node in graph.nodes]
    live = most = 0
    for node in graph.nodes:
        live += sizes[node.index]
        most = max(most, live)
        live -= sum(sizes[index] for index in ends.get(node.index, ()))
    return -(-sum(sizes) // images), -(-most // images)


def _bytes(graph: Graph, node: Node) -> int:
    """What a value takes that shares no memory with others."""
    made = graph.nodes[node.args[0].index] if node.name == "getitem" else node
    if node.kind == "state" or getattr(made.target, "is_view", False) or not isinstance(node.value, Spec):
        return 0
    return math.prod(node.value.shape) * node.value.dtype.itemsize


def joined(batches: Sequence[Inputs]) -> Inputs:
    """All inputs as one batch; those of another shape than the first are left out."""
    alike = [tensors_of(batch) for batch in batches if _shape(batch) == _shape(batches[0])]
    columns = iter([torch.cat(parts) for parts in zip(*alike, strict=True)])
    args, kwargs = mapped_only(Tensor, lambda _: next(columns), batches[0])
    return args, kwargs


def flat(batches: Sequence[Inputs]) -> bool:
    """Whether every input is a tensor with an axis for the batch, or none at all."""
    return all(
        not isinstance(value, (list, tuple, dict)) and (not isinstance(value, Tensor) or value.dim() > 0)
        for args, kwargs in batches
        for value in (*args, *kwargs.values())
    )


def others(batches: Sequence[Inputs]) -> list[Inputs]:
    """One batch of every shape but the first."""
    first = {str(_shape(batch)): batch for batch in reversed(batches)}
    return [batch for batch in first.values() if _shape(batch) != _shape(batches[0])]


def of_size(batch: Inputs, images: int, most: int) -> list[Inputs]:
    """The first `images` as batches of one size, at most `most`; what is left over, fewer than batches, is left out."""
    count = -(-images // most)
    size = images // count
    return [images_of(batch, place * size, (place + 1) * size) for place in range(count)]


def alike(batch: Inputs) -> bool:
    """Whether all inputs are the same one."""
    return all(bool((tensor == tensor[:1]).all()) for tensor in tensors_of(batch))


def _shape(batch: Inputs) -> list[torch.Size]:
    return [tensor.shape[1:] for tensor in tensors_of(batch)]


def tensors_of(batch: Inputs) -> list[Tensor]:
    """The tensors of a batch, by position and then by name."""
    args, kwargs = batch
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
