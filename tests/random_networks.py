"""Random networks: a printable description, drawn by hypothesis or by a seed, and `build`, which makes the module.

    failing = Network(inputs=((3, 8, 8),), blocks=(Block("conv", (0,), {"width": 8, ...}), ...), ...)
    model = build(failing)

A block reads earlier maps, counted back from the newest (0). Descriptions stay valid when blocks are taken out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st
from random_blocks import BLOCKS, HEADS, Kind, Options, Shape
from torch import Tensor, nn

Choose = Callable[[Sequence[Any]], Any]
CONTAINERS = ("one", "tuple", "list", "dict", "nested")


@dataclass(frozen=True)
class Block:
    """A block of some kind, the maps that it reads (0: the newest), and its options."""

    kind: str
    sources: tuple[int, ...] = (0,)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """Inputs (C, H, W), blocks in order, heads on the maps that they read, how the outputs are packed, the seed."""

    inputs: tuple[Shape, ...]
    batch: int
    blocks: tuple[Block, ...]
    heads: tuple[Block, ...]
    container: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Network:
        blocks, heads = (
            tuple(Block(b["kind"], tuple(b["sources"]), b["options"]) for b in data[part])
            for part in ("blocks", "heads")
        )
        inputs = tuple((int(c), int(h), int(w)) for c, h, w in data["inputs"])
        return cls(inputs, data["batch"], blocks, heads, data["container"], data["seed"])


class Built(nn.Module):
    """Runs the blocks of a description."""

    def __init__(self, description: Network) -> None:
        super().__init__()
        self.container = description.container
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleDict()
        maps = [torch.zeros(1, *shape) for shape in description.inputs]
        self.wires: list[list[int]] = []
        for block in description.blocks:
            wire = [_position(back, len(maps)) for back in block.sources]
            module = _module(BLOCKS[block.kind], block, [maps[i] for i in wire])
            self.blocks.append(module)
            self.wires.append(wire)
            maps.append(module.eval()(*[maps[i] for i in wire]))
        self.ends = [_position(head.sources[0], len(maps)) for head in description.heads]
        for number, (head, end) in enumerate(zip(description.heads, self.ends, strict=True)):
            self.heads[f"head{number}"] = _module(HEADS[head.kind], head, [maps[end]])

    def forward(self, *inputs: Tensor) -> Any:
        maps = list(inputs)
        for block, wire in zip(self.blocks, self.wires, strict=True):
            maps.append(block(*[maps[i] for i in wire]))
        outputs = [head(maps[end]) for head, end in zip(self.heads.values(), self.ends, strict=True)]
        if self.container == "tuple":
            return tuple(outputs)
        if self.container == "list":
            return outputs
        if self.container == "dict":
            return {f"out{i}": output for i, output in enumerate(outputs)}
        if self.container == "nested":
            return {"first": outputs[0], "others": [tuple(outputs[1:]), {"last": outputs[-1] * 0.5}]}
        return outputs[0] if len(outputs) == 1 else outputs


def _position(back: int, count: int) -> int:
    return count - 1 - back % count


def _module(kind: Kind, block: Block, maps: Sequence[Tensor]) -> nn.Module:
    plainest = {name: choices[0] for name, choices in kind.choices.items()}
    return kind.module(*[tuple(m.shape[1:]) for m in maps], Options({**plainest, **block.options}))


@torch.no_grad()
def build(description: Network) -> nn.Module:
    """The network in evaluation mode, with weights that carry signals and differ from channel to channel."""
    with torch.random.fork_rng():
        torch.manual_seed(description.seed)
        model = Built(description)
        for name, parameter in model.named_parameters():
            if sum(extent > 1 for extent in parameter.shape) > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith(("bias", "beta")):
                parameter.normal_(0, 0.2)
            else:
                parameter.uniform_(0.5, 1.5)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def example(description: Network, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs of the network."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(description.batch, *shape, generator=generator) for shape in description.inputs)


def draw_network(choose: Choose, kinds: Sequence[str] = tuple(BLOCKS)) -> Network:
    """Draw a description; the first thing that `choose` may choose is the plainest."""
    size = choose((8, 16))
    inputs = tuple((choose((3, 1, 4)), size, size) for _ in range(choose((1, 1, 1, 2))))
    blocks = [Block("conv", (0,), {"kernel": 3, **_options(BLOCKS["conv"], choose)})]
    if len(inputs) > 1:
        blocks.append(_draw(choose(("concat", "add")), choose, (0, 1)))
    blocks.extend(_draw(choose(kinds), choose, None) for _ in range(choose(tuple(range(2, 11)))))
    heads = [Block(name := choose(tuple(HEADS)), (0,), _options(HEADS[name], choose))]
    heads.extend(
        Block(name := choose(tuple(HEADS)), (choose((0, 1, 2, 3)),), _options(HEADS[name], choose))
        for _ in range(choose((0, 0, 1, 2)))
    )
    return Network(inputs, choose((1, 2)), tuple(blocks), tuple(heads), choose(CONTAINERS), choose(tuple(range(1000))))


def _draw(kind: str, choose: Choose, sources: tuple[int, ...] | None) -> Block:
    """The newest map is always read, so that no block is without effect."""
    count = BLOCKS[kind].sources
    chosen = sources or (0, *[choose((1, 2, 3, 4, 0)) for _ in range(count - 1)])
    if len(chosen) > 1 and choose((False, True)):
        chosen = chosen[::-1]
    return Block(kind, chosen[:count], _options(BLOCKS[kind], choose))


def _options(kind: Kind, choose: Choose) -> dict[str, Any]:
    return {name: choose(choices) for name, choices in kind.choices.items()}


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Descriptions of networks, for `@given`."""
    return draw_network(lambda choices: draw(st.sampled_from(choices)))


def seeded(seed: int) -> Network:
    """The same description for the same seed, spread evenly where hypothesis looks for corners."""
    generator = random.Random(seed)
    return draw_network(generator.choice)


def shrink(description: Network, fails: Callable[[Network], bool]) -> Network:
    """Take out blocks, heads and options one at a time for as long as it still fails."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _simpler(description):
            if fails(candidate):
                description, smaller = candidate, True
                break
    return description


def _simpler(n: Network) -> list[Network]:
    found = [replace(n, blocks=n.blocks[:i] + n.blocks[i + 1 :]) for i in range(len(n.blocks))]
    if len(n.heads) > 1:
        found += [replace(n, heads=n.heads[:i] + n.heads[i + 1 :]) for i in range(len(n.heads))]
    if len(n.inputs) > 1:
        found.append(replace(n, inputs=n.inputs[:1]))
    if n.container != "one":
        found.append(replace(n, container="one"))
    for part, table in (("blocks", BLOCKS), ("heads", HEADS)):
        for i, block in enumerate(blocks := getattr(n, part)):
            for name, value in block.options.items():
                plainest = table[block.kind].choices[name][0]
                if value != plainest:
                    plain = replace(block, options={**block.options, name: plainest})
                    found.append(replace(n, **{part: (*blocks[:i], plain, *blocks[i + 1 :])}))
    if any(head.kind != "map" for head in n.heads):
        found += [replace(n, heads=tuple(Block("map", h.sources, {"act": False}) for h in n.heads))]
    return found
