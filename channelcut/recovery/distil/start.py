"""What a training starts from: the cut's own weights, drawn ones, or early ones of the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.plan import Plan
from channelcut.core.randomness import OwnRandom
from channelcut.core.tensors import named_tensors
from channelcut.cutting.apply import cut
from channelcut.recovery.distil.state import fill


def drawn(small: nn.Module, seed: int) -> tuple[nn.Module, list[str]]:
    """A copy with initial weights, as every layer's `reset_parameters` draws them; and the parameters that none did."""
    clone = private_copy(small)
    reset: set[int] = set()
    with OwnRandom(seed):
        for module in clone.modules():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw):
                draw()
                reset |= {id(parameter) for parameter in module.parameters(recurse=False)}
    return clone, [name for name, parameter in clone.named_parameters() if id(parameter) not in reset]


def rewound(model: nn.Module, small: nn.Module, plan: Plan, early: Mapping[str, Any]) -> nn.Module:
    """A copy of a cut with the weights that the original had early in its training (Frankle et al., arXiv:1912.05671).

    Raises:
        UserError: they are not those of this architecture.
    """
    original = private_copy(model)
    try:
        original.load_state_dict(early)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"The early weights do not fit the original network: {' '.join(str(error).split())[:300]}. Expected its "
            "state dict from an early epoch: --rewind epoch5.pt (rewind=torch.load('epoch5.pt') in Python)."
        ) from error
    clone = private_copy(small)
    fill(clone, named_tensors(cut(original, plan)))
    return clone
