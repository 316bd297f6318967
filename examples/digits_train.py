"""Training of the digits detector: target assignment, losses, and a loop that resumes where it was stopped."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from examples.digits_map import boxes_to_distances, cells, distances_to_boxes, flatten
from examples.digits_optimizer import optimizers_for
from examples.digits_scenes import Scene, images_to_input, make_scenes

RADIUS = 1.5
FINE_UP_TO = 28.0
COARSE_FROM = 22.0
SAVE_EVERY = 50


@dataclass(frozen=True)
class TrainOptions:
    """How long and how fast to train; `seed` fixes weights and scenes."""

    steps: int = 400
    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    warmup: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Targets:
    """Per cell, its matched box (B, A, 4) in pixels, label (B, A), and whether it has one at all (B, A)."""

    boxes: Tensor
    labels: Tensor
    positive: Tensor


def assign(scenes: Sequence[Scene]) -> Targets:
    """Match every cell near the centre of a box on a fitting scale to that box; the smallest box wins a dispute.

    A cell is near when its centre lies within `RADIUS` strides of the box's on both axes (centre sampling of FCOS, Tian
    et al. 2019, arXiv 1904.01355). Boxes up to `FINE_UP_TO` pixels belong to stride 8, from `COARSE_FROM` on to stride
    16: sizes between the two are taught to both scales.
    """
    centres, strides = cells()
    most = max(1, *(len(scene.boxes) for scene in scenes))
    boxes = torch.zeros(len(scenes), most, 4)
    labels = torch.zeros(len(scenes), most, dtype=torch.long)
    for row, scene in enumerate(scenes):
        boxes[row, : len(scene.boxes)] = torch.from_numpy(scene.boxes)
        labels[row, : len(scene.boxes)] = torch.from_numpy(scene.labels)
    extent = boxes[..., 2:] - boxes[..., :2]
    side, area = extent.amax(-1), extent.prod(-1)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    offset = (middle[:, None] - centres[:, None]).abs().amax(-1)  # (B, A, M)
    near = offset < RADIUS * strides[:, None]
    fine = strides[:, None] == strides.min()
    fits = torch.where(fine, side[:, None] <= FINE_UP_TO, side[:, None] >= COARSE_FROM)
    cost = torch.where(near & fits & (area > 0)[:, None], area[:, None], math.inf)
    smallest, match = cost.min(-1)
    matched = boxes.gather(1, match[..., None].expand(-1, -1, 4))
    return Targets(matched, labels.gather(1, match), smallest.isfinite())


def generalised_iou(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of paired boxes (N, 4): two tensors (N,) (Rezatofighi et al. 2019, arXiv 1902.09630)."""
    shared = (torch.minimum(left[:, 2:], right[:, 2:]) - torch.maximum(left[:, :2], right[:, :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(left[:, 2:], right[:, 2:]) - torch.minimum(left[:, :2], right[:, :2])).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (left, right)]
    union = (areas[0] + areas[1] - shared).clamp(min=1e-6)
    iou = shared / union
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def loss_of(maps: Sequence[Tensor], targets: Targets) -> Tensor:
    """Sum of class and box losses per positive cell, a scalar.

    Classes: binary cross-entropy towards the box's current IoU, so that the score ranks boxes too (the target of the
    quality focal loss, Li et al. 2020, arXiv 2006.04388, without its focusing factor, which slowed the first minute).
    Boxes: 1 - generalised IoU, plus a smooth L1 on the distances, which still has a gradient for inverted boxes.
    """
    centres, strides = cells()
    distances, logits = flatten(maps)
    positive = targets.positive
    count = positive.sum().clamp(min=1)
    boxes = distances_to_boxes(distances, centres, strides)
    wanted = boxes_to_distances(targets.boxes, centres, strides)
    iou, overlap = generalised_iou(boxes[positive], targets.boxes[positive])
    quality = torch.zeros_like(logits)
    quality[positive] = F.one_hot(targets.labels[positive], logits.shape[-1]) * iou.detach().clamp(min=0.1)[:, None]
    classes = F.binary_cross_entropy_with_logits(logits, quality, reduction="sum") / count
    corners = F.smooth_l1_loss(distances[positive], wanted[positive], reduction="sum", beta=0.25) / (4 * count)
    return 2 * classes + 2 * (1 - overlap).sum() / count + corners


def pace(step: int, options: TrainOptions) -> float:
    """Factor on the peak learning rate: linear warm-up, then a half cosine down to 1 %."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    progress = (step - options.warmup) / max(1, options.steps - options.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def save_atomically(value: object, path: Path) -> None:
    """Write with `torch.save`: a reader of `path` sees the old file or the new one, never half of one."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_atomically(path, buffer.getvalue())


def _batches(first: int, options: TrainOptions) -> Iterator[tuple[Tensor, Targets]]:
    """Yield inputs and targets of steps `first` to the last, drawn two steps ahead on a second thread."""

    def draw(step: int) -> tuple[Tensor, Targets]:
        scenes = make_scenes(options.batch, options.seed, "train", step * options.batch)
        return images_to_input([scene.image for scene in scenes]), assign(scenes)

    with ThreadPoolExecutor(1) as pool:
        ahead: list[Future[tuple[Tensor, Targets]]] = []
        for step in range(first, options.steps):
            while len(ahead) < min(3, options.steps - step):
                ahead.append(pool.submit(draw, step + len(ahead)))
            yield ahead.pop(0).result()


def _resume(
    state_file: Path | None, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], options: TrainOptions
) -> int:
    """Load an interrupted run of equal options; return the step to go on from."""
    if state_file is None or not state_file.exists():
        return 0
    try:
        state: dict[str, Any] = torch.load(state_file, weights_only=True)
        if state["options"] != asdict(options):
            return 0
        model.load_state_dict(state["model"])
        for optimizer, entries in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(entries)
        return int(state["step"])
    except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{state_file} should hold an interrupted training of this detector, but cannot be read as one: it is "
            f"damaged or of another version ({type(error).__name__}). Delete it, or pass --fresh to train anew."
        ) from error


def train(model: nn.Module, options: TrainOptions, state_file: Path | None = None, quiet: bool = False) -> list[float]:
    """Train in place and return the loss of every step run; leaves the model in training mode.

    With `state_file`, the state is kept there every `SAVE_EVERY` steps, and an interrupted run of equal options goes on
    from it; scenes are numbered by step, so a resumed run sees the scenes that an uninterrupted one sees.
    """
    optimizers = optimizers_for(model, options.learning_rate, options.weight_decay)
    first = _resume(state_file, model, optimizers, options)
    model.train()
    losses: list[float] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=quiet) as progress:
        bar = progress.add_task("training", total=options.steps, completed=first)
        for step, (images, targets) in enumerate(_batches(first, options), first):
            losses.append(_step(model, optimizers, images, targets, pace(step, options)))
            recent = losses[-20:]
            progress.update(bar, advance=1, description=f"training, loss {sum(recent) / len(recent):5.2f}")
            if state_file is not None and (step + 1) % SAVE_EVERY == 0:
                entries = {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                save_atomically(entries | {"step": step + 1, "options": asdict(options)}, state_file)
    return losses


def _step(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], images: Tensor, targets: Targets, factor: float
) -> float:
    """One update at `factor` times the peak learning rates; returns the loss before it."""
    loss = loss_of(model(images.contiguous(memory_format=torch.channels_last)), targets)
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
    return loss.item()
