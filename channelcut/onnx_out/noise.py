"""How much an output may differ because of rounding alone: the module runs again, every result rounded otherwise.

Two right programs round at other places: sums are added in another order, `sigmoid` is a polynomial. Where a network
amplifies that, or an output is quiet (the probabilities of a detector that sees nothing), the difference between two
right programs is large against the output. It is measured: each result is moved at random by one unit in its last
place, the result of a function that runtimes compute exactly only in absolute terms by one such unit of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from channelcut.core.copies import cloned
from channelcut.onnx_out.comparison import tensor_leaves
from channelcut.onnx_out.selection import Chosen, Forced

# What a forward raises on inputs that it is not made for.
FORWARD_FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)

_UNIT = 2.0**-23  # of float32: 1 and its successor are so far apart
# What computes and rounds; a maximum or a copy is exact. What is not listed is taken to be exact, the stricter way.
_ROUNDED = frozenset(
    "_adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _prelu_kernel _scaled_dot_product_attention_math "
    "_scaled_dot_product_flash_attention_for_cpu _softmax _log_softmax _weight_norm_interface acos add addbmm addcdiv "
    "addcmul addmm addmv asin atan atan2 avg_pool1d avg_pool2d avg_pool3d baddbmm bmm celu convolution cos cosh "
    "cudnn_batch_norm cumsum div dot elu erf erfc exp exp2 expm1 gelu glu grid_sampler_2d grid_sampler_3d hardsigmoid "
    "hardswish hypot leaky_relu lerp linalg_vector_norm log log10 log1p log2 log_sigmoid_forward logaddexp "
    "logsumexp lstm gru matmul mean miopen_batch_norm mish mkldnn_rnn_layer mm mul mv native_batch_norm "
    "native_group_norm native_layer_norm norm pow prod reciprocal rsqrt rsub selu sigmoid silu sin sinh softplus "
    "sqrt std std_mean sub sum tan tanh upsample_bicubic2d upsample_bilinear2d upsample_linear1d "
    "upsample_trilinear3d var var_mean _fused_rms_norm".split()
)
# In units of 1, or of the largest operand where that is larger (`x * sigmoid(x)`).
_ABSOLUTE = frozenset("sigmoid tanh erfc expm1 log1p elu selu celu silu gelu glu mish".split())
_BOUNDED = frozenset(("sigmoid", "tanh", "erfc"))  # of size 1, whatever the operand


class OtherRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base is not annotated
    """While active, results of float32 arithmetic are moved by about one unit in their last place, at random.

    Whole numbers stay: positions and sizes are exact in any program. A probability stays above 0.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        # Taken first: a function in place overwrites its operand.
        large = args[0].abs() if plain in _ABSOLUTE and plain not in _BOUNDED else None
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, (tuple, list)) else result
        if plain not in _ROUNDED or not isinstance(first, Tensor) or not first.is_floating_point():
            return result
        moved = self.moved(first, plain, large)
        if func._schema.is_mutable:
            first.copy_(moved)
            return result
        return moved if first is result else type(result)((moved, *result[1:]))

    def moved(self, values: Tensor, name: str = "", large: Tensor | None = None) -> Tensor:
        """The values after another rounding; `large`: the size of the operands of the function of that name."""
        if bool((values == values.round()).all()):
            return values
        noise = (torch.rand(values.shape, generator=self._generator) * 2 - 1).to(values.device, values.dtype) * _UNIT
        if name not in _ABSOLUTE:
            return values + values * noise
        unit: Any = 1.0
        if large is not None:
            unit = (large if large.shape == values.shape else large.max()).clamp(min=1.0)
        changed = values + noise * unit
        return torch.maximum(changed, values / 2) if name == "sigmoid" else changed


def rounded_otherwise(inputs: Any, mode: OtherRounding) -> Any:
    """The network's inputs, after another rounding of those that are floats."""
    return pytree.tree_map_only(Tensor, lambda t: mode.moved(t) if t.is_floating_point() else t, inputs)


def rounding_of(module: nn.Module, inputs: tuple[Any, ...], runs: int = 4) -> list[float]:
    """Return how much each output of a module changes at most, in absolute terms, by rounding alone.

    Top-k selections are held. 0 for whole numbers, and where it cannot be told: two runs of the module differ.
    """
    with torch.no_grad():
        with Chosen() as chosen:
            first = tensor_leaves(module(*cloned(inputs)))
        found = [0.0] * len(first)
        if not same(first, tensor_leaves(module(*cloned(inputs)))):
            return found
        for seed in range(runs):
            mode = OtherRounding(seed)
            try:
                with Forced(chosen.indices) if chosen.indices else nullcontext(), mode:
                    others = tensor_leaves(module(*rounded_otherwise(cloned(inputs), mode)))
            except FORWARD_FAILURES:
                continue
            for place, (one, other) in enumerate(zip(first, others, strict=False)):
                if one.is_floating_point() and one.shape == other.shape:
                    gap = (one - other).abs()
                    found[place] = max(found[place], float(gap[gap.isfinite()].max()) if gap.isfinite().any() else 0.0)
    return found


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two runs gave the same."""
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True)
    )
