"""Accuracy of all that `compress` makes on a labelled data set: the networks, and every file that is handed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut.adapters import Adapter, adapter_of
from channelcut.adapters.user_file import UserFile
from channelcut.core.deployed import Deploy
from channelcut.core.errors import UserError
from channelcut.core.progress import Stopwatch

_UNIT = 100  # steps of the progress bar for each network or file


class Evaluations:
    """The rows of a report's table of accuracies, filled in one after the other.

    Args:
        model: the original network, whose library evaluates all of them.
        data: a data set of that library's.
        example: an example input; its height and width are those of the evaluation.
        deploy: which head is evaluated.
        watch: is told of the progress.

    Raises:
        UserError: the data set is missing or does not fit the network.
    """

    def __init__(self, model: nn.Module, data: str, example: Tensor, deploy: Deploy, watch: Stopwatch) -> None:
        self.adapter, self.data, self.deploy, self.watch = adapter_of(model), data, deploy, watch
        self.size = (int(example.shape[2]), int(example.shape[3]))
        self.rows: list[dict[str, Any]] = []
        self.adapter.check_data(model, data)

    def add(self, stage: str, subjects: Sequence[tuple[str, str, nn.Module | Path]]) -> None:
        """Evaluate some: (network, what of it, the module or file). A file that cannot be evaluated says why."""
        with self.watch.stage(stage):
            for place, (network, what, subject) in enumerate(subjects):

                def count(done: int, total: int, before: int = place) -> None:
                    self.watch.progress(stage, before * _UNIT + _UNIT * done // total, len(subjects) * _UNIT)

                row: dict[str, Any] = {"network": network, "what": what}
                try:
                    row["metrics"] = self.adapter.evaluate(
                        subject, self.data, imgsz=self.size, nms=self.deploy.nms, on_progress=count
                    )
                except UserError as error:
                    if isinstance(subject, nn.Module):
                        raise
                    row |= {"metrics": None, "reason": str(error)}
                self.rows.append(row)

    def to_dict(self, words: Mapping[str, str]) -> dict[str, Any]:
        """The content of the report; `words` say which head, suppression and library it was."""
        said = {name: words[name] for name in ("head", "suppression", "library") if name in words}
        return {"data": self.data, "split": "val", "imgsz": list(self.size), **said, "rows": self.rows}


class OwnEvaluations:
    """The same rows, of networks alone, by the function `evaluate` of a user's file.

    Args:
        adapter: of that file.
        watch: is told of the progress.
    """

    def __init__(self, adapter: UserFile, watch: Stopwatch) -> None:
        self.adapter, self.watch = adapter, watch
        self.rows: list[dict[str, Any]] = []

    def add(self, stage: str, subjects: Sequence[tuple[str, str, nn.Module | Path]]) -> None:
        """Evaluate the networks among some."""
        with self.watch.stage(stage):
            networks = [found for found in subjects if isinstance(found[2], nn.Module)]
            for place, (network, what, subject) in enumerate(networks):
                self.watch.progress(stage, place, len(networks))
                self.rows.append({"network": network, "what": what, "metrics": self.adapter.evaluate(subject)})

    def to_dict(self, words: Mapping[str, str]) -> dict[str, Any]:  # noqa: ARG002  those of the deployed form
        """The content of the report."""
        return {"by": self.adapter.said("evaluate"), "rows": self.rows}


def evaluations_by(
    owner: Adapter, model: nn.Module, data: str | None, example: Any, deploy: Deploy, watch: Stopwatch
) -> Evaluations | OwnEvaluations | None:
    """What evaluates: the function of a user's file, or the library's validator on a data set; None where neither is.

    Args:
        owner: the adapter of the network.
        model: the original.
        data: see `evaluated_data`.
        example: an example input.
        deploy: which head is evaluated.
        watch: is told of the progress.
    """
    if isinstance(owner, UserFile) and "evaluate" in owner.functions:
        return OwnEvaluations(owner, watch)
    return Evaluations(model, data, example, deploy, watch) if data else None


def evaluated_data(model: nn.Module, data: Any, example: Any) -> str | None:
    """The data set that a network can be evaluated on, as an absolute path; None where `data` is none."""
    if not isinstance(example, Tensor) or example.dim() != 4 or not adapter_of(model).is_data_set(model, data):
        return None
    return str(Path(data).resolve()) if Path(data).exists() else str(data)
