"""The labels of Ultralytics' data sets and their own loss, for a recovery and for scores.

Images and labels come from their data set, with the augmentation of their trainer, and the loss is the network's own
`loss(batch)`. Only random numbers are ours: what an image becomes follows from the seed that it is asked for with.
"""

from __future__ import annotations

import copy
import inspect
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from channelcut.adapters.ultralytics.borrowed import Draws, with_globals, with_own_random
from channelcut.adapters.ultralytics.data import image_files, mirrored, sentence, task_of
from channelcut.adapters.ultralytics.evaluation import TASKS, check_module
from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.quiet import quietly
from channelcut.core.randomness import OwnRandom
from channelcut.recovery.distil.pool import Labelled, Pool, Vary

_EPOCH = "epoch"  # of a batch's entries, beside theirs: the epoch that it is of
_WITHOUT = "do without its labels (--task 0, or RecoverOptions(task=0), of a recovery)"


def labelled(model: nn.Module, data: str | Path, size: int, epochs: int, *, plain: bool) -> Labelled | None:
    """The labelled images of the `train` split, as their trainer makes batches of them, and the loss of these.

    Args:
        model: the network that takes them.
        data: a data.yaml, or to classify a folder with train/.
        size: of the square images.
        epochs: of the training, in whose last ones (`close_mosaic`) there are no mosaics, and over which the weight of
            a one-to-many head falls.
        plain: images are letterboxed and nothing else.

    Returns:
        None for a task whose labels are not read here. Without labels beside the images the loss is None.

    Raises:
        UserError: the data set is missing, or has other classes, channels or keypoints than the network.
    """
    task, found = task_of(model), check_labels(model, data)
    if found is None:
        return None
    if task != "classify" and not _labels(found, data):
        said = f"No labels stand beside the images of the split 'train' of {data}."
        return Labelled(data, None, (said,))
    settings = _settings(model, task, size, epochs)
    folder = tempfile.TemporaryDirectory(prefix="channelcut-", ignore_cleanup_errors=True)
    with quietly():
        try:
            content = mirrored(found, task, data, Path(folder.name).resolve(), "train")
            images = _Images(_data_set(content, task, settings, model), settings, folder)
        except UserError:
            raise
        except (ImportError, RuntimeError) as error:
            if isinstance(error, ImportError) or "torchvision::" in str(error):
                raise MissingExtraError("torchvision", "zoo", f"Ultralytics' data set ({error})") from error
            raise _refused(data, error) from error
        except Exception as error:
            raise _refused(data, error) from error
    return Labelled(images.pool(len(image_files(found, "train", data)), data, plain=plain), Criterion(settings, found))


def check_labels(model: nn.Module, data: str | Path) -> dict[str, Any] | None:
    """The data set, after a look at whether its labels are for the network; None for a task whose are not read here.

    Raises:
        UserError: see `labelled`.
    """
    if task_of(model) not in TASKS or "RTDETR" in type(model).__name__:
        return None
    found = check_module(model, data, _WITHOUT)
    _check_order(model, found, data)
    return found


