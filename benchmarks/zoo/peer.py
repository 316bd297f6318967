"""The same models through Torch-Pruning, as its own examples use it: L2 over groups, half of them, heads ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.lively import LAYERS
from benchmarks.zoo.record import Record, peak_mib
from benchmarks.zoo.run_one import KEEP, prepare

PRODUCTS = ("Convolution", "Addmm", "Mm", "MkldnnConvolution", "SlowConv", "ThnnConv")
QUERIES = ("query", "key", "value", "q_proj", "k_proj", "v_proj")


def peer(zoo: str, name: str, record: Record, folder: Path) -> None:  # noqa: ARG001  every task has one signature
    """Build the dependency graph once for its time, prune, and run what is left."""
    import torch_pruning as tp

    with record.outcome():
        example = prepare(zoo, name, record)
        model, built = example.model, peak_mib()
        before = sum(parameter.numel() for parameter in model.parameters())
        ignored = ignored_layers(example)
        for parameter in model.parameters():  # what is frozen, Torch-Pruning does not see
            parameter.requires_grad_(parameter.is_floating_point())
        with record.stage("graph"):
            tp.DependencyGraph().build_dependency(model, example.inputs, output_transform=tensors)
        with record.stage("pruner"):
            pruner = tp.pruner.BasePruner(
                model,
                example.inputs,
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=1 - KEEP,
                ignored_layers=ignored,
                num_heads=attention_heads(model),
                output_transform=tensors,
            )
        with record.stage("step"):
            pruner.step()
            update_heads(model, pruner.num_heads)
        with record.stage("run"), torch.no_grad():
            example.run()
        after = sum(parameter.numel() for parameter in model.parameters())
        record.say(
            outcome="cut" if after < before else "unchanged",
            params_ratio=round(after / before, 4),
            peak_mib=round(peak_mib() - built, 1),
        )


def ignored_layers(example: Example) -> list[nn.Module]:
    """What the user of a list of ignored layers would put in: named heads, and the layers that give the outputs."""
    modules = dict(example.model.named_modules())
    named = [modules[path] for path in example.peer_ignores if path in modules]
    owners = {id(module.weight): module for module in modules.values() if isinstance(module, LAYERS)}
    with torch.enable_grad():
        found = {id(weight) for weight in last_weights([output.grad_fn for output in tensors(example.run())])}
    return named + [owner for key, owner in owners.items() if key in found]


def tensors(outputs: Any) -> list[Tensor]:
    """The tensors of a result that depend on parameters: its graph search stops at None and at numbers."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.grad_fn is not None]


def last_weights(functions: list[Any]) -> list[Tensor]:
    """The weights of the products that are met first on the way back from the outputs."""
    seen, weights = set(functions), list[Tensor]()
    todo = list(seen)
    while todo:
        function = todo.pop()
        if function.name().startswith(PRODUCTS) and (found := weights_of(function)):
            weights += found
            continue
        for following, _ in function.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return weights


def weights_of(function: Any) -> list[Tensor]:
    """The parameters with several axes that a product takes directly or transposed."""
    found = []
    for following, _ in function.next_functions:
        leaf = following
        if leaf is not None and leaf.name().startswith(("TBackward", "TransposeBackward", "ViewBackward")):
            leaf = leaf.next_functions[0][0]
        variable = getattr(leaf, "variable", None)
        if variable is not None and variable.dim() > 1:
            found.append(variable)
    return found


def attention_heads(model: nn.Module) -> dict[nn.Module, int]:
    """The `num_heads` argument as documented: fused projections, MultiheadAttention, and triples of projections."""
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        count = getattr(module, "num_heads", None) or getattr(module, "num_attention_heads", None)
        if not isinstance(count, int):
            continue
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = count
            continue
        for name in ("qkv", *QUERIES):
            projection = getattr(module, name, None)
            if isinstance(projection, LAYERS):
                heads[projection] = count
    return heads


def update_heads(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Tell attention modules their new sizes, which Torch-Pruning leaves to its user."""
    module: Any
    for module in model.modules():
        fused = getattr(module, "qkv", None)
        if fused in heads and hasattr(module, "head_dim"):
            module.num_heads = heads[fused]
            module.head_dim = out_features(fused) // (3 * heads[fused])
            if hasattr(module, "attn_dim"):
                module.attn_dim = out_features(fused) // 3
        single = next((p for n in ("query", "q_proj") if (p := getattr(module, n, None)) in heads), None)
        if single is not None:
            size = out_features(single)
            for name, value in (
                ("attention_head_size", size // heads[single]),
                ("head_dim", size // heads[single]),
                ("all_head_size", size),
            ):
                if hasattr(module, name):
                    setattr(module, name, value)


def out_features(layer: Any) -> int:
    """Outputs of a linear layer or convolution."""
    return int(layer.weight.shape[0])
