"""A forward without its arithmetic: shapes are exact, large values are not computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _every_module
from torch.utils import _pytree as pytree

from channelcut.core.copies import private_copy
from channelcut.core.modes import ThreadMode
from channelcut.core.trees import leaves, mapped_only
from channelcut.ops.registry import op
from channelcut.tracing.functions import Table
from channelcut.tracing.shortcuts import shortcut

LARGE = 1024
_READS = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"})
_CAREFUL = frozenset({"aten", "prims", "torchvision", "channelcut"})  # whose kernels may be given any values
_LIKE = frozenset(  # they take the shape or the type of a value, never the value
    "new_full new_zeros new_ones new_empty new_empty_strided full_like zeros_like ones_like empty_like rand_like "
    "randn_like randint_like".split()
)
_INDEXED = frozenset({"index", "index_put", "_index_put_impl"})


class ValuesNeeded(Exception):
    """The forward does something with values that a forward without its arithmetic does not have."""


class Hollow(ThreadMode):
    """Ops with large results give tensors of the right shape with any values; small ones are computed.

    Only what depends on the `roots`, the inputs and the large parameters, goes without values. A grid or a table that a
    forward makes of sizes alone has its own, because it may be kept in a cache that the user's model reads as well.
    Fake tensors would refuse a forward that reads numbers from its buffers (strides, anchors); here these are real.
    Raises `ValuesNeeded` where a number or a shape would come of values that are not there.
    """

    def __init__(self, roots: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for root in roots:
            mark(root)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run what does not depend on the roots as it is; all else gives results that are known to depend on them."""
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The same outside of the mode, for one that stands above it: each mode on the stack costs every op."""
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func.overloadpacket.__name__ in _LIKE or not any(map(is_hollow, tensors)):
            return func(*args, **kwargs)
        if _decides(func, args):
            raise ValuesNeeded(str(func))
        result = _shaped(func, args, kwargs, tensors)
        for leaf in leaves(result):
            if isinstance(leaf, Tensor):
                mark(leaf)
                if func._schema.is_mutable and leaf._base is not None:  # what is written into a part is in the whole
                    mark(leaf._base)
        return result


def _read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Stop a hollow forward that takes values out of torch in a way that no op shows."""
    if args and is_hollow(args[0]):
        raise ValuesNeeded(func.__name__)
    return func(*args, **kwargs)


UNREAD: Table = dict.fromkeys(_READS, _read)


def roots(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What has no values in a weightless copy, and what its forward computes with: the inputs.

    Raises:
        ValuesNeeded: the user has registered hooks, which are to see the values of a real forward.
    """
    if _hooked(model):
        raise ValuesNeeded("a hook")
    given = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return [*filter(_is_large, model.parameters()), *given]


def _hooked(model: nn.Module) -> bool:
    """Whether the user's own code runs before or after a layer; torch has hooks too, such as those of a weight norm."""
    tables = [_every_module._global_forward_hooks, _every_module._global_forward_pre_hooks]
    for module in model.modules():
        tables += [module._forward_hooks, module._forward_pre_hooks]
    hooks = [hook for table in tables for hook in table.values()]
    return not all(str(getattr(hook, "__module__", "")).startswith(("torch.", "channelcut.")) for hook in hooks)


def is_hollow(tensor: Any) -> bool:
    """Whether a tensor may be without values."""
    return getattr(tensor, "_channelcut_hollow", False)


def mark(tensor: Tensor) -> None:
    """Note that a tensor is without values."""
    tensor._channelcut_hollow = True  # type: ignore[attr-defined]


def _is_large(tensor: Tensor) -> bool:
    return tensor.numel() >= LARGE and tensor.is_floating_point()


def _decides(func: Any, args: Sequence[Any]) -> bool:
    """Whether a number, or the shape of a result, comes of the values that an op is given."""
    name = func.overloadpacket.__name__.rstrip("_")
    if name in _INDEXED:
        return any(isinstance(i, Tensor) and i.dtype == torch.bool and is_hollow(i) for i in args[1])
    if torch.Tag.dynamic_output_shape in func.tags or torch.Tag.data_dependent_output in func.tags:
        return True
    return any(str(given.type) in ("bool", "int", "float", "number", "Scalar") for given in func._schema.returns)


def _shaped(func: Any, args: Sequence[Any], kwargs: Any, tensors: Sequence[Tensor]) -> Any:
    """Run a small op or a view as it is; ask torch's meta kernel for the shapes of any other."""
    if func.is_view or torch.Tag.inplace_view in func.tags or not any(map(_is_large, tensors)):
        return func(*args, **kwargs)
    if func._schema.is_mutable:
        return func(*args, **kwargs) if op(str(func.overloadpacket)).statistics else args[0]
    found = shortcut(func, args, kwargs, tensors)
    if found is not None:
        return found if sum(leaf.numel() for leaf in leaves(found)) >= LARGE else func(*args, **kwargs)
    try:
        meta = mapped_only(Tensor, lambda t: t.to("meta"), (tuple(args), kwargs))
        result = func(*meta[0], **meta[1])
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if func.namespace not in _CAREFUL:
            raise ValuesNeeded(str(func)) from error
        return func(*args, **kwargs)
    device = tensors[0].device
    made = [leaf for leaf in leaves(result) if isinstance(leaf, Tensor)]
    if sum(leaf.numel() for leaf in made) < LARGE:
        return func(*args, **kwargs)
    return mapped_only(Tensor, lambda t: _untouched(t, device), result)


def weightless_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose large parameters have no values, for a forward in `Hollow`; it costs hardly any memory."""
    large = [p for p in model.parameters() if type(p) is nn.Parameter and _is_large(p)]
    empty: dict[Tensor, Tensor] = {p: nn.Parameter(torch.empty_like(p), p.requires_grad) for p in large}
    return private_copy(model, empty)


def _untouched(like: Tensor, device: torch.device) -> Tensor:
    """Memory that nobody writes to costs nothing; its layout is the real one, because torch's ops branch on that."""
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    return made if like.is_floating_point() else made.zero_()  # positions must stay in range
