"""What trains: `recover` after a cut, `sparsify` before it, `prune_in_rounds` several times on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from channelcut.core.detections import Detections
from channelcut.core.labels import Loss
from channelcut.core.progress import Progress
from channelcut.core.result import PruneResult
from channelcut.recovering.rounds import in_rounds
from channelcut.recovering.sparse import PENALTY, sparsified
from channelcut.recovering.steps import Training, recovered
from channelcut.recovery.distil import DEFAULT, RecoverOptions


def recover(
    model: nn.Module,
    result: PruneResult,
    data: Any,
    *,
    epochs: int,
    loss: Loss | None = None,
    detections: Detections | None = None,
    out: str | Path | None = None,
    options: RecoverOptions = DEFAULT,
    progress: Progress | None = None,
) -> PruneResult:
    """Train a cut network with the original as its teacher; labels are not needed.

    The student learns the outputs of the original (each in units of its variation; the heads of Ultralytics' detectors
    weighted by its confidence), and what layers that lost channels compute on the channels that are left. Both run in
    evaluation mode, on the same augmented inputs. Under `torchrun` all processes share every batch (this needs the
    extra `lightning`); each of them returns the same.

    Args:
        model: the original, which is not changed.
        result: what `prune`, or an earlier recovery, made of it; it stays as it is.
        data: unlabelled inputs: a folder of images, a tensor (N, C, H, W), a data set or loader of inputs or of (input,
            label), an iterable of these or of batches, which is read once, up to 1 GiB; or, of Ultralytics' networks, a
            data.yaml, of which the `train` split alone is read, with its labels, whose loss is then the task loss. A
            share of them is held back and never trained on.
        epochs: how often the data is gone through.
        loss: the task's own loss, called as loss(model, batch) with the student in evaluation mode and a batch as
            `data` gives it, on the device; returns a tensor of one number that is added. What it raises comes out as it
            is. By default that of the network's library, where `data` is a data set of the library's, and none else.
        detections: where the outputs hold what a detector finds, and its library is not known: reads it, see `plan`.
            Scores and boxes are learnt then, weighted by the original's confidence, in the place of every output.
        out: a folder for the checkpoint. Where there is one of the same recovery it is gone on with, so that the same
            call ends a training that was interrupted or killed, with the same weights (bit by bit on a CPU).
        options: see `RecoverOptions`.
        progress: called as progress(stage, done, total); where it has a method `note(stage, text)`, that hears of the
            loss and of the time left. What it raises leaves at once, behind a checkpoint.

    Returns:
        The result with the trained network, to be saved, exported or recovered again. `recovery` says how it went, and
        `plan.changes` tells of it.

    Raises:
        UserError: the result was cut from another network, the data is missing or too little of it can be read, a loss
            is not finite (the text names the batch), or the checkpoint in `out` is of another recovery.
        MissingExtraError: there are several processes, and Lightning Fabric is not installed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> result = cc.prune(model, torch.rand(1, 3, 16, 16), keep=0.5)
        >>> recovered = cc.recover(model, result, torch.rand(64, 3, 16, 16), epochs=2)
        >>> recovered.recovery.after < recovered.recovery.before
        True
    """
    asked = Training(data, epochs, loss, out, options, progress, detections=detections)
    return recovered(model, result, asked)


def sparsify(
    model: nn.Module,
    x: Any,
    data: Any,
    *,
    epochs: int,
    penalty: float = PENALTY,
    loss: Loss | None = None,
    out: str | Path | None = None,
    options: RecoverOptions = DEFAULT,
    progress: Progress | None = None,
    **prunes: Any,
) -> nn.Module:
    """Train a network before it is cut, so that the channels that are to go shrink and the others take over.

    A penalty on the squared norms of these channels, in all tensors that make or read them, grows from step to step
    (growing regularisation, Wang et al. 2021, arXiv:2012.09243; over whole groups as in DepGraph, Fang et al. 2023,
    arXiv:2301.12900), while the network as it was teaches the outputs, see `recover`: labels are not needed. Which
    channels go, the importance that `prune` would rank by says, once, before the training.

    Args:
        model: a trained network; it is not changed.
        x: an example input, see `analyze`.
        data: what it teaches with, see `recover`.
        epochs: how often the data is gone through.
        penalty: how far the channels would shrink if nothing held them: by exp(-penalty), over all steps.
        loss: the task's own, see `recover`.
        out: a folder for the checkpoint, see `recover`; the same call goes on where it was.
        options: how it trains; `init` and `patience` are of no use here, and features are not compared.
        progress: see `recover`.
        prunes: the keywords of `prune` that say what is to go: the budget, `align`, `calibration`, ...

    Returns:
        A copy with other weights, to be pruned by the same budget. Plans of its cuts name the weights of `model`, which
        stays the teacher of a recovery, and tell of the training in `changes`.

    Raises:
        UserError: see `plan` and `recover`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> x, images = torch.rand(1, 3, 8, 8), torch.rand(32, 3, 8, 8)
        >>> sparse = cc.sparsify(model, x, images, epochs=4, keep=0.5)
        >>> result = cc.prune(sparse, x, keep=0.5)
        >>> recovered = cc.recover(model, result, images, epochs=1)
        >>> [change["step"] for change in recovered.plan.changes]
        ['sparsify', 'recover']
    """
    asked = Training(data, epochs, loss, out, options, progress, detections=prunes.get("detections"))
    return sparsified(model, x, asked, penalty, prunes)


def prune_in_rounds(
    model: nn.Module,
    x: Any,
    data: Any,
    *,
    rounds: int,
    epochs: int,
    loss: Loss | None = None,
    out: str | Path | None = None,
    options: RecoverOptions = DEFAULT,
    progress: Progress | None = None,
    **prunes: Any,
) -> PruneResult:
    """Cut in several rounds, each with a recovery by the original, so that every ranking is of a network that sees.

    After round r of k what is left of the budgeted cost is its share to the power of r / k (Frankle and Carbin 2019,
    arXiv:1803.03635, prune a constant share of what is left).

    Args:
        model: the original, which is not changed, and which teaches in every round.
        x: an example input, see `analyze`.
        data: what it teaches with, see `recover`.
        rounds: how many.
        epochs: of the recovery in every round.
        loss: see `recover`.
        out: a folder for the checkpoints of all rounds, see `recover`; the same call goes on where it was.
        options: how the recoveries train.
        progress: see `recover`.
        prunes: the keywords of `prune`: the budget of the last round, `calibration`, `align`, ...

    Returns:
        The last round's result, with a plan that leads from the original, so that it loads in one step. `proof` and
        `recovery` are of the last round; every round was proven, and `plan.changes` tells of all recoveries.

    Raises:
        UserError: see `prune` and `recover`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
        >>> x, images = torch.rand(1, 3, 8, 8), torch.rand(32, 3, 8, 8)
        >>> result = cc.prune_in_rounds(model, x, images, rounds=2, epochs=1, keep=0.25)
        >>> result.model[0].out_channels, [change["round"] for change in result.plan.changes]
        (4, [1, 2])
    """
    asked = Training(data, epochs, loss, out, options, progress, detections=prunes.get("detections"))
    return in_rounds(model, x, rounds, asked, prunes)
