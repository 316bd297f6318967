"""Layers by pattern: what `exclude` holds, and the shares that `keep` asks for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.graph import Site
from channelcut.core.groups import Follower, Groups, Pin, Role
from channelcut.core.reasons import EXCLUDED
from channelcut.core.tensors import first_names
from channelcut.core.words import kind_of

_OUTPUTS = (Role.OUT, Role.DEPTHWISE, Role.GROUP)
DEFAULT = "*"


@dataclass(frozen=True)
class Selection:
    """What an entry of `exclude` or `keep` names: the slots whose widths it speaks of, and how it is called."""

    name: str
    slots: tuple[int, ...]


def select_layers(model: nn.Module, groups: Groups, entry: str | nn.Module, option: str) -> Selection:
    """The output slots of the layers that an entry names.

    A pattern (as of a shell: `*`, `?`, `[...]`) is compared with the names of modules, which stand for all layers in
    them, and of parameters and buffers. Where an entry names layers with outputs of their own, it is these that it
    speaks of; one that names only norms, embeddings or plain parameters speaks of their channels.

    Raises:
        UserError: the entry names nothing, or nothing that has channels.
    """
    if isinstance(entry, nn.Module):
        path = next((path for path, module in model.named_modules() if module is entry), None)
        if path is None:
            raise UserError(
                f"{option}: the {type(entry).__name__} is no module of this model. Pass one of its own, such as "
                "model.stem, or a pattern on the names of its modules."
            )
        name, roots, tensors = path or type(entry).__name__, {path}, set[str]()
    elif isinstance(entry, str):
        name = entry
        roots = {path for path, _ in model.named_modules(remove_duplicate=False) if path and fnmatchcase(path, entry)}
        tensors = {tensor for tensor in first_names(model) if fnmatchcase(tensor, entry)}
        if not roots and not tensors:
            raise UserError(f"{option}: {entry!r} matches no module and no parameter. {_nearest(model, entry)}")
    else:
        raise UserError(f"{option} holds {kind_of(entry)}. Expected patterns such as 'head.*', or modules.")
    inside = {
        first
        for tensor, first in first_names(model).items()
        if tensor in tensors or any(root in ("", *_parents(tensor)) for root in roots)
    }
    own = [i for i, slot in enumerate(groups.slots) if slot.tensor in inside and slot.role is not Role.IN]
    outputs = [i for i in own if groups.slots[i].role in _OUTPUTS]
    if not own:
        raise UserError(
            f"{option}: {name!r} names no layer that the forward runs and that has channels: what it matches has no "
            f"weights of its own, or none that are used. {_nearest(model, name)}"
        )
    return Selection(name, tuple(outputs or own))


def excluded(model: nn.Module, groups: Groups, entries: Sequence[str | nn.Module]) -> Groups:
    """The groups without those that have a channel in an output of an excluded layer; pins say which layer holds it."""
    owner = groups.group_of()
    pins: list[Pin] = []
    held: set[int] = set()
    for entry in entries:
        found = select_layers(model, groups, entry, "exclude")
        for index in found.slots:
            inside = sorted(set(owner[groups.slots[index].channels].tolist()) - {-1})
            if inside:
                held |= set(inside)
                channels = np.unique(np.concatenate([groups.groups[g].channels for g in inside]))
                site = _site(groups, groups.slots[index].tensor)
                pins.append(
                    Pin(f"{EXCLUDED} by {found.name!r}", site.op, site.module, site.source, channels, EXCLUDED.remedy)
                )
    distinct = {(pin.reason, pin.site, pin.channels.tobytes()): pin for pin in pins}
    return _without(groups, held, tuple(distinct.values())) if held else groups


def _without(groups: Groups, held: set[int], pins: tuple[Pin, ...]) -> Groups:
    """The same coupling with some groups pinned; the others are numbered anew."""
    left = [group for group in groups.groups if group.index not in held]
    number = {group.index: index for index, group in enumerate(left)}
    return replace(
        groups,
        groups=tuple(replace(group, index=number[group.index]) for group in left),
        pins=(*pins, *groups.pins),
        followers=tuple(f for follower in groups.followers if (f := _fixed(follower, number)).terms),
    )


def _fixed(follower: Follower, number: Mapping[int, int]) -> Follower:
    """A follower of the groups that are left: what follows the others has become a constant."""
    constant = follower.constant + sum(value for group, value in follower.terms if group not in number)
    return replace(
        follower,
        constant=constant,
        terms=tuple((number[group], value) for group, value in follower.terms if group in number),
    )


def kept_shares(model: nn.Module, groups: Groups, keep: Mapping[str, float]) -> NDArray[np.float64]:
    """The share of each group that `keep` asks for, shape (groups,); NaN where it says nothing.

    Of two patterns for a layer the later one counts; `"*"` is for layers that no other matches, wherever it stands.
    A group that several layers share takes the largest of their shares.
    """
    share_of = np.full(len(groups.slots), np.nan)
    for pattern, share in sorted(keep.items(), key=lambda item: item[0] != DEFAULT):
        if pattern == DEFAULT:
            outputs = [i for i, slot in enumerate(groups.slots) if slot.role is not Role.IN]
            share_of[outputs] = share
        else:
            share_of[list(select_layers(model, groups, pattern, "keep").slots)] = share
    found = np.full(len(groups.groups), np.nan)
    for group in groups.groups:
        members = [i for i in group.slots if groups.slots[i].role in _OUTPUTS] or list(group.slots)
        named = [i for i in group.slots if i not in members and share_of[i] != keep.get(DEFAULT)]
        asked = share_of[[*members, *named]]
        if not np.isnan(asked).all():
            found[group.index] = np.nanmax(asked)
    return found


def _parents(tensor: str) -> list[str]:
    """The modules that a tensor is in, by their paths."""
    parts = tensor.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _nearest(model: nn.Module, name: str) -> str:
    names = [path for path, _ in model.named_modules(remove_duplicate=False) if path] + list(first_names(model))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return f"The nearest names are {', '.join(close)}."


def _site(groups: Groups, tensor: str) -> Site:
    """The first op that reads a tensor."""
    nodes = groups.graph.nodes
    reads = (node for node in groups.graph.calls for ref in node.inputs if nodes[ref.index].name == tensor)
    found = next((node.site for node in reads), Site("parameter", tensor.rpartition(".")[0]))
    return replace(found, module=tensor.rpartition(".")[0] or found.module)


def check_keep(keep: Any) -> None:
    """Refuse shares that are none.

    Raises:
        UserError: a pattern that is no string, or a share that is not above 0 and at most 1.
    """
    for pattern, share in keep.items():
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not isinstance(pattern, str) or not number or not 0 < share <= 1:
            raise UserError(
                f"keep={{{pattern!r}: {share!r}}}: expected patterns on the names of modules or parameters with the "
                "share of the channels to keep, above 0 and at most 1, such as {'backbone.*': 0.8, '*': 0.5}."
            )
