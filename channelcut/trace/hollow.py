"""A forward without its arithmetic: shapes are exact, large values are not computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from channelcut.core.trees import leaves, mapped_only
from channelcut.trace.modes import private_copy
from channelcut.trace.shortcuts import shortcut

LARGE = 1024
_READS = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"})


class ValuesNeeded(Exception):
    """The forward takes the values of a tensor out of torch, so that it cannot go without its arithmetic."""


class Hollow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ops with large results give tensors of the right shape with any values; small ones are computed.

    Only what depends on the `roots`, the parameters and the inputs, goes without values. A grid or a table that a
    forward makes of sizes alone has its own, because it may be kept in a cache that the user's model reads as well.
    Fake tensors would refuse a forward that reads numbers from its buffers (strides, anchors); here these are real.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not load torch's compiler, which takes a second, to keep it out of here: `modes.uncompiled` does that."""
        return False

    def __init__(self, roots: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for root in roots:
            _mark(root)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run what does not depend on the roots as it is; all else gives results that are known to depend on them."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(map(_is_marked, tensors)):
            return func(*args, **kwargs)
        result = _shaped(func, args, kwargs, tensors)
        for leaf in leaves(result):
            if isinstance(leaf, Tensor):
                _mark(leaf)
        return result


class Unread(TorchFunctionMode):
    """Stops a hollow forward that takes values out of torch in a way that no op shows."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Raise `ValuesNeeded` for such a function; run any other."""
        if getattr(func, "__name__", "") in _READS and args and _is_marked(args[0]):
            raise ValuesNeeded(func.__name__)
        return func(*args, **(kwargs or {}))


def roots(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What a forward's values depend on: the parameters of a model and its inputs."""
    return [*model.parameters(), *(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))]


def _mark(tensor: Tensor) -> None:
    tensor._depends_on_roots = True  # type: ignore[attr-defined]


def _is_marked(tensor: Any) -> bool:
    return getattr(tensor, "_depends_on_roots", False)


def _shaped(func: Any, args: Sequence[Any], kwargs: Any, tensors: Sequence[Tensor]) -> Any:
    """Run a small op or a view as it is; ask torch's meta kernel for the shapes of any other."""
    if (
        func.is_view
        or torch.Tag.inplace_view in func.tags
        or not any(t.numel() >= LARGE and t.is_floating_point() for t in tensors)
    ):
        return func(*args, **kwargs)
    if func._schema.is_mutable:
        return args[0] if not func.overloadpacket.__name__.endswith("batch_norm") else func(*args, **kwargs)
    found = shortcut(func, args, kwargs, tensors)
    if found is not None:
        return found if sum(leaf.numel() for leaf in leaves(found)) >= LARGE else func(*args, **kwargs)
    try:
        meta = mapped_only(Tensor, lambda t: t.to("meta"), (tuple(args), kwargs))
        result = func(*meta[0], **meta[1])
    except (RuntimeError, NotImplementedError, TypeError):
        return func(*args, **kwargs)
    device = tensors[0].device
    made = [leaf for leaf in leaves(result) if isinstance(leaf, Tensor)]
    if sum(leaf.numel() for leaf in made) < LARGE:
        return func(*args, **kwargs)
    return mapped_only(Tensor, lambda t: _untouched(t, device), result)


def weightless_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose large parameters have no values, for a forward in `Hollow`; it costs hardly any memory."""
    parameters = [p for p in model.parameters() if type(p) is nn.Parameter and p.is_floating_point()]
    empty: dict[Tensor, Tensor] = {
        p: nn.Parameter(torch.empty_like(p), p.requires_grad) for p in parameters if p.numel() >= LARGE
    }
    return private_copy(model, empty)


def _untouched(like: Tensor, device: torch.device) -> Tensor:
    """Memory that nobody writes to costs nothing; its layout is the real one, because torch's ops branch on that."""
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    return made if like.is_floating_point() else made.zero_()  # positions must stay in range
