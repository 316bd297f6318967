"""By what channels are ranked: a criterion, and the images that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from channelcut.adapters import calibration_of, preprocessing_of, weighing_of
from channelcut.allocation import Budget
from channelcut.core.deployed import Deploy
from channelcut.core.detections import Detections
from channelcut.core.graph import Graph, specs
from channelcut.core.groups import Groups
from channelcut.core.inputs import Inputs, check_callable, evenly
from channelcut.core.labels import Targets
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.sensitivity import images_in, images_of
from channelcut.core.tensors import named_tensors
from channelcut.recovery import Preprocessing, calibration_batches
from channelcut.recovery.batches import Batches
from channelcut.recovery.distil.losses import says_where
from channelcut.recovery.images import unreadable_words
from channelcut.scoring import (
    DETECTORS,
    WITH_IMAGES,
    WITHOUT_IMAGES,
    Importance,
    Sample,
    Scored,
    check_importance,
    check_labels,
    importance_name,
    reads_images,
    sampled_score,
    score,
    unit_of,
    without_images,
)

_NAMED = 5  # images that could not be decoded
MOST = 64  # images that a criterion reads: more change no ranking that was measured


@dataclass(frozen=True)
class Criterion:
    """By what channels are ranked, and the images that it reads; without a name, what suits them.

    detects: whether what counts of the outputs is what a detector finds, as its library or `detections` reads it.
    detections: reads what the outputs detect.
    tried: what the cuts by several criteria had lost, of which this is the best, see `trying`.
    targets: labels to rank by, in the place of the images and of what the outputs say.
    unreadable: of a folder's images, how many could not be decoded, how many were read, and some names of the former.

    Raises:
        UserError: it is no criterion, or needs images and there are none.
    """

    importance: Importance | None = None
    batches: Sequence[Inputs] = ()
    detects: bool = False
    targets: Targets | None = None
    unreadable: Mapping[str, Any] | None = None
    detections: Detections | None = None
    tried: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_importance(self.chosen)
        if self.targets is not None:
            check_labels(self.chosen)
        elif reads_images(self.chosen) and not self.batches:
            raise without_images(importance_name(self.chosen))

    @property
    def open(self) -> bool:
        """Whether nobody has named one for a detector of a known library that there are images of."""
        return self.importance is None and self.detects and self.detections is None and self.targets is None

    @property
    def chosen(self) -> Importance:
        """The one that is meant."""
        if self.importance is not None:
            return self.importance
        if not self.batches and self.targets is None:
            return WITHOUT_IMAGES
        return DETECTORS if self.detects and self.detections is None else WITH_IMAGES

    def scored(self, model: nn.Module, groups: Groups, watch: Stopwatch) -> Scored:
        """The importance of every channel of the deployed form."""
        tensors = named_tensors(model)
        if not reads_images(self.chosen):
            return Scored(score(groups, tensors, self.chosen, model))
        weights = score(groups, tensors, WITHOUT_IMAGES)
        weighing = weighing_of(model, groups.deploy, self.detections)
        report: Callable[[int, int], None] = lambda done, total: watch.progress("score", done, total)  # noqa: E731
        sample = Sample(self.batches, weighing, report=report, targets=self.targets)
        return sampled_score(groups, model, str(self.chosen), sample, weights)

    def said(self, budget: Budget, scored: Scored) -> dict[str, Any]:
        """The criterion as data: how many images it read, what its scores are in, and what it said nothing of."""
        found: dict[str, Any] = {"importance": importance_name(self.chosen)}
        if reads_images(self.chosen):
            unit = unit_of(self.chosen)
            found["scored_images"] = Sample(self.batches, targets=self.targets).images
            found |= {"scored_by": "labels"} if self.targets is not None else {}
            found |= {"weighed_by": "detections"} if self.detects and self.targets is None else {}
            found["unit"] = f"loss per {budget.limit[0]}" if unit == "loss" and budget.limit else unit
        found |= {"tried": dict(self.tried)} if self.tried else {}
        found |= {"unreadable": dict(self.unreadable)} if self.unreadable else {}
        return found | ({"unseen": list(scored.unseen)} if scored.unseen else {})


def criterion(
    model: nn.Module,
    importance: Importance | None,
    batches: Sequence[Inputs],
    deploy: Deploy,
    targets: Targets | None = None,
    detections: Detections | None = None,
) -> Criterion:
    """The criterion for a network, with as many images as it reads.

    Raises:
        UserError: as `Criterion`.
    """
    check_callable(detections, "detections", "detections(outputs)")
    detects = bool(batches) and weighing_of(model, deploy, detections).in_units
    unread = batches.unreadable if isinstance(batches, Batches) else ()
    said = {"images": len(unread), "read": sum(map(images_in, batches)), "names": list(unread[:_NAMED])}
    return Criterion(importance, few(batches), detects, targets, said if unread else None, detections)


def ranking_notes(plan: Plan, graph: Graph | None = None) -> list[str]:
    """What a reader of a report must know of the criterion; `graph`: of the network, where its outputs may matter."""
    name, found = plan.options.get("importance"), []
    if "scored_images" not in plan.options:
        found.append(
            f"The channels were ranked by {name}, which looks at weights alone. Magnitude is no importance for a "
            "detector: it loses nearly all of its accuracy at a tenth of its cost. Give --data with images like those "
            f"that it will see, and channels are ranked by what the outputs lose with them."
        )
    elif not {"weighed_by", "scored_by"} & set(plan.options) and graph is not None and says_where(graph):
        found.append(
            "The outputs of this network say where things are, and all of their numbers counted alike. If it is a "
            "detector, most of them are of places where nothing is: a function detections(outputs) beside the factory "
            "(detections= in Python) says what it finds, and the rest does not count (docs/adapters.md)."
        )
    if broken := plan.options.get("unreadable"):
        words = unreadable_words(broken["images"], broken["read"], broken["names"])
        found.append(f"Of what was given to calibrate, {words}")
    if unseen := plan.options.get("unseen"):
        some = ", ".join(unseen[:3]) + (f" and {len(unseen) - 3} more" if len(unseen) > 3 else "")
        found.append(
            f"No gradient of the outputs reaches {some} (a head that reads detached features, say), so that {name} "
            "knows nothing of these channels: they go last."
        )
    return found


def few(batches: Sequence[Inputs], most: int = MOST) -> list[Inputs]:
    """At most as many images as a criterion reads, evenly out of all batches, each a batch of its own."""
    places = [(batch, image) for batch in batches for image in range(images_in(batch))]
    chosen = [places[place] for place in evenly(len(places), most)]
    return [images_of(batch, image, image + 1) for batch, image in chosen]


def images_for(model: nn.Module, groups: Groups, calibration: Any, preprocessing: Preprocessing | None) -> Batches:
    """Batches for a network that was analyzed, of what `channelcut.prune` takes as calibration.

    Raises:
        UserError: it holds nothing, or does not fit the inputs that were traced.
    """
    if calibration is None:
        return Batches()
    example = traced_example(model, groups.graph, calibration)
    first = example[0][0] if example[0] else None
    given = calibration_of(model, calibration, first, preprocessing)
    return calibration_batches(given, example, preprocessing_of(model, preprocessing))


def traced_example(model: nn.Module, graph: Graph, calibration: Any) -> Inputs:
    """Inputs of the shapes that were traced; by name where the calibration names them."""
    others = tuple(f"{entry}." for entry in graph.entries)
    nodes = [node for node in graph.nodes if node.kind == "input" and not node.name.startswith(others)]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    made = [torch.empty(s.shape, dtype=s.dtype, device=device) for node in nodes for s in specs(node.value)]
    named = isinstance(calibration, Sequence) and calibration and isinstance(calibration[0], Mapping)
    if named and len(calibration[0]) == len(made) > 1:
        return (), dict(zip(calibration[0], made, strict=True))
    return tuple(made), {}
