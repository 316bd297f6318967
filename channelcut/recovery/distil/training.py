"""Distillation (Hinton et al. 2015, arXiv:1503.02531) of a cut, whose channels are the teacher's own.

Features compare without layers in between (Romero et al. 2015, arXiv:1412.6550, needed them): kept channel i of a layer
is the teacher's channel keep[i].
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.errors import UserError, no_memory
from channelcut.recovery.distil import checkpoints
from channelcut.recovery.distil.batching import Batches
from channelcut.recovery.distil.lesson import Lesson
from channelcut.recovery.distil.options import RecoverOptions
from channelcut.recovery.distil.penalty import Penalty
from channelcut.recovery.distil.processes import sum_gradients
from channelcut.recovery.distil.state import State, Tensors, copied

_EVERY_S = 120.0  # a checkpoint at least as often
_RATES, _USUAL_RATE = (1e-4, 3e-4, 1e-3, 3e-3), 1e-3
_ALIKE = 1.05  # losses that are within this of the best one are about as good
_SHARE, _SHORTEST, _LONGEST = 16, 48, 100  # a short training has one in `_SHARE` of all steps, within these limits,
_MOST = 4  # but no more than one in so many
Report = Callable[[int, int, str], None]
"""report(steps done, steps in all, loss and time left in words)"""


@dataclass(frozen=True)
class Course:
    """What is taught, to whom, for how long.

    cut: the network that learns; it is not changed.
    lesson: the teacher and the losses.
    batches: what it learns from.
    fixed: patterns of the names of parameters that stay.
    epochs: how often it sees all of it.
    options: how it is trained.
    folder: of the checkpoint; None: there is none.
    asked: what a checkpoint must have been made for, each part by its name in words.
    penalty: what shrinks as it learns, where anything does.
    careful: of learning rates that do about as well the lowest is taken in the place of the highest.
    """

    cut: nn.Module
    lesson: Lesson
    batches: Batches
    fixed: Sequence[str]
    epochs: int
    options: RecoverOptions
    folder: Path | None
    asked: Mapping[str, str]
    penalty: Penalty | None = None
    careful: bool = False


@dataclass(frozen=True)
class Outcome:
    """The weights that were learnt, and how it went, see `core.result.Recovery`."""

    tensors: Tensors
    steps: int
    before: float
    after: float
    history: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]


def distil(course: Course, report: Report) -> Outcome:
    """Train the cut of a course; goes on with the checkpoint in its folder where there is one.

    Raises:
        UserError: a loss is not finite, memory runs out on a single input, a checkpoint is of another recovery.
    """
    found = None if course.folder is None else checkpoints.read(course.folder, course.asked)
    course, notes = _with_rate(course, found, report)
    training = _Training(course, report)
    if found is not None:
        training.state.restore(found)
    else:
        training.state.notes += notes
    try:
        return training.run()
    except UserError:
        raise
    except BaseException:  # Ctrl-C, or whatever a callback raises to cancel
        if training.state.whole:
            training.save()
        raise


def _with_rate(course: Course, found: Mapping[str, Any] | None, report: Report) -> tuple[Course, list[str]]:
    """The course with a learning rate: that asked for, that of a checkpoint, or the best of some; and what to say."""
    options, notes = course.options, list[str]()
    rate = options.learning_rate
    if found is not None:
        rate = found["learning_rate"]
    elif rate is None and (options.init != "cut" or course.penalty is not None):
        rate = _USUAL_RATE  # how close the outputs come at first says nothing where they first go away
    elif rate is None:
        closeness = _tried(course, report)
        least = min(closeness.values())
        alike = [each for each, loss in closeness.items() if loss <= least * _ALIKE]
        # YOLO26n cut to 0.8 in four passes came to 1.95 by 1e-4 and to 2.08 by 3e-4, between which short trainings had
        # told 3 % the other way round.
        rate = min(alike) if course.careful else max(alike)
        tried = ", ".join(f"{each:g} ({loss:.4f})" for each, loss in closeness.items())
        notes.append(
            f"The learning rate {rate:g} was chosen by short trainings, whose loss on what is held back was, by rate: "
            f"{tried}."
        )
    return replace(course, options=replace(options, learning_rate=rate)), notes


def _tried(course: Course, report: Report) -> dict[float, float]:
    """How far the outputs on what is held back are after a short training at each rate, from low to high.

    Ends at the first rate that does clearly worse than the best one. A whole schedule each: what a rate gains is seen
    only when it has come down. Short trainings still favour low rates (Wu et al. 2018, arXiv:1803.02021), so that of
    those that do about as well the highest is taken, if the course is not a careful one. Of 192 steps in which 1e-3
    taught ResNet-56 most, 12 told that it does twice the harm of 1e-4, and 48 that it does as well.
    """
    found: dict[float, float] = {}
    for rate in _RATES:
        options = replace(course.options, learning_rate=rate)
        training = _Training(replace(course, folder=None, options=options), report)
        steps = max(1, min(training.total // _MOST, max(_SHORTEST, min(training.total // _SHARE, _LONGEST))))
        whole, training.total = training.total, steps
        try:
            for step in range(steps):
                report(0, whole, f"learning rate {rate:g}, step {step + 1} of {steps}")
                training.step()
        except UserError:  # it diverges, or the data is at fault
            if not found:
                raise
            break
        all_ = training.all  # one rate for all processes, whatever the last bits of theirs are
        closeness = torch.tensor(training.closeness(), device=all_.device)
        found[rate] = float(all_.total(closeness)) / all_.count
        if not found[rate] <= min(found.values()) * _ALIKE:
            break
    return found


class _Training:
    def __init__(self, course: Course, report: Report) -> None:
        self.course, self.lesson, self.batches, self.report = course, course.lesson, course.batches, report
        self.all = course.batches.all
        paths = [place.path for place in course.lesson.places]
        first = self.batches.plain(held=True, size=course.options.batch_size)[0]
        given = self.batches.given([self.batches.pool.item(i) for i in first])
        mine = len(self.batches.trained) // self.batches.per_epoch // self.all.count
        size = given.count if self.batches.pool.whole else min(mine, course.options.at_once or mine)
        self.state = State(course.cut, paths, course.fixed, course.options, self.all, size)
        self.state.penalty = course.penalty
        self.total = course.epochs * self.batches.per_epoch
        self.begun, self.saved = time.monotonic(), time.monotonic()
        self.lesson.measure(given, self.state.average)

    def run(self) -> Outcome:
        """All epochs, or as many as the outputs come closer in."""
        state, begun_at = self.state, self.state.step
        if not state.step and state.best is None:
            state.first = self.closeness()
            state.noted(state.first)
        while state.step < self.total and not self._over():
            loss = self.step()
            state.sum += loss
            left = (time.monotonic() - self.begun) / (state.step - begun_at) * (self.total - state.step)
            if state.step % self.batches.per_epoch == 0:
                self._epoch()
            elif time.monotonic() - self.saved > _EVERY_S:
                self.save()
            state.whole = True
            self.report(state.step, self.total, f"loss {loss:.4f}, {_time(left)} left")
        self.all.wait()
        return self._outcome()

    def _epoch(self) -> None:
        state = self.state
        found = self.closeness()
        state.history.append((state.sum / self.batches.per_epoch, found))
        state.sum = 0.0
        state.noted(found)
        state.whole = True
        self.save()

    def _over(self) -> bool:
        patience, state = self.course.options.patience, self.state
        return bool(patience and state.step % self.batches.per_epoch == 0 and state.since_best >= patience)

    def save(self) -> None:
        """Write the checkpoint: the first process does, for all."""
        self.saved = time.monotonic()
        if self.course.folder is not None and self.all.rank == 0:
            checkpoints.write(self.course.folder, self.course.asked, self.state.to_dict())

    def _outcome(self) -> Outcome:
        state, options = self.state, self.course.options
        notes = list(state.notes)
        done = len(state.history)
        if done < self.course.epochs:
            notes.append(f"The training stopped after {done} epochs: {options.patience} without a gain.")
        after = state.history[-1][1] if state.history else state.first
        tensors = copied(state.average.module)
        # With a task loss the teacher is no judge: the last weights count, unless somebody asked for the best. So they
        # do where channels shrink, which takes the outputs away from the teacher's.
        judged = self.course.penalty is None and (self.lesson.task is None or options.patience)
        if state.best is not None and state.best[0] < after and judged:
            after, tensors = state.best
            if after == state.first:
                notes.append("No epoch brought the outputs closer to the original's, so the weights are as they were.")
        teaches = self.lesson.task is not None and self.lesson.compares and self.course.penalty is None
        if teaches and after > state.first:
            notes.append(
                f"The labels led away from the original: on what is held back the outputs are farther from its own "
                f"than before ({state.first:.4g} → {after:.4g}). Compare the accuracy with that of the cut before you "
                "take it; a smaller weight of the task loss (task) keeps closer."
            )
        return Outcome(tensors, state.step, state.first, after, tuple(state.history), tuple(notes))

    def step(self) -> float:
        """One step over all processes; the loss."""
        state, step = self.state, self.state.step
        items = self.batches.items(step)
        found = self._gradients(items, step)
        loss = float(found)
        length = math.nan
        if math.isfinite(loss):
            if self.all.count > 1:
                for parameter in state.parameters:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                sum_gradients([p.grad for p in state.parameters if p.grad is not None], self.all)
            length = state.update(self.total)
        if not math.isfinite(length):
            raise self._not_finite(step, "loss" if not math.isfinite(loss) else "gradient")
        return loss

    def _gradients(self, items: Sequence[Any], step: int) -> Tensor:
        """The gradients of this process's share of a step, and the loss of all; halves what memory is short of."""
        while True:
            self.state.optimizer.zero_grad(set_to_none=True)
            failed = torch.zeros((), device=self.all.device)
            loss = torch.zeros((), device=self.all.device)
            try:
                loss = self._accumulated(items, step)
            except Exception as error:
                if not no_memory(error):
                    raise
                failed += 1
            if not self.all.total(failed):
                return self.all.total(loss)
            self._halve(len(items))

    def _accumulated(self, items: Sequence[Any], step: int) -> Tensor:
        state, positions = self.state, self.batches.positions(step)
        count = len(self.batches.numbers(step))
        size = 1 if self.batches.pool.whole else state.at_once or max(1, len(items))
        found = torch.zeros((), device=self.all.device)
        for start in range(0, len(items), size):
            chunk, places = items[start : start + size], positions[start : start + size]
            given = self.batches.chunk(chunk, step, places)
            with state.autocast():
                seed = self.course.options.seed * 1_000_003 + step * self.all.count + self.all.rank
                parts = self.lesson.parts(state.student, given, seed)
                loss = self.lesson.weighted(parts) * (len(chunk) / count)
            if not loss.requires_grad:
                raise UserError(
                    "The loss has no gradient: the network's forward computes without (torch.no_grad, detach) in "
                    "evaluation mode, so that nothing can be learnt. Expected outputs that depend on the weights."
                )
            torch.autograd.backward(state.scaler.scale(loss))
            found += loss.detach()
        return found

    def _halve(self, items: int) -> None:
        state = self.state
        before = min(state.at_once or items, items)
        if before <= 1 or self.batches.pool.whole:
            raise UserError(
                "There is not enough memory to train on a single "
                + ("batch of the data. Give smaller batches" if self.batches.pool.whole else "input. Give smaller ones")
                + ", choose precision='bf16', or another device."
            )
        state.at_once = before // 2
        text = f"Memory ran out at {before} inputs at once: {state.at_once} from step {state.step} on, gradients added."
        state.notes.append(text)
        if self.all.device.type == "cuda":
            torch.cuda.empty_cache()
        self.report(state.step, self.total, text)

    def _not_finite(self, step: int, what: str) -> UserError:
        numbers, epoch = self.batches.numbers(step), step // self.batches.per_epoch + 1
        names = [self.batches.pool.named(number) for number in numbers]
        folder, kept = self.course.folder, ""
        if folder is not None and (folder / checkpoints.CHECKPOINT).is_file():
            kept = f" The checkpoint in {folder} is of an earlier step, and good."
        return UserError(
            f"The {what} is not finite in step {step + 1} (epoch {epoch}), on the batch of {', '.join(names[:4])}"
            f"{f' and {len(names) - 4} more' if len(names) > 4 else ''}: the training was stopped and nothing was "
            f"changed by it.{kept} Look at these inputs and their labels, or take a lower learning_rate, or "
            "precision='fp32'."
        )

    def closeness(self) -> float:
        """The loss of the averaged weights on what is held back, without labels where the teacher has a say."""
        found, count = 0.0, 0
        size = self.state.at_once or self.course.options.batch_size
        for numbers in self.batches.plain(held=True, size=size):
            given = self.batches.given([self.batches.pool.item(number) for number in numbers])
            with torch.no_grad(), self.state.autocast():
                parts = self.lesson.parts(self.state.average, given, 0, task=not self.lesson.compares)
                found += float(self.lesson.weighted(parts)) * given.count
            count += given.count
        return found / max(1, count)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 2 else f"{60 * minutes + seconds} s"
