"""Accuracy by Ultralytics' own validator of the task, of modules and of the ONNX files made of them."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from channelcut.adapters.ultralytics.borrowed import with_globals
from channelcut.adapters.ultralytics.data import mirrored, resolved, sentence, task_of
from channelcut.core.copies import private_copy
from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.quiet import quietly

TASKS = ("detect", "segment", "pose", "obb", "classify")
_KINDS = {"B": "", "M": "mask_", "P": "pose_"}  # their suffixes: boxes, masks, keypoints
_NAMES = {"mAP50-95": "map", "mAP50": "map50", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a private copy of a module or the path of a file, and what has to fit the data."""

    network: nn.Module | str
    task: str
    classes: int
    channels: int
    keypoints: tuple[int, ...]
    transformer: bool
    device: torch.device


def evaluate(
    model: nn.Module | str | Path,
    data: str | Path,
    *,
    imgsz: int | tuple[int, int],
    nms: bool | None = None,
    batch: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Evaluate a network or an ONNX file of one on the `val` split, by Ultralytics' validator of its task.

    Images are letterboxed to the whole size, as a file with a fixed input takes them (`rect=False` in their terms), so
    that a module and its file are given the same. Nothing is written beside the data or into the working directory,
    nothing is downloaded or reported, and the module stays as it is.

    Args:
        model: a network of theirs, or an ONNX file that holds their metadata.
        data: a data.yaml; to classify, a folder with train/ and val/.
        imgsz: height and width of the input, or one number for both; a file has its own.
        nms: of a module, as their validator takes it: False evaluates the head that needs no suppression.
        batch: images in a batch; a file with a fixed batch has its own.
        on_progress: called as on_progress(done, total), in batches.

    Returns:
        `map`, `map50`, `precision` and `recall` of boxes; to segment and for keypoints also `mask_map`, `pose_map` and
        so on; to classify `top1` and `top5`.

    Raises:
        UserError: the data is missing, or has other classes, channels or keypoints than the network.

    Example:
        evaluate(YOLO("best.pt").model, "data.yaml", imgsz=640)["map"]
    """
    subject = _of_file(Path(model)) if isinstance(model, (str, Path)) else _of_module(model)
    found = check_fits(subject, data)
    sizes = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    with tempfile.TemporaryDirectory(prefix="channelcut-") as name, quietly():
        folder = Path(name).resolve()
        content = mirrored(found, subject.task, data, folder)
        asked: dict[str, Any] = {"imgsz": max(sizes), "batch": batch, "rect": False, "plots": False, "workers": 0}
        asked |= {"mode": "val", "task": subject.task, "data": str(folder), "save_json": False, "verbose": False}
        asked |= {} if nms is None or isinstance(subject.network, str) else {"nms": nms}
        try:
            return _run(subject, content, asked, sizes, folder, on_progress)
        except UserError:
            raise
        except ImportError as error:
            raise MissingExtraError(str(error.name or error), "zoo", "Ultralytics' validator") from error
        except Exception as error:
            if "torchvision::" in str(error):  # an installation of another torch
                raise MissingExtraError("torchvision", "zoo", f"Ultralytics' validator ({error})") from error
            text = sentence(str(error).replace(str(folder), str(data)) or type(error).__name__)
            raise UserError(
                f"Ultralytics' validator fails on {data}: {type(error).__name__}: {text} Expected a data set whose "
                f"split 'val' has images and labels for the task {subject.task!r}."
            ) from error


_NO_EVALUATION = "leave the evaluation out (--no-evaluate; evaluate=False in Python): calibration reads no labels"


def check_fits(subject: Subject, data: str | Path, without: str = _NO_EVALUATION) -> dict[str, Any]:
    """The data set, after a look at whether it is one for the network; `without`: how to do without its labels.

    Raises:
        UserError: it has other classes, channels or keypoints.
    """
    found = resolved(data, subject.task)
    pairs = [("classes", int(found["nc"]), subject.classes), ("channels", int(found["channels"]), subject.channels)]
    if subject.task == "pose":
        given = tuple(int(n) for n in found.get("kpt_shape") or ())
        pairs.append(("keypoints", given, subject.keypoints))  # type: ignore[arg-type]
    for what, has, wants in pairs:
        if has != wants:
            raise UserError(
                f"The data set {data} has {has} {what}, and the network has {wants}: they do not fit. Give "
                f"the data that it was trained on, train it on this data first, or {without}."
            )
    return found


def check_module(model: nn.Module, data: str | Path, without: str = _NO_EVALUATION) -> dict[str, Any]:
    """`check_fits` for a module."""
    return check_fits(_described(model), data, without)


def _described(model: nn.Module) -> Subject:
    task = task_of(model)
    _check_task(task, type(model).__name__)
    head: Any = model.model[-1]  # type: ignore[index]
    names: Any = getattr(model, "names", {})
    first = next(model.parameters())
    channels = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
    keypoints = tuple(int(n) for n in getattr(head, "kpt_shape", ()))
    classes = int(getattr(head, "nc", len(names)))
    return Subject(model, task, classes, channels, keypoints, "RTDETR" in type(head).__name__, first.device)


def _of_module(model: nn.Module) -> Subject:
    found = _described(model)
    copy: Any = private_copy(model).float().eval()
    if len(getattr(copy, "names", ())) != found.classes:  # a head that was replaced by hand
        copy.names = {index: f"class{index}" for index in range(found.classes)}
    return Subject(copy, *list(vars(found).values())[1:])


def _of_file(path: Path) -> Subject:
    import onnx

    if not path.is_file():
        raise UserError(f"There is no file {path} to evaluate.")
    said = {p.key: p.value for p in onnx.load(str(path), load_external_data=False).metadata_props}
    if "task" not in said or "names" not in said:
        raise UserError(
            f"{path} does not say which task it is for, so that Ultralytics' validator cannot run it. Expected an ONNX "
            "file that was written of a network of theirs."
        )
    _check_task(said["task"], path.name)
    keypoints = tuple(ast.literal_eval(said.get("kpt_shape", "()")))
    names, channels = ast.literal_eval(said["names"]), int(said.get("channels", 3))
    transformer = said.get("head") == "RTDETRDecoder"
    return Subject(str(path), said["task"], len(names), channels, keypoints, transformer, torch.device("cpu"))


def _check_task(task: str, name: str) -> None:
    if task not in TASKS:
        raise UserError(
            f"{name} is for the task {task!r}, which is not evaluated here; these are: {', '.join(TASKS)}. "
            "Leave the evaluation out (--no-evaluate), and let YOLO('pruned.pt').val(data=...) do it."
        )


def _run(
    subject: Subject,
    content: Mapping[str, Any],
    asked: Mapping[str, Any],
    sizes: list[int],
    folder: Path,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, float]:
    """Their validation, given the data set and the device, which would otherwise set the threads of the process."""
    import ultralytics.engine.validator as theirs

    kind: Any = _validator(subject)

    class Watched(kind):  # type: ignore[misc]  # their classes have no types
        """Their validator, which reports to nobody but the caller."""

        def run_callbacks(self, event: str) -> None:
            """Tell of a batch."""
            if event == "on_val_batch_end" and on_progress is not None:
                on_progress(self.batch_i + 1, len(self.dataloader))

    validator = Watched(save_dir=folder / "run", args=dict(asked))
    if sizes[0] != sizes[1]:
        validator.args.imgsz = sizes
    given: Any = lambda *_, **__: dict(content)  # noqa: E731
    device: Any = lambda *_, **__: subject.device  # noqa: E731
    run = with_globals(
        theirs.BaseValidator.__call__, check_det_dataset=given, check_cls_dataset=given, select_device=device
    )
    with torch.inference_mode():
        found = run(validator, model=subject.network)
    return _metrics(found, subject.task)


def _validator(subject: Subject) -> type:
    import ultralytics.models.yolo as theirs

    if subject.transformer:
        from ultralytics.models.rtdetr import RTDETRValidator

        return RTDETRValidator  # type: ignore[no-any-return]
    names = {
        "detect": "Detection",
        "segment": "Segmentation",
        "pose": "Pose",
        "obb": "OBB",
        "classify": "Classification",
    }
    found: type = getattr(getattr(theirs, subject.task), f"{names[subject.task]}Validator")
    return found


def _metrics(found: Mapping[str, Any], task: str) -> dict[str, float]:
    """Their results under short names: `metrics/mAP50-95(B)` is `map`."""
    metrics = {}
    for name, value in found.items():
        short = name.removeprefix("metrics/")
        if task == "classify" and short.startswith("accuracy_"):
            metrics[short.removeprefix("accuracy_")] = float(value)
        kind, _, suffix = short.partition("(")
        if kind in _NAMES and suffix[:1] in _KINDS:
            metrics[_KINDS[suffix[:1]] + _NAMES[kind]] = float(value)
    return metrics
