"""How much the outputs of a network depend on what its layers give: gradients of random projections of the outputs.

With signs r of ±1, drawn independently, the mean of (d Σ r·y / dz)² over projections is Σ (dy / dz)²: one backward pass
sees all outputs at once, and no labels are needed (Hutchinson 1989; Martens et al. 2012, arXiv:1206.6464).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.graph import tensor_paths
from channelcut.core.inputs import Inputs
from channelcut.core.randomness import OwnRandom

_ENOUGH = 16  # images that tell the deviation of an output


def floating(result: Any) -> list[Tensor]:
    """Every floating tensor of a result."""
    return [leaf for _, leaf in tensor_paths(result) if leaf.is_floating_point()]


@dataclass(frozen=True)
class Weighing:
    """What of a result counts, and how much.

    leaves: of what a forward returns: differentiable tensors, images first.
    in_units: whether these come in units in which a change of one counts alike everywhere; else each is taken in units
        of its own deviation, and all of them count alike, whatever their size.
    """

    leaves: Callable[[Any], Sequence[Tensor]] = floating
    in_units: bool = False


@dataclass(frozen=True)
class Projections:
    """Random ±1 sums of weighed outputs; the signs of an image depend on `seed`, its number and the round alone.

    factors: what each leaf is multiplied with; () for ones.
    """

    weighing: Weighing
    factors: tuple[float, ...] = ()
    seed: int = 0

    def of(self, result: Any, first: int = 0, turn: int = 0) -> Tensor:
        """The sum for a batch, shape (): of its images, which are numbered from `first`, in the round `turn`.

        Raises:
            UserError: it is not finite, or depends on no parameter and no input.
        """
        leaves = [leaf.float() if leaf.element_size() < 4 else leaf for leaf in self.weighing.leaves(result)]
        total = sum(
            ((leaf * sign).sum() * factor for leaf, sign, factor in self._signed(leaves, first, turn)),
            start=torch.zeros(()),
        )
        if not total.requires_grad:
            raise UserError(
                "No gradient reaches the network from its outputs: its forward detaches them, or runs in a "
                "no_grad or inference mode of its own. Use an importance that reads weights alone, such as l2."
            )
        if not bool(torch.isfinite(total.detach())):
            raise UserError(
                f"The outputs of the network are not finite on the calibration images (image {first} and after), so no "
                "gradient can be taken. Check the images and how they are prepared."
            )
        return total

    def _signed(self, leaves: list[Tensor], first: int, turn: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Each leaf with its signs, of its own shape, and its factor."""
        images = len(leaves[0]) if leaves and leaves[0].dim() else 1
        drawn: list[list[Tensor]] = [[] for _ in leaves]
        for image in range(images):
            generator = torch.Generator().manual_seed(((self.seed * 1_000_003 + first + image) << 12) + turn)
            for place, leaf in enumerate(leaves):
                batched = leaf.dim() > 0 and len(leaf) == images
                if batched or image == 0:
                    shape = leaf.shape[1:] if batched else leaf.shape
                    drawn[place].append(torch.empty(shape).bernoulli_(0.5, generator=generator).mul_(2).sub_(1))
        for place, (leaf, signs) in enumerate(zip(leaves, drawn, strict=True)):
            sign = torch.stack(signs) if leaf.dim() and len(leaf) == images else signs[0]
            yield leaf, sign.to(leaf.device, leaf.dtype), self.factors[place] if self.factors else 1.0


