"""Compare networks that end in a top-k, where rounding alone decides between near-equal scores.

An end-to-end detector returns the k best of thousands of candidates. Two correct implementations whose scores differ
in the last bit return other rows, or the same rows in another order, so the outputs cannot be compared as they are;
with untrained weights nearly all scores tie and hardly a row agrees. Instead, the module is run again with the
selection *that the ONNX model made* put in place of its own. Then everything after the selection must agree row by
row, and the selection itself is judged on the module's scores: entry by entry it must score what the true top k
scores. Nothing is matched approximately and nothing is left unchecked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from channelcut.core.schema import bound_arguments

Array = npt.NDArray[Any]

_SELECTORS = {torch.ops.aten.topk.default, torch.ops.aten.sort.default, torch.ops.aten.sort.stable}
_FLOOR = 1e-12


class Forced(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is not annotated
    """While active, each `topk` and `sort` returns the next given selection instead of its own.

    `indices`: one integer array per selecting call, in the order of the calls. Afterwards `error` is the largest loss
    of score by a given selection (relative to the largest score; infinite for repeated or impossible indices),
    `reordered` the number of entries that differ from the module's own choice, and `complete` tells whether the
    calls and the given selections matched in number and shape.
    """

    def __init__(self, indices: Sequence[Array]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._indices = list(indices)
        self._calls = 0
        self._misfit = False
        self.error = 0.0
        self.reordered = 0

    @property
    def complete(self) -> bool:
        """Whether every selecting call met exactly one given selection of its own shape."""
        return not self._misfit and self._calls == len(self._indices)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _SELECTORS:
            return result
        place, self._calls = self._calls, self._calls + 1
        own_values, own_indices = result
        given = self._indices[place] if place < len(self._indices) else None
        if given is None or tuple(given.shape) != tuple(own_indices.shape):
            self._misfit = True
            return result
        scores: Tensor = args[0]
        bound = bound_arguments(func, args, kwargs)
        indices = torch.from_numpy(np.ascontiguousarray(given, dtype=np.int64)).to(own_indices.device)
        dim = int(bound["dim"])
        if not _possible(indices, scores.shape[dim] if scores.dim() else 1, dim):
            self.error = float("inf")
            return result
        values = scores.gather(dim, indices)
        expected, got = own_values, values
        if not bound.get("sorted", True):
            expected, got = (t.sort(dim, descending=True).values for t in (own_values, values))
        scale = max(float(scores.abs().max()), _FLOOR)
        self.error = max(self.error, float((expected - got).abs().max()) / scale)
        self.reordered += int((own_indices != indices).sum())
        return values, indices


class Chosen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, notes what each `topk` and `sort` chose, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.indices: list[Array] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SELECTORS:
            self.indices.append(result[1].detach().cpu().numpy().copy())
        return result


def index_outputs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the TopK nodes of the model's main graph, in order."""
    return [node for node in model.graph.node if node.op_type == "TopK"]


def with_index_outputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return a copy whose further outputs are the indices that each TopK chose, and how many these are.

    The model itself when it has no TopK.
    """
    if not index_outputs(model):
        return model, 0
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    nodes, free = index_outputs(exposed), "channelcut_topk"
    existing = {o.name for o in exposed.graph.output}
    while any(name.startswith(free) for other in exposed.graph.node for name in other.output):
        free += "_"
    for number, node in enumerate(nodes):
        while len(node.output) < 2:
            node.output.append("")
        node.output[1] = node.output[1] or f"{free}_{number}"
        name = node.output[1]
        if name in existing:  # an output may be listed once only: pass the indices through
            alias = f"{free}_{number}_indices"
            exposed.graph.node.append(onnx.helper.make_node("Identity", [name], [alias]))
            name = alias
        exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    return exposed, len(nodes)


def _possible(indices: Tensor, extent: int, dim: int) -> bool:
    """Whether every index exists and none is chosen twice."""
    if not indices.numel():
        return True
    if int(indices.min()) < 0 or int(indices.max()) >= extent:
        return False
    if indices.dim() == 0 or indices.shape[dim] < 2:
        return True
    ordered = indices.sort(dim).values
    return bool((ordered.diff(dim=dim) > 0).all())