class Criterion:
    """Ultralytics' loss of a batch, the mean over its images: `loss(model, batch)`.

    The network runs as it is, but for its head, which says what it says in training: a one-to-one head reads detached
    features then. Norms and dropout stay in the mode that they are in.

    Args:
        settings: their trainer's arguments, which hold the gains of the parts.
        data: the data set, from `resolved`.
    """

    def __init__(self, settings: Any, data: Mapping[str, Any]) -> None:
        self.given = {"args": settings, "kpt_oks_sigmas": data.get("kpt_oks_sigmas")}
        self.made: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch of `labelled`.

        Raises:
            UserError: their loss fails.
        """
        network: Any = model
        try:
            with _attributes(model, self.given), _head_in_training(model):
                if model not in self.made:
                    self.made[model] = network.init_criterion()
                criterion = self.made[model]
                if hasattr(criterion, "update"):  # what a one-to-many head counts falls from epoch to epoch
                    criterion.updates = int(batch[_EPOCH][0]) - 1 if _EPOCH in batch else -1
                    criterion.update()
                with _attributes(model, {"criterion": criterion}):
                    loss = network.loss(batch)[0].sum()
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if "memory" in str(error):
                raise
            raise UserError(
                f"Ultralytics' loss fails on the labels: {type(error).__name__}: {sentence(str(error))} Expected a "
                f"network whose heads are as they were trained, and labels of its task. Or {_WITHOUT}."
            ) from error
        found: Tensor = loss if task_of(model) == "classify" else loss / len(batch["img"])
        return found


class _Images:
    """A data set of theirs by number, and the same augmented, in memory that lives as long as it is used.

    Args:
        plain: their data set, without augmentation.
        settings: their trainer's arguments.
        folder: where the links to its files are.
    """

    def __init__(self, plain: Any, settings: Any, folder: tempfile.TemporaryDirectory[str]) -> None:
        self.plain, self.settings, self.folder = plain, settings, folder
        self.classifies = not hasattr(plain, "labels")
        _transforms(plain, Draws())
        if not self.classifies:
            plain.transforms = plain.build_transforms(copy.copy(settings))

    def pool(self, files: int, data: str | Path, *, plain: bool) -> Pool:
        """The items of a recovery."""
        names = [str(s[0]) for s in self.plain.samples] if self.classifies else list(self.plain.im_files)
        left = files - len(names)
        notes = (f"{left} of {files} images in {data} are damaged, or their labels are, and were left out.",)
        if len(names) < 2:
            raise UserError(
                f"The split 'train' of {data} has {len(names)} images that can be used with their labels, of {files}: "
                "too few to learn from. Correct the images and labels in it."
            )
        return Pool(
            len(names), self.item, self.joined, lambda number: Path(names[number]).resolve().name, threads=True,
            unreadable=left, notes=notes if left else (), varied=None if plain else self.varied,
        )  # fmt: skip

    def item(self, number: int) -> Any:
        """One, letterboxed."""
        return {**self.plain[number], _EPOCH: 0}

    def joined(self, items: Sequence[Any]) -> Any:
        """A batch as their trainer hands it to the network, on the CPU."""
        from ultralytics.models import yolo

        collate: Callable[[Any], Any] = getattr(self.plain, "collate_fn", default_collate)
        batch = collate(list(items))
        if self.classifies:
            return batch
        trainer = SimpleNamespace(device=torch.device("cpu"), args=self.settings)
        return yolo.detect.DetectionTrainer.preprocess_batch(trainer, batch)

    def varied(self, numbers: Sequence[int]) -> Vary:
        """These, augmented as their trainer does it; others never come into a mosaic of them."""
        own = threading.local()  # their transforms keep numbers while they work, so that each thread has its own
        places = {number: place for place, number in enumerate(numbers)}
        last = self.settings.epochs - (self.settings.close_mosaic or 0)

        def vary(number: int, seed: int, epoch: int) -> Any:
            if not hasattr(own, "draws"):
                own.draws = Draws()
                own.made = [self._augmented(numbers, own.draws, mosaics=mosaics) for mosaics in (True, False)]
            own.draws.seed(seed)
            with OwnRandom(seed):
                return {**own.made[epoch >= last][places[number]], _EPOCH: epoch}

        return vary

    def _augmented(self, numbers: Sequence[int], draws: Draws, *, mosaics: bool) -> Any:
        """Their data set of some of the images, with their augmentation, and generators of our own in it."""
        found = copy.copy(self.plain)
        for name, value in vars(self.plain).items():
            if isinstance(value, list) and len(value) == len(self.plain):
                setattr(found, name, [value[number] for number in numbers])
        theirs = _transforms(found, draws)
        if self.classifies:
            found.torch_transforms = _classified(theirs, self.settings)
            return found
        found.augment, found.ni, found.buffer, found.max_buffer_length = True, len(numbers), _Every(len(numbers)), 0
        hyper = copy.copy(self.settings)
        with quietly():
            if mosaics:
                found.transforms = found.build_transforms(hyper)
            else:
                found.close_mosaic(hyper)
        return found


class _Every(list[int]):
    """All numbers, for mosaics to choose from, where theirs are the last that were read; nothing read is kept."""

    def __init__(self, count: int) -> None:
        super().__init__(range(count))
        self.last = 0

    def append(self, number: int) -> None:
        """Note what was read."""
        self.last = number

    def pop(self, _: Any = -1) -> int:
        """Let it go."""
        return self.last


def _check_order(model: nn.Module, found: Mapping[str, Any], data: str | Path) -> None:
    """Refuse labels whose numbers are those of the network's classes in another order."""
    given: Any = getattr(model, "names", None) or {}
    own = list(given.values() if isinstance(given, dict) else given)
    theirs = list(found["names"].values())
    if task_of(model) == "classify" and _finds_classes_by_name():
        return
    if own != theirs and sorted(own) == sorted(theirs):
        raise UserError(
            f"The data set {data} has the network's classes in another order ({', '.join(theirs[:3])}, ...; the "
            f"network has {', '.join(own[:3])}, ...), so that its labels would teach wrong ones. Correct `names` and "
            f"the labels, or {_WITHOUT}."
        )


def _finds_classes_by_name() -> bool:
    """Whether their data set to classify takes the network's classes; older ones number folders by their order."""
    from ultralytics.data.dataset import ClassificationDataset

    return "names" in inspect.signature(ClassificationDataset.__init__).parameters


