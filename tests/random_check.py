"""What may come of a random network: a proven cut that a check of its own confirms, or a refusal with a reason."""

from __future__ import annotations

import copy
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from random_networks import Network, build, example
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import channelcut as cc
from channelcut.core.tensors import named_tensors

TOLERANCE = 1e-9
SECONDS = 30
PACKAGE = str(Path(cc.__file__).parent)
# Zeros count in these means, maxima, variances and standardised weights: the masked original is another function.
MIXING_BLOCKS = {
    ("over channels", "mean"),
    ("over channels", "cbam"),
    ("over channels", "amax"),
    ("functional", "standardised"),
    ("over space", "whole mean"),
    ("over space", "grn"),
    ("attention", "channels"),
}
# So do they in sums and lengths, but only behind what makes something of zero, the same for every channel.
SUMMING_BLOCKS = {("over channels", how) for how in ("sum", "norm", "normalize")}
FILLING_BLOCKS = {("position", "space"), ("constant", "full"), ("constant", "scalar")}
FILLING_ACTIVATIONS = {"sigmoid", "softplus"}


@dataclass(frozen=True)
class Outcome:
    """`status` is proven, refused, unproven (a ProofError), wrong or crashed; the last three are defects.

    `checked` says whether the independent comparison was made.
    """

    status: str
    reason: str = ""
    detail: str = ""
    checked: bool = False

    @property
    def failed(self) -> bool:
        return self.status in ("unproven", "wrong", "crashed")


def settings(index: int) -> dict[str, Any]:
    """The options of a run: mostly a share of the channels, sometimes of the cost; both front ends and alignments."""
    budget = {"macs": 0.7} if index % 4 == 3 else {"keep": 0.5}
    return {**budget, "align": 4 if index % 5 == 4 else 1, "tracer": ("dispatch", "export", "auto")[index % 3]}


def check(description: Network, options: dict[str, Any]) -> Outcome:
    """Prune the network and judge what comes of it."""
    model, inputs = build(description), example(description)
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    try:
        with at_most(SECONDS):
            result = cc.prune(model, inputs, **options)
    except cc.ProofError as error:
        return Outcome("unproven", signature(str(error)), str(error))
    except cc.UserError as error:
        text = str(error)
        return Outcome("refused", signature(text), text) if text.strip() else Outcome("crashed", "an empty refusal")
    except Exception as error:  # noqa: BLE001  whatever else is raised is what this looks for
        frames = traceback.extract_tb(error.__traceback__)
        where = [frame for frame in frames if frame.filename.startswith(PACKAGE)][-1]
        reason = f"{type(error).__name__} in {where.filename.rpartition('/')[2]} {where.name}: {signature(str(error))}"
        return Outcome("crashed", reason, traceback.format_exc())
    if not result.proof.passed:
        return Outcome("wrong", "returned without a proof")
    if any(not torch.equal(tensor, before[name]) for name, tensor in named_tensors(model).items()):
        return Outcome("wrong", "the original was changed")
    error = difference(model, result, example(description, seed=1), masks=not mixes(description))
    if error is not None and not error <= TOLERANCE:
        return Outcome("wrong", "proven, but the masked original gives other outputs", f"differs by {error:.3g}", True)
    return Outcome("proven", checked=error is not None)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Stop what never ends, after seconds of processor time, so that a busy machine stops nothing; most take one."""

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError(f"still running after {seconds} s of processor time")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def mixes(description: Network) -> bool:
    """Whether zeroed channels count somewhere beside norms."""
    kinds = {(block.kind, block.options.get("how")) for block in description.blocks}
    filled = bool(kinds & FILLING_BLOCKS) or any(
        b.options.get("act") in FILLING_ACTIVATIONS for b in description.blocks
    )
    return bool(kinds & MIXING_BLOCKS) or (filled and bool(kinds & SUMMING_BLOCKS))


@torch.no_grad()
def difference(model: nn.Module, result: Any, inputs: tuple[Tensor, ...], *, masks: bool = True) -> float | None:
    """How far outputs are apart, relative to the largest: the cut model's, and those of the original with what the plan
    drops zeroed. Uses nothing of the package but `plan.kept`; None where zeros count (`masks=False`).
    """
    inputs = tuple(x.double() for x in inputs)
    masked = copy.deepcopy(model).double()
    for name, axes in result.plan.kept.items():
        tensor = named_tensors(masked)[name]
        for axis, positions in axes.items():
            dropped = sorted(set(range(tensor.shape[axis])) - set(positions))
            if not name.endswith("running_var"):
                tensor.data.index_fill_(axis, torch.tensor(dropped), 0.0)
    for path, module in masked.named_modules():
        kept = result.plan.kept.get(f"{path}.weight", {}).get(0)
        if kept is not None and isinstance(module, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)):
            module.register_forward_hook(over_kept(torch.tensor(kept)))
    expected, found = leaves(masked(*inputs)), leaves(copy.deepcopy(result.model).double()(*inputs))
    if [e.shape for e in expected] != [f.shape for f in found]:
        return float("inf")
    if not masks:
        return None
    return max(
        float((e.double() - f.double()).abs().max()) / max(1.0, float(e.double().abs().max()))
        for e, f in zip(expected, found, strict=True)
    )


def over_kept(kept: Tensor) -> Any:
    """A hook that gives a norm's output anew, with statistics of the kept channels alone: zeros would count there."""

    def hook(module: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        x = args[0] if isinstance(module, nn.GroupNorm) else args[0].movedim(-1, 1)
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else 1
        own = tuple(range(1, x.dim())) if isinstance(module, nn.GroupNorm) else (1,)
        result = torch.zeros_like(x)
        for members in torch.arange(x.shape[1]).view(groups, -1):
            left = members[torch.isin(members, kept)]
            part = x[:, left]
            centre = 0.0 if isinstance(module, nn.RMSNorm) else part.mean(own, keepdim=True)
            eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
            scaled = (part - centre) / ((part - centre).square().mean(own, keepdim=True) + eps).sqrt()
            column = [1, -1] + [1] * (x.dim() - 2)
            shift = 0.0 if isinstance(module, nn.RMSNorm) else module.bias[left].view(column)
            result[:, left] = scaled * module.weight[left].view(column) + shift
        return result if isinstance(module, nn.GroupNorm) else result.movedim(1, -1)

    return hook


def leaves(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def signature(text: str) -> str:
    """What a message says, without the numbers, names and places that differ from network to network."""
    if text.startswith("No channel of this model can be removed"):
        pins = sorted(
            {part.split(":")[0].strip() for part in text.partition(": ")[2].split(". Expected")[0].split("; ")}
        )
        return "No channel can be removed: " + ", ".join(pins)
    text = text.removeprefix("The cut could not be proven, so it is not returned: ")
    text = re.sub(r"\b(head\d|blocks\.\d)[\w.]*", "LAYER", text)
    return re.sub(r"[-+]?\d[\d.e+-]*", "#", text.splitlines()[0] if text else "")[:160]
