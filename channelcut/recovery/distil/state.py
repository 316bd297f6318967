"""The state of a training: the student, its optimiser, the average of its weights. All of it goes into a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.tensors import named_tensors
from channelcut.recovery.distil.options import RecoverOptions
from channelcut.recovery.distil.penalty import Penalty
from channelcut.recovery.distil.places import Tapped
from channelcut.recovery.distil.processes import Processes, share_statistics

_LAST_RATE = 0.01  # share of the highest rate that the cosine ends at
_STEADY = 32  # inputs whose statistics are steady enough to normalise by
_CLIP = 5.0  # longest gradient
Tensors = dict[str, Tensor]


class State:
    """What changes from step to step.

    Args:
        cut: the network to train; copies of it are made.
        paths: the layers whose outputs are compared.
        fixed: patterns of the names of parameters that stay.
        options: how.
        all_: the processes that train, with the device of this one.
        at_once: inputs that are computed together, which decide about batch norms.
    """

    def __init__(
        self,
        cut: nn.Module,
        paths: Sequence[str],
        fixed: Sequence[str],
        options: RecoverOptions,
        all_: Processes,
        at_once: int,
    ) -> None:
        self.options, self.all, self.device = options, all_, all_.device
        device = self.device
        self.student = Tapped(private_copy(cut).to(device).eval(), list(paths))
        self.average = Tapped(private_copy(cut).to(device).eval(), list(paths))
        own = named_tensors(self.student.module)
        pairs = [(mean, own[name]) for name, mean in named_tensors(self.average.module).items()]
        self._moved = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.parameters = _trainable(self.student.module, fixed)
        kinds = (
            [p for p in self.parameters if p.dim() > 1],
            [p for p in self.parameters if p.dim() < 2],
        )
        groups = [{"params": kinds[0], "weight_decay": options.weight_decay}, {"params": kinds[1], "weight_decay": 0.0}]
        assert options.learning_rate is not None, "training.distil has chosen one"
        self.learning_rate = options.learning_rate
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=options.learning_rate)
        self.half = _half(options.precision, device)
        scaled = self.half == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)  # type: ignore[attr-defined]
        many = options.batch_norm == "auto" and at_once >= _STEADY
        self.norms = [m for m in self.student.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not (many or options.batch_norm == "batch" or options.init != "cut"):
            self.norms = []
        for norm in self.norms:
            norm.train()
        self.penalty: Penalty | None = None
        self.step = 0
        self.at_once = options.at_once
        self.history: list[tuple[float, float]] = []  # by epoch: mean loss of its steps, and on what is held back
        self.first = math.nan  # on what is held back, before the first step
        self.best: tuple[float, Tensors] | None = None
        self.since_best = 0
        self.sum = 0.0  # of the losses of this epoch
        self.notes: list[str] = []
        self.whole = True  # False while a step is half done

    def autocast(self) -> Any:
        """The context that computes in the precision."""
        return torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None)

    def update(self, total: int) -> float:
        """One step by the gradients that the parameters have, which are the sums over all processes.

        Args:
            total: steps in all, by which the rate rises and falls.

        Returns:
            The length of the gradient; where it is not finite nothing has changed. Else `whole` is False until the
            caller has noted the step.
        """
        self.scaler.unscale_(self.optimizer)
        length = float(nn.utils.clip_grad_norm_(self.parameters, _CLIP))
        if not math.isfinite(length) and not self.scaler.is_enabled():
            return length
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * rate(self.step, total, self.options.warmup)
        self.whole = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.penalty is not None:
            self.penalty.shrink(self.student.module, self.step, total)
        share_statistics(self.norms, self.all)
        self._averaged()
        self.step += 1
        return length if math.isfinite(length) else 0.0  # with a scaler: it has skipped the step, and scales less

    def _averaged(self) -> None:
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():  # in one call: one by one they take a GPU as long as a forward
            torch._foreach_lerp_([mean for mean, _ in self._moved], [own for _, own in self._moved], 1 - decay)
            for mean, own in self._counted:
                mean.copy_(own)

    def noted(self, closeness: float) -> None:
        """Write down how far the average is from the teacher, and keep it where it has never been closer."""
        if self.best is None or closeness < self.best[0]:
            self.best, self.since_best = (closeness, copied(self.average.module)), 0
        else:
            self.since_best += 1

    def to_dict(self) -> dict[str, Any]:
        """All of it, as tensors, numbers and texts."""
        return {
            "step": self.step,
            "learning_rate": self.learning_rate,
            "at_once": self.at_once,
            "student": copied(self.student.module),
            "average": copied(self.average.module),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": [list(row) for row in self.history],
            "first": self.first,
            "best": list(self.best) if self.best else None,
            "since_best": self.since_best,
            "sum": self.sum,
            "notes": list(self.notes),
        }

    def restore(self, found: Mapping[str, Any]) -> None:
        """Become what `to_dict` said."""
        for tapped, name in ((self.student, "student"), (self.average, "average")):
            fill(tapped.module, found[name])
        self.optimizer.load_state_dict(found["optimizer"])
        if found["scaler"]:
            self.scaler.load_state_dict(found["scaler"])
        self.step, self.at_once, self.sum = found["step"], found["at_once"], found["sum"]
        self.history = [(row[0], row[1]) for row in found["history"]]
        self.first, self.since_best, self.notes = found["first"], found["since_best"], list(found["notes"])
        self.best = (found["best"][0], found["best"][1]) if found["best"] else None


def rate(step: int, total: int, warmup: float) -> float:
    """The learning rate of a step as a share of the highest: up in a line for a share `warmup`, down by a cosine.

    The cosine is that of Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    warm = round(warmup * total)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def copied(module: nn.Module) -> Tensors:
    """The tensors of a module, on the CPU, in memory of their own."""
    return {name: tensor.detach().cpu().clone() for name, tensor in named_tensors(module).items()}


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module the values of these tensors."""
    with torch.no_grad():
        for name, tensor in named_tensors(module).items():
            tensor.copy_(tensors[name])


def _trainable(module: nn.Module, fixed: Sequence[str]) -> list[nn.Parameter]:
    """The parameters that learn: those that are not frozen, all of a network that is frozen as a whole."""
    named = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point() and not any(fnmatch(name, pattern) for pattern in fixed)
    }
    if not any(parameter.requires_grad for parameter in named.values()):
        for parameter in named.values():
            parameter.requires_grad_(True)
    for name, parameter in module.named_parameters():
        if name not in named:
            parameter.requires_grad_(False)
    found = [parameter for parameter in named.values() if parameter.requires_grad]
    if not found:
        raise UserError("The cut network has no parameters of a floating-point type, so nothing can be trained.")
    return found


def _half(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision; None: float32."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device.type != "cuda":
        raise UserError("precision='fp16' trains on a GPU alone. Use 'bf16' or 'fp32' on a CPU.")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
