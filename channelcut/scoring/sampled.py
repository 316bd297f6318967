"""The criteria that read images, by name, and what their scores are in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.scoring.activations import activation_energy
from channelcut.scoring.gradients import Sample, Scores, fisher, group_fisher, taylor
from channelcut.scoring.reconstruction import reconstruction

Unit = Literal["relative", "loss", "density"]


@dataclass(frozen=True)
class Sampled:
    """A criterion that reads images.

    of: the importance of every channel, shape (channel_count,), of the groups, the model and the images.
    unit: what that is. A `loss` is what the outputs lose with the channel, over all layers that read it: allocation
        divides it by what the channel costs under the budget. A `density` is a loss that has been divided by something
        already. What is `relative` compares channels of one lane alone, in units of their mean.
    gradients: whether it is computed of gradients alone, so that those of a task loss on labels will do.
    """

    of: Callable[[Groups, nn.Module, Sample], Scores]
    unit: Unit
    gradients: bool = False


@dataclass(frozen=True)
class Scored:
    """The importance of every channel, shape (channel_count,), and the groups that the images said nothing of."""

    values: Scores
    unseen: tuple[str, ...] = ()


SAMPLED: dict[str, Sampled] = {
    "fisher": Sampled(fisher, "loss", gradients=True),
    "taylor": Sampled(taylor, "loss", gradients=True),
    "group-fisher": Sampled(group_fisher, "density", gradients=True),
    "reconstruction": Sampled(reconstruction, "loss"),
    "activation": Sampled(activation_energy, "relative"),
}


def sampled_score(groups: Groups, model: nn.Module, name: str, sample: Sample, fallback: Scores) -> Scored:
    """Importance of every channel by a criterion that reads images.

    What no gradient reaches, because a head detaches what it reads, say, is unknown rather than unimportant: it is
    ranked above all else, by `fallback`, and named where it is deployed.

    Args:
        groups: of the deployed form.
        model: it is copied, whatever parameters of it are frozen.
        name: of a criterion in `SAMPLED`.
        sample: the images.
        fallback: importance by weights alone, shape (channel_count,), of mean 1 in each lane.

    Raises:
        UserError: outputs or gradients are not finite, or no gradient reaches any channel.
    """
    found = SAMPLED[name].of(groups, model, sample)
    blind = [group for group in groups.groups if not found[group.channels].any()]
    if blind and len(blind) == len(groups.groups):
        raise UserError(
            "No gradient of the network's outputs reaches any channel that could go: what its head reads is detached, "
            "or the outputs do not depend on it. Take an importance that reads weights alone, such as l2."
        )
    highest = float(found.max(initial=0.0))
    for group in blind:  # above all else also per unit of cost
        found[group.channels] = 1e6 * highest * (1 + fallback[group.channels])
    counted = np.zeros(groups.channel_count, dtype=bool)
    for work in groups.work:
        counted[work.rows] = counted[work.columns] = True
    named = tuple(group.name for group in blind if counted[group.channels].any())
    return Scored(np.where(groups.group_of() >= 0, found, np.inf), named)
