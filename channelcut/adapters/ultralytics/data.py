"""A data set of Ultralytics' (`data.yaml`, or the folder of one to classify), as the installed version resolves it.

Nothing is downloaded, and nothing is written beside the data.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from channelcut.adapters.ultralytics.borrowed import with_globals
from channelcut.adapters.ultralytics.version import require_ultralytics
from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.quiet import quietly
from channelcut.recovery.images import Preprocessing, check_readable, readable

_YAML = (".yaml", ".yml")
_JPEG_END = b"\xff\xd9"


def task_of(model: nn.Module) -> str:
    """The task of a network, as Ultralytics calls it."""
    from ultralytics.nn.tasks import guess_model_task

    return str(getattr(model, "task", None) or guess_model_task(model))


def is_data_set(data: Any, task: str) -> bool:
    """Whether it is a data set of theirs for that task; a folder of images is none."""
    if not isinstance(data, (str, Path)):
        return False
    return Path(data).suffix.lower() in _YAML or (task == "classify" and (Path(data) / "train").is_dir())


def resolved(data: str | Path, task: str) -> dict[str, Any]:
    """What their loader makes of a data set: the paths of its splits, `names`, `nc`, `channels`.

    Raises:
        UserError: it is missing, or not as they expect it.
    """
    require_ultralytics(f"The data set {data}")
    import ultralytics.data.utils as theirs

    expected = (
        "a folder with train/<class>/ and val/<class>/" if task == "classify" else "a data.yaml whose images are there"
    )
    if task == "classify" and not (Path(data) / "train").is_dir():
        # Their loader would download a folder that is not there, and split one that has no train/.
        raise UserError(f"{data} has no folder train. To classify, --data expects {expected}; nothing is downloaded.")
    with quietly():
        try:
            if task == "classify":
                found = theirs.check_cls_dataset(data)
            else:
                nothing: Any = lambda *_, **__: None  # noqa: E731
                check = with_globals(theirs.check_det_dataset, check_font=nothing, safe_download=_refused_download)
                found = check(_file(data), autodownload=False)
        except UserError:
            raise
        except Exception as error:
            text = sentence(str(error).split("\nNote")[0] or type(error).__name__)
            raise UserError(
                f"Ultralytics cannot use the data set {data}: {text} Expected {expected}; nothing is downloaded. "
                "Correct `path`, `train` and `val` in it, or put the images there."
            ) from error
    return dict(found)


def image_files(found: Mapping[str, Any], split: str, data: str | Path) -> list[Path]:
    """The images of a split, in the order of their names; broken ones are among them.

    Raises:
        UserError: the split, or what it names, is missing, or holds no image.
    """
    from ultralytics.data.utils import IMG_FORMATS

    given = found.get(split)
    paths = [Path(p) for p in (given if isinstance(given, (list, tuple)) else [given] if given else [])]
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise UserError(
            f"The data set {data} is incomplete, missing path {missing} (split {split!r}). Nothing is downloaded: "
            "correct `path` and the splits in it, or put the images there."
        )
    files: list[Path] = []
    for path in paths:
        listed = path.rglob("*") if path.is_dir() else _listed(path)
        files += [file for file in listed if file.suffix[1:].lower() in IMG_FORMATS]
    if not files:
        raise UserError(f"The data set {data} holds no images in the split {split!r} ({given or 'not given'}).")
    return sorted(files)


def calibration_images(
    data: str | Path, task: str, shape: tuple[int, int, int], preprocessing: Preprocessing | None, limit: int
) -> tuple[Tensor, list[str]]:
    """Images of the `train` split as the network takes them when they predict; labels are not read.

    Args:
        data: the data set.
        task: of the network.
        shape: (channels, height, width) of the input.
        preprocessing: must be the default: that of the data set is Ultralytics'.
        limit: the most images to read.

    Returns:
        The images, and the names of those that could not be read.

    Raises:
        UserError: the data set is missing or has other channels, `preprocessing` says something else, or most of the
            images cannot be read.
    """
    check_preprocessing(data, preprocessing)
    found = resolved(data, task)
    if int(found.get("channels", 3)) != shape[0]:
        raise UserError(
            f"The images of {data} have {found.get('channels', 3)} channels, and the network takes {shape[0]}. Set "
            "`channels` in the data.yaml, or give data that fits."
        )
    batch: list[Tensor] = []
    broken: list[str] = []
    files = image_files(found, "train", data)
    for path in files:
        if len(batch) == limit:
            break
        pixels = _pixels(path, shape[0])
        if pixels is None:
            broken.append(path.name)
        else:
            batch.append(_classified(pixels, shape) if task == "classify" else _letterboxed(pixels, shape))
    if not batch:
        raise UserError(f"None of the images in the split 'train' of {data} can be read.")
    check_readable(f"in the split 'train' of {data}", len(files), len(broken))
    return torch.stack(batch), broken


def check_preprocessing(data: str | Path, preprocessing: Preprocessing | None) -> None:
    """Refuse any other way to prepare the images of a data set of theirs.

    Raises:
        UserError: it is another.
    """
    if preprocessing not in (None, Preprocessing(), Preprocessing("letterbox")):
        raise UserError(
            f"{data} is a data set of Ultralytics, whose own preprocessing is used. Leave the flags about images "
            "(--fit, --bgr, --scale, --mean, --std; preprocessing in Python) out, or give a folder of images."
        )


def mirrored(found: Mapping[str, Any], task: str, data: str | Path, folder: Path, split: str = "") -> dict[str, Any]:
    """A split as links in a folder, since their loader writes a cache beside labels and repairs images.

    Args:
        found: the data set, from `resolved`.
        task: of the network.
        data: its name, for messages.
        folder: where the links go.
        split: `train`; by default `val`, or `test` where there is none.

    Returns:
        The data set, with `train` and `val` there: the same images in both.

    Raises:
        UserError: there are no images, or no labels beside them.
    """
    from ultralytics.data.utils import img2label_paths

    split = split or ("val" if found.get("val") else "test")
    files = image_files(found, split, data)
    if task == "classify":
        root = Path(str(found[split]))
        for file in files:
            _link(file, folder / split / file.relative_to(root))
        return {**found, "path": folder, "train": folder / split, "val": folder / split}
    images, labels = folder / "images" / split, folder / "labels" / split
    for index, (file, label) in enumerate(zip(files, img2label_paths([str(file) for file in files]), strict=True)):
        name = f"{index:08d}_{file.stem}"
        _link(file, images / f"{name}{file.suffix}")
        if Path(label).is_file():
            _link(Path(label), labels / f"{name}.txt")
    if not labels.is_dir():
        raise UserError(
            f"No labels stand beside the {len(files)} images of the split {split!r} of {data}: expected "
            "labels/.../NAME.txt for images/.../NAME.jpg. To do without: --no-evaluate leaves the evaluation out, "
            "--task 0 (RecoverOptions(task=0)) the labels of a recovery."
        )
    return {**found, "path": folder, "train": str(images), "val": str(images)}


def sentence(text: str) -> str:
    """What Ultralytics says, in one line of a paragraph: without its signs, and with a full stop."""
    words = [word for word in text.split() if word.isascii() or any(letter.isalpha() for letter in word)]
    said = " ".join(words)[:300].removeprefix("ERROR ")
    return said if said.endswith((".", "!", "?")) else f"{said}."


def _file(data: str | Path) -> str:
    """The YAML: here, or one of those that come with the package, which their loader finds by name."""
    if "://" in str(data):
        raise UserError(f"{data} is on the network, and nothing is downloaded. Give the path of a data.yaml.")
    return str(data)


def _refused_download(*_: Any, **__: Any) -> Any:
    raise FileNotFoundError("it is an archive or an address, which would have to be downloaded or unpacked.")


def _listed(path: Path) -> list[Path]:
    """What a text file of images lists, relative to it where a path begins with ./"""
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    return [path.parent / line[2:] if line.startswith("./") else Path(line) for line in lines]


def _pixels(path: Path, channels: int) -> np.ndarray[Any, Any] | None:
    """The image as they read it, BGR or grey; None where it cannot be read."""
    import cv2
    from ultralytics.utils.patches import imread

    if not readable(path):
        return None
    with suppress(Exception):
        found = imread(str(path), cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
        return None if found is None else np.asarray(found).reshape(*found.shape[:2], channels)
    return None


def _letterboxed(pixels: np.ndarray[Any, Any], shape: Sequence[int]) -> Tensor:
    from ultralytics.data.augment import LetterBox

    fitted = np.asarray(LetterBox(tuple(shape[1:]), auto=False)(image=pixels))
    turned = fitted.reshape(*fitted.shape[:2], -1)[:, :, ::-1].transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(turned)).float() / 255


def _classified(pixels: np.ndarray[Any, Any], shape: Sequence[int]) -> Tensor:
    if pixels.shape[2] != 3:
        raise UserError(f"Ultralytics classifies images of 3 channels, and the network takes {shape[0]}.")
    try:
        from ultralytics.data.augment import classify_transforms

        transforms = classify_transforms(size=shape[1] if shape[1] == shape[2] else tuple(shape[1:]))
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError("torchvision", "zoo", "The preprocessing of Ultralytics' classifiers") from error
    found: Tensor = transforms(Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1])))
    return found


def _link(source: Path, target: Path) -> None:
    """A link, or a copy: of a JPEG without an end, which their loader would write anew, and where links are refused."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    if source.suffix.lower() not in (".jpg", ".jpeg") or _ends(source):
        with suppress(OSError, NotImplementedError):
            target.symlink_to(source)
            return
    shutil.copyfile(source, target)


def _ends(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2))
        return file.read() == _JPEG_END