def _labels(found: Mapping[str, Any], data: str | Path) -> bool:
    """Whether any image of the `train` split has labels."""
    from ultralytics.data.utils import img2label_paths

    files = [str(file) for file in image_files(found, "train", data)]
    return any(Path(label).is_file() for label in img2label_paths(files))


def _settings(model: nn.Module, task: str, size: int, epochs: int) -> Any:
    """Their trainer's arguments: those that the network was trained with, where it says so, else their defaults."""
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT

    own = getattr(model, "args", None) or {}
    kept = _HYPERPARAMETERS & set(DEFAULT_CFG_DICT)
    named = {name: value for name, value in (own if isinstance(own, dict) else vars(own)).items() if name in kept}
    return get_cfg(DEFAULT_CFG, {**named, "task": task, "mode": "train", "imgsz": size, "epochs": epochs})


# Arguments of theirs that say what a loss counts and how images are augmented; all others are of a machine or a run.
_HYPERPARAMETERS = set(
    "box cls dfl pose kobj rle angle overlap_mask mask_ratio hsv_h hsv_s hsv_v degrees translate scale shear "
    "perspective flipud fliplr bgr mosaic mixup cutmix copy_paste copy_paste_mode auto_augment erasing close_mosaic "
    "single_cls".split()
)


def _data_set(content: Mapping[str, Any], task: str, settings: Any, model: nn.Module) -> Any:
    """Their data set, without augmentation, and without its trial of how fast files are, which would draw numbers."""
    from ultralytics.data import build, dataset

    untried: Any = lambda *_, **__: None  # noqa: E731
    if task == "classify":

        class Classification(dataset.ClassificationDataset):  # type: ignore[misc]  # their classes have no types
            verify_images = with_globals(dataset.ClassificationDataset.verify_images, check_file_speeds=untried)

        more = {"names": getattr(model, "names", None) or content["names"]} if _finds_classes_by_name() else {}
        return Classification(str(content["train"]), settings, augment=False, **more)

    class Detection(dataset.YOLODataset):  # type: ignore[misc]
        get_img_files = with_globals(dataset.YOLODataset.get_img_files, check_file_speeds=untried)

    made = with_globals(build.build_yolo_dataset, YOLODataset=Detection)
    stride = max(int(torch.as_tensor(model.stride).max()), 32)
    return made(settings, content["train"], 16, content, mode="val", rect=False, stride=stride)


def _transforms(found: Any, draws: Draws) -> Any:
    """Let a data set of theirs build transforms that draw from `draws`; the module that these come from."""
    theirs: Any = with_own_random("ultralytics.data.augment", draws)
    # Its transforms, if it is installed, have generators of their own, and it writes into the environment.
    theirs.Albumentations = lambda *_, **__: lambda labels: labels
    if hasattr(found, "build_transforms"):
        build = with_globals(type(found).build_transforms, v8_transforms=theirs.v8_transforms, Format=theirs.Format)
        found.build_transforms, found.format_class = build.__get__(found), theirs.Format
    return theirs


def _classified(theirs: Any, settings: Any) -> Any:
    """How their trainer augments an image to classify."""
    return theirs.classify_augmentations(
        size=settings.imgsz,
        scale=(1.0 - settings.scale, 1.0),
        hflip=settings.fliplr,
        vflip=settings.flipud,
        erasing=settings.erasing,
        auto_augment=settings.auto_augment,
        hsv_h=settings.hsv_h,
        hsv_s=settings.hsv_s,
        hsv_v=settings.hsv_v,
    )


def _refused(data: str | Path, error: Exception) -> UserError:
    return UserError(
        f"Ultralytics cannot read the labels of {data}: {sentence(str(error) or type(error).__name__)} Expected labels "
        f"of the network's task beside the images of the split 'train'. Correct them, or {_WITHOUT}."
    )


@contextmanager
def _attributes(model: nn.Module, given: Mapping[str, Any]) -> Iterator[None]:
    """Attributes of a network for a while, beside its modules and parameters."""
    before, own = {name: vars(model)[name] for name in given if name in vars(model)}, vars(model)
    own.update({name: value for name, value in given.items() if value is not None})
    try:
        yield
    finally:
        for name in given:
            own.pop(name, None)
        own.update(before)


@contextmanager
def _head_in_training(model: nn.Module) -> Iterator[None]:
    """Let a network and its head return what they return in training; norms and dropout stay as they are."""
    fixed = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    head: nn.Module = model.model[-1]  # type: ignore[index, assignment]
    before = [(part, part.training) for part in (model, *head.modules()) if not isinstance(part, fixed)]
    for part, _ in before:
        part.training = True
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode
