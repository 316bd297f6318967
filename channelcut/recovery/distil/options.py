"""How a recovery trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from channelcut.core.errors import UserError
from channelcut.core.inputs import check_kind
from channelcut.recovery.distil.augment import KINDS
from channelcut.recovery.images import Preprocessing, check_preprocessing

BATCH_NORM = ("auto", "frozen", "batch", "recalibrate")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
INITS = ("cut", "scratch", "rewind")
UNTOLD = ("workers", "device")  # options by which what is learnt does not differ


@dataclass(frozen=True)
class RecoverOptions:
    """How `recover` trains; what was measured of it is in `benchmarks/results/recovery.md`.

    Args:
        batch: inputs in one step, over all processes; a data set that is smaller is one batch. None: 8 of a network
            whose outputs say where things are and whose batch norms stay, which learns more by more steps, else 32.
        at_once: inputs that a process computes at a time, the gradients of a step being accumulated; 0: all of them.
            Where memory runs out it is halved.
        learning_rate: of AdamW at its highest, after the warm-up. None: of 1e-4, 3e-4, 1e-3 and 3e-3 the highest
            by which a short training brings the outputs on what is held back about as close as by the best of them,
            or of networks whose outputs say where things are the lowest; 1e-3 where `init` draws or rewinds.
        warmup: share of the steps in which the rate rises; afterwards it falls by a cosine.
        weight_decay: of weights with more than one axis.
        ema: decay of the average of weights that is returned, reached slowly; 0: the weights of the last step.
        batch_norm: `frozen` (statistics stay, scales and shifts are trained), `batch` (statistics of each batch, their
            averages are kept), `recalibrate` (frozen, and measured anew at the end) or `auto`: `batch` where a process
            computes 32 inputs or more at once, else, of compensated cuts, and of networks whose outputs say where
            things are (have more than two axes), `frozen`. What is drawn (`init`) needs those of batches.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: fp32 on a CPU, bf16 or fp16 on a GPU.
        device: such as `cuda:1`; by default the GPU where there is one, else where the network is.
        augment: what is done to every input, for teacher and student alike: some of `flip`, `scale`, `colour` and
            `mosaic`. None: flip, scale and colour, mosaic too for detectors that are known as such; with a task loss
            colour alone, because labels may say where things are; with the labels of a library's data set that
            library's own augmentation, which moves the labels too.
        output: weight of the loss on outputs.
        features: weight of the loss on the outputs of cut layers.
        task: weight of the task loss, where there is one; 0: labels are not read.
        places: the most layers whose outputs are compared.
        held_back: share of the inputs that are not trained on, at most 256, and tell how close the outputs are.
        patience: epochs without a gain on these after which the training stops; 0: never.
        preprocessing: how images of a folder become inputs; by default as for `prune`.
        workers: threads that read images.
        init: what the training starts from: the weights of the `cut`, drawn ones (`scratch`), or early weights of the
            original (`rewind`), for comparison.
        rewind: of these the state dict of the original network, for `init="rewind"`.
        seed: of the order, the augmentation, and what is drawn else.

    Raises:
        UserError: a value makes no sense, or PyTorch does not see the device.

    Example:
        >>> import channelcut as cc
        >>> cc.RecoverOptions(learning_rate=1e-4, augment=("flip",)).batch_size
        32
    """

    batch: int | None = None
    at_once: int = 0
    learning_rate: float | None = None
    warmup: float = 0.1
    weight_decay: float = 1e-4
    ema: float = 0.999
    batch_norm: str = "auto"
    precision: str = "auto"
    device: str = ""
    augment: tuple[str, ...] | None = None
    output: float = 1.0
    features: float = 1.0
    task: float = 1.0
    places: int = 6
    held_back: float = 0.05
    patience: int = 0
    preprocessing: Preprocessing | None = None
    workers: int = 4
    init: str = "cut"
    rewind: Mapping[str, Any] | None = None
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Inputs in one step where nothing is known of the network."""
        return 32 if self.batch is None else self.batch

    def prepared(self, how: Preprocessing | None) -> RecoverOptions:
        """The same, with a preprocessing where there is none yet."""
        return replace(self, preprocessing=self.preprocessing or how)

    def __post_init__(self) -> None:
        for name, choices in (("batch_norm", BATCH_NORM), ("precision", PRECISIONS), ("init", INITS)):
            if getattr(self, name) not in choices:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown: use one of {', '.join(choices)}.")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if name in ("learning_rate", "batch") and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise UserError(f"{name}={value!r} cannot train a network. Expected a number from {low:g} to {high:g}.")
        for name in ("batch", "at_once", "places", "patience", "workers", "seed"):
            if not isinstance(getattr(self, name), int) and not (name == "batch" and self.batch is None):
                raise UserError(f"{name}={getattr(self, name)!r}: expected a whole number.")
        given = self.augment or ()
        if isinstance(given, str) or not isinstance(given, Iterable) or [kind for kind in given if kind not in KINDS]:
            raise UserError(
                f"augment={self.augment!r} is unknown: use some of {', '.join(KINDS)}, such as ('flip', 'colour'), or "
                "() for none."
            )
        if (self.init == "rewind") != (self.rewind is not None):
            raise UserError(
                "init='rewind' and rewind= go together: give the state dict of the original network as it was early "
                "in its training, rewind=torch.load('epoch5.pt')."
            )
        if self.rewind is not None:
            check_kind(self.rewind, Mapping, "rewind", "model.state_dict()")
        check_preprocessing(self.preprocessing)
        if self.device:
            _check_device(self.device)
        if self.output + self.features + self.task == 0:
            raise UserError("output, features and task are all 0, so nothing would be learnt. Leave one above 0.")


def _check_device(asked: object) -> None:
    """Refuse a device that is not here, or computes nothing."""
    try:
        device = torch.device(asked) if isinstance(asked, (str, torch.device)) else None
    except RuntimeError:
        device = None
    if device is None or device.type == "meta":
        raise UserError(f"device={asked!r} is none that trains: expected cpu, cuda or cuda:1, say.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"device={str(asked)!r}, and PyTorch sees {count or 'no'} CUDA device{'s' if count > 1 else ''} here. "
            + (f"Expected cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}" if count else "Expected cpu")
            + ", or leave it out: the training then runs on the GPU where there is one."
        )


_RANGES = (
    ("batch", 1, 1 << 20), ("at_once", 0, 1 << 20), ("learning_rate", 1e-12, 10), ("warmup", 0, 1),
    ("weight_decay", 0, 1), ("ema", 0, 0.999999), ("output", 0, 1e6), ("features", 0, 1e6), ("task", 0, 1e6),
    ("places", 0, 1000), ("held_back", 0, 0.5), ("patience", 0, 1 << 20), ("workers", 1, 256), ("seed", 0, 1 << 62),
)  # fmt: skip
DEFAULT = RecoverOptions()
