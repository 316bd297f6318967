"""The same cut by Torch-Pruning: its groups, its criteria ranked over the whole network, to the same share of the MACs.

It has no budget of MACs: the pruning ratio that comes closest from below is found by bisection. Taylor takes the
gradient of the cross entropy against the network's own guesses, on the images that our criteria see.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.peer import ignored_layers, tensors

CRITERIA = {"resnet56": ("l2", "taylor"), "nanodet_m": ("l2",), "yolov5n": ("l2",)}
"""What is tried of each network: gradients are taken where the network is a classifier."""
STEPS = 9


def peer_cut(model: nn.Module, example: Tensor, images: Tensor, criterion: str, macs: float, align: int) -> Any:
    """The network that Torch-Pruning leaves, the share of the MACs and of the parameters, and the ratio that it took.

    Raises:
        ValueError: no ratio comes below the budget.
    """
    import torch_pruning as tp

    whole, parameters = tp.utils.count_ops_and_params(model, example)
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        cut = _pruned(model, example, images, criterion, ratio, align)
        left, remaining = tp.utils.count_ops_and_params(cut, example)
        if left <= macs * whole:
            best, high = (cut.eval(), left / whole, remaining / parameters, ratio), ratio
        else:
            low = ratio
    if best is None:
        raise ValueError(f"Torch-Pruning does not reach {macs:.3f} of the MACs")
    return best


def _pruned(model: nn.Module, example: Tensor, images: Tensor, criterion: str, ratio: float, align: int) -> nn.Module:
    import torch_pruning as tp

    taylor = criterion == "taylor"
    importance = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2)
    network = copy.deepcopy(model).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    ignored = ignored_layers(Example(network, (example,)))
    pruner = tp.pruner.BasePruner(
        network,
        example,
        importance=importance,
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        ignored_layers=ignored,
        round_to=align if align > 1 else None,
        output_transform=tensors,
    )
    for part in torch.split(images, 64) if taylor else ():
        outputs = network(part)
        F.cross_entropy(outputs, outputs.argmax(1)).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    network.zero_grad(set_to_none=True)
    return network
