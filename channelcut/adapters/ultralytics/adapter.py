"""The adapter of Ultralytics' networks; nothing here imports the library before a network of it is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut.adapters.base import Adapter
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.sensitivity import Weighing
from channelcut.recovery.distil.losses import Teaching
from channelcut.recovery.distil.pool import Labelled
from channelcut.recovery.images import Preprocessing

CHECKPOINT = "pruned.pt"


class Ultralytics(Adapter):
    """Detectors, segmenters, pose and oriented boxes, classifiers, RT-DETR."""

    def owns(self, model: nn.Module) -> bool:
        """Whether the class of the whole network is the library's; a layer of theirs in another network is not it."""
        return any(kind.__module__ == "ultralytics.nn.tasks" for kind in type(model).__mro__)

    def deployed(self, model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
        """What Ultralytics' exporter would write, see `deployed.deployed_form`."""
        from channelcut.adapters.ultralytics.deployed import deployed_form

        return deployed_form(model, inputs, deploy, dynamic=dynamic)

    def engine_form(self, model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy) -> Deployed | None:
        """What they build an engine from, where the head picks its boxes otherwise, see `deployed.engine_form`."""
        from channelcut.adapters.ultralytics.deployed import engine_form

        return engine_form(model, inputs, deploy)

    def store(self, model: nn.Module, folder: Path) -> None:
        """`pruned.pt`, which their package loads and our trainers train."""
        from channelcut.adapters.ultralytics.checkpoint import save_checkpoint

        save_checkpoint(model, folder / CHECKPOINT)

    def undeployed(self, model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
        """The head that the call does not select, and what only training uses."""
        from channelcut.adapters.ultralytics.deployed import undeployed_modules

        return undeployed_modules(model, deploy)

    def weighing(self, model: nn.Module, deploy: Deploy) -> Weighing:
        """What the deployed head detects, see `weighing.detections`; of other tasks every output."""
        from channelcut.adapters.ultralytics.weighing import detections

        return detections(model, deploy)

    def teaching(self, model: nn.Module) -> Teaching:
        """Scores and boxes weighted by the teacher's confidence, see `teaching.teaching`."""
        from channelcut.adapters.ultralytics.teaching import teaching

        return teaching(model)

    def is_data_set(self, model: nn.Module, data: Any) -> bool:
        """A `data.yaml`; to classify also a folder with train/."""
        from channelcut.adapters.ultralytics.data import is_data_set, task_of

        return is_data_set(data, task_of(model))

    def images(
        self,
        model: nn.Module,
        data: str | Path,
        shape: tuple[int, int, int],
        preprocessing: Preprocessing | None = None,
        limit: int = 256,
    ) -> tuple[Tensor, list[str]]:
        """Those of its `train` split, see `data.calibration_images`."""
        from channelcut.adapters.ultralytics.data import calibration_images, task_of

        return calibration_images(data, task_of(model), shape, preprocessing, limit)

    def labelled(
        self,
        model: nn.Module,
        data: Any,
        shape: tuple[int, ...],
        preprocessing: Preprocessing | None = None,
        epochs: int = 1,
        *,
        plain: bool = False,
    ) -> Labelled | None:
        """The labels of a data set's `train` split, with their criterion, see `labels.labelled`."""
        if not self.is_data_set(model, data) or len(shape) != 3:
            return None
        from channelcut.adapters.ultralytics.data import check_preprocessing
        from channelcut.adapters.ultralytics.labels import labelled

        check_preprocessing(data, preprocessing)
        return labelled(model, data, max(shape[1:]), epochs, plain=plain)

    def check_labels(self, model: nn.Module, data: Any) -> None:
        """See `labels.check_labels`."""
        if self.is_data_set(model, data):
            from channelcut.adapters.ultralytics.labels import check_labels

            check_labels(model, data)

    def check_data(self, model: nn.Module, data: str | Path) -> None:
        """See `evaluation.check_module`."""
        from channelcut.adapters.ultralytics.evaluation import check_module

        check_module(model, data)

    def evaluate(
        self,
        model: nn.Module | str | Path,
        data: str | Path,
        *,
        imgsz: int | tuple[int, int],
        nms: bool | None = None,
        batch: int = 16,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float] | None:
        """By their validator of the task, see `evaluation.evaluate`."""
        from channelcut.adapters.ultralytics.evaluation import evaluate

        return evaluate(model, data, imgsz=imgsz, nms=nms, batch=batch, on_progress=on_progress)
