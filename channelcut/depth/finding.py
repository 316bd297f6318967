"""The residual blocks of a network that something of torch's own can stand for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.copies import cloned, private_copy
from channelcut.core.entries import called
from channelcut.core.groups import Groups
from channelcut.core.inputs import Inputs
from channelcut.core.randomness import OwnRandom
from channelcut.coupling.branches import Block, residual_blocks


def blocks_of(model: nn.Module, groups: Groups, inputs: Inputs) -> dict[str, Block]:
    """The blocks that could go, by the paths of their modules.

    What stands for a module takes one tensor and returns one, and it is called: a list of modules is not.

    Args:
        model: the network, which stays as it is.
        groups: what `analyze` found in it.
        inputs: an example.
    """
    if not residual_blocks(groups.graph):
        return {}
    return {block.module: block for block in residual_blocks(groups.graph, _simple(model, inputs))}


def _simple(model: nn.Module, inputs: Inputs) -> set[str]:
    """The modules that one tensor alone is given to, whenever they are called, and that return one."""
    clone, seen, others = private_copy(model).eval(), set[str](), set[str]()

    def noting(path: str) -> Any:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            simple = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            (seen if simple else others).add(path)

        return note

    for path, module in clone.named_modules():
        module.register_forward_hook(noting(path), with_kwargs=True)
    with torch.no_grad(), OwnRandom():
        called(clone, cloned(inputs))
    return seen - others
