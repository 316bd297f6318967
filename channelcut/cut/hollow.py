"""A forward without its arithmetic: shapes are exact, large values are not computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

LARGE = 1024


class Hollow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ops with large results give tensors of the right shape with any values; small ones are computed.

    Fake tensors would refuse a forward that reads numbers from its buffers (strides, anchors); here these are real.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run a small op or a view as it is; ask torch's meta kernel for the shapes of any other."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if (
            func.is_view
            or torch.Tag.inplace_view in func.tags
            or not any(t.numel() >= LARGE and t.is_floating_point() for t in tensors)
        ):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return args[0] if not func.overloadpacket.__name__.endswith("batch_norm") else func(*args, **kwargs)
        try:
            meta = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), (tuple(args), kwargs))
            result = func(*meta[0], **meta[1])
        except (RuntimeError, NotImplementedError, TypeError):
            return func(*args, **kwargs)
        device = tensors[0].device
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if sum(leaf.numel() for leaf in leaves) < LARGE:
            return func(*args, **kwargs)
        return pytree.tree_map_only(Tensor, lambda t: _untouched(t, device), result)


def _untouched(like: Tensor, device: torch.device) -> Tensor:
    """Memory that nobody writes to costs nothing; its layout is the real one, because torch's ops branch on that."""
    if like.is_floating_point():
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    return torch.zeros((), dtype=like.dtype, device=device).expand(like.shape)  # positions must stay in range
