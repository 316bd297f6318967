"""`train`: a cut network in, the trained one out, with a plan that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from channelcut.adapters.ultralytics.trainers import network_of
from channelcut.adapters.ultralytics.yolo import YOLO
from channelcut.core.inputs import check_kind
from channelcut.core.record import record_of
from channelcut.core.result import PruneResult


@dataclass(frozen=True)
class TrainedResult(PruneResult):
    """What `train` returns: the result with the trained network, to be saved and exported like any other.

    Args:
        metrics: what Ultralytics' validator says of the best checkpoint.
        folder: of the run; its `weights/best.pt` is the network.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    folder: Path = Path()


def train(result: PruneResult, **arguments: Any) -> TrainedResult:
    """Train a cut network with Ultralytics' trainer of its task, which keeps its shapes.

    Where the data has other classes than the network, its head is given these, as Ultralytics does it: hidden widths
    stay, rows of classes that both know by name are copied. Nothing is drawn unless `plots=True` asks for it.

    Args:
        result: what `prune` or an earlier training returned; it stays as it is.
        arguments: Ultralytics' own: `data`, `epochs`, `imgsz`, `batch`, `freeze`, `resume`, ...

    Returns:
        The result with the network of `best.pt`. Its plan's `changes` tell of the training.

    Raises:
        UserError: the network is not one of Ultralytics, the data does not fit, a checkpoint to resume is of another
            plan, or the runs' folder cannot be written to.

    Example:
        trained = cc.ultralytics.train(result, data="data.yaml", epochs=50, imgsz=640)
        cc.save(trained, "out")
    """
    check_kind(result, PruneResult, "result", "channelcut.prune")
    model = YOLO(result)
    model.train(**{"plots": False, **arguments})
    network = network_of(model.model)
    record = record_of(network)
    assert record is not None
    old = {each.name: getattr(result, each.name) for each in fields(PruneResult)}
    found = getattr(model.metrics, "results_dict", model.metrics) or {}
    return TrainedResult(
        **{**old, "model": network, "plan": record.plan},
        metrics={str(name): float(value) for name, value in found.items()},
        folder=Path(model.trainer.save_dir),
    )