def projections(
    model: nn.Module, batches: Sequence[Inputs], weighing: Weighing | None = None, seed: int = 0
) -> Projections:
    """Projections of what a network returns; without units of their own, outputs are measured on the first images.

    Args:
        model: in evaluation mode; it is run.
        batches: inputs of its forward.
        weighing: what counts of a result; by default every floating tensor.
        seed: of the signs.
    """
    weighing = weighing or Weighing()
    if weighing.in_units:
        return Projections(weighing, (), seed)
    sums: list[list[float]] = []
    sizes: list[int] = []
    seen = 0
    for batch in batches:
        images = min(images_in(batch), _ENOUGH - seen)  # as many, however large batches are
        with torch.no_grad():
            leaves = [leaf.cpu().double() for leaf in weighing.leaves(run(model, images_of(batch, 0, images)))]
        sums = sums or [[0.0, 0.0, 0.0] for _ in leaves]
        sizes = [max(1, leaf.numel() // max(images, 1)) for leaf in leaves]
        for total, leaf in zip(sums, leaves, strict=True):
            for place, value in enumerate((float(leaf.numel()), float(leaf.sum()), float(leaf.square().sum()))):
                total[place] += value
        seen += images
        if seen >= _ENOUGH:
            break
    return Projections(weighing, tuple(_factor(total, size) for total, size in zip(sums, sizes, strict=True)), seed)


def _factor(sums: Sequence[float], size: int) -> float:
    """One over the deviation of a leaf and the root of its size, so that the mean squared change of each counts."""
    count, total, squares = sums
    mean = total / max(count, 1.0)
    deviation = math.sqrt(max(squares / max(count, 1.0) - mean**2, 0.0)) or abs(mean) or 1.0
    return 1.0 / (deviation * math.sqrt(size))


def run(model: nn.Module, batch: Inputs) -> Any:
    """What the forward of a model returns for a batch of images; random numbers are of a generator of its own.

    Raises:
        UserError: the model does not take them.
    """
    args, kwargs = batch
    try:
        with OwnRandom():
            return model(*args, **kwargs)
    except Exception as error:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        given = ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
        raise UserError(
            f"The calibration inputs ({given}) do not run through the network: {' '.join(str(error).split())[:300]}. "
            "Expected batches of the inputs that the network takes."
        ) from error


def images_in(batch: Inputs) -> int:
    """The images in a batch."""
    args, kwargs = batch
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim()]
    return len(tensors[0]) if tensors else 0


def images_of(batch: Inputs, start: int, stop: int) -> Inputs:
    """Some of the images in a batch."""
    args, kwargs = batch
    size = images_in(batch)

    def some(value: Any) -> Any:
        return value[start:stop] if isinstance(value, Tensor) and value.dim() and len(value) == size else value

    return tuple(some(a) for a in args), {name: some(a) for name, a in kwargs.items()}


def differentiable(model: nn.Module, *, parameters: bool = False) -> nn.Module:
    """A copy in evaluation mode whose floating parameters all take gradients, or none; what was frozen does not count.

    Without gradients of parameters a backward pass costs half.
    """
    clone = private_copy(model).eval()
    for parameter in clone.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(parameters)
    return clone


@dataclass
class Seen:
    """One call of a layer: what it was given, (N, ...), and the gradient at what it returned, of that shape."""

    path: str
    shape: tuple[int, ...]
    given: Tensor | None = None
    gradient: Tensor | None = None
    squared: Tensor | None = field(default=None, repr=False)


@contextmanager
def watched(model: nn.Module, layers: Sequence[str], *, inputs: bool = False) -> Iterator[list[Seen]]:
    """Note every call of these layers: a list that grows as the model runs, and gets gradients as it runs backwards.

    Args:
        model: from `differentiable`.
        layers: paths of modules that take and return one tensor.
        inputs: whether to keep what they are given.
    """
    found: list[Seen] = []

    def hook(path: str) -> Callable[..., Tensor]:
        def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            seen = Seen(path, tuple(output.shape), args[0].detach().clone() if inputs else None)
            found.append(seen)
            if not output.requires_grad:  # nothing before it takes gradients
                output = output.detach().requires_grad_().clone()  # no leaf: what follows may work in place

            def take(gradient: Tensor) -> None:
                seen.gradient = gradient.detach()
                squared = seen.gradient.square()
                seen.squared = squared if seen.squared is None else seen.squared + squared

            output.register_hook(take)  # type: ignore[no-untyped-call]  # before anything works in place on it: of the values as they are here
            return output

        return note

    handles = [model.get_submodule(path).register_forward_hook(hook(path)) for path in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def squared_gradients(
    model: nn.Module,
    batch: Inputs,
    layers: Sequence[str],
    weighed: Projections,
    *,
    first: int = 0,
    rounds: int = 1,
) -> dict[str, list[Tensor | None]]:
    """How much the outputs depend on each element that layers return: squared gradients, averaged over projections.

    Args:
        model: from `differentiable`.
        batch: inputs of its forward.
        layers: paths of modules that return one tensor.
        weighed: from `projections`.
        first: the number of the batch's first image; the signs of an image depend on it.
        rounds: projections to average over.

    Returns:
        By layer, for each of its calls in the forward in order, a tensor of the shape of what it returned (N, ...);
        None where the outputs do not depend on it.

    Raises:
        UserError: the outputs are not finite, or no gradient reaches the layers.

    Example:
        clone = differentiable(model)
        weighed = projections(clone, batches)
        squared = squared_gradients(clone, batches[0], ["layer1.0.conv1"], weighed)["layer1.0.conv1"][0]
    """
    with watched(model, layers) as seen, torch.enable_grad():
        result = run(model, batch)
        for turn in range(rounds):
            weighed.of(result, first, turn).backward(retain_graph=turn + 1 < rounds)  # type: ignore[no-untyped-call]
    found: dict[str, list[Tensor | None]] = {path: [] for path in layers}
    for one in seen:
        found[one.path].append(None if one.squared is None else one.squared / rounds)
    return found
