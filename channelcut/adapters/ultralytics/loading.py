"""Checkpoints and architectures of Ultralytics as modules; nothing is downloaded, installed or run unasked."""

from __future__ import annotations

import pickletools
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from torch import nn

from channelcut.adapters.ultralytics.data import sentence
from channelcut.adapters.ultralytics.version import require_ultralytics
from channelcut.core.errors import UserError
from channelcut.core.quiet import quietly

_CHECK = "import sys; from ultralytics.nn.tasks import torch_safe_load; torch_safe_load(sys.argv[1], safe_only=True)"
_SECONDS = 300


def load(name: str, *, trust: bool = False, download: bool = False) -> Any:
    """A network by the path of a checkpoint (.pt), or by the path or name of an architecture (.yaml).

    A checkpoint is a pickle. It is opened where Ultralytics' restricted loader, which knows its own and torch's classes
    alone, accepts it; that loader runs in a process of its own, because it registers these classes for the life of its
    process.

    Args:
        name: such as `runs/train/weights/best.pt` or `yolo26n.yaml`.
        trust: open what the restricted loader refuses, which runs whatever code its author put in.
        download: let Ultralytics fetch a checkpoint of its own that is not here.

    Returns:
        The trainable network in float32 and evaluation mode; of a checkpoint with an average of weights, that one.

    Raises:
        UserError: there is no such file, it is damaged, of another Ultralytics, or holds other classes.
    """
    require_ultralytics(f"The model {name}")
    if not name.endswith(".pt"):
        return _network(name, name)
    path = Path(name)
    if not path.is_file():
        if not download:
            raise UserError(
                f"There is no file {name}, and nothing is downloaded unasked. Expected the path of a checkpoint; "
                f"--weights pretrained lets Ultralytics fetch one of its own, and {path.stem}.yaml is the architecture "
                "with random weights."
            )
        return _network(name, name)
    # A copy, so that what is loaded is what was checked.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        if not trust:
            _check(copy, path)
        network = _network(str(copy), name)
    network.pt_path = str(path)
    return network


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of Ultralytics, by the names of the classes in it; none of it is loaded."""
    return any("ultralytics." in text for text in _texts(path))


def _check(copy: Path, path: Path) -> None:
    """Refuse what the restricted loader refuses."""
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, str(copy)],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        said = sentence(lines[-1].replace(str(copy), path.name))
        raise UserError(
            f"{path} is a pickle that Ultralytics' restricted loader refuses{_writer(path)}: {said} Loading it "
            "otherwise runs whatever code its author put in. If you trust where it comes from, add --trust."
        )


def _network(name: str, called: str) -> Any:
    from ultralytics import RTDETR, YOLO

    with quietly():
        try:
            network = (RTDETR if "rtdetr" in Path(name).name else YOLO)(name).model
        except Exception as error:
            text = sentence(str(error).replace(name, Path(called).name) or type(error).__name__)
            if isinstance(error, (AttributeError, KeyError, TypeError)) and "get attribute" not in text:
                text = f"it holds no network where a checkpoint has it (`model`, `ema`): {text}"
            raise UserError(
                f"Ultralytics cannot load {called}{_writer(Path(called))}: {text} Expected a checkpoint (.pt) of "
                "its own or an architecture (.yaml) that it knows. A checkpoint whose classes a later release has no "
                "more is opened with the release that wrote it: save model.state_dict() there, and give the file as "
                "--weights to the architecture (.yaml)."
            ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"Ultralytics gives no module for {called}. Expected a .pt checkpoint or a .yaml architecture.")
    for parameter in network.parameters():
        # A checkpoint comes back frozen, and a frozen network shows no gradient.
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return network.float().eval()


def _writer(path: Path) -> str:
    """Which version of Ultralytics wrote a checkpoint, in words; empty where it does not say."""
    texts = _texts(path)
    version = next((texts[i + 1] for i, text in enumerate(texts[:-1]) if text == "version"), "")
    if not version[:1].isdigit():
        return ""
    import ultralytics

    return f" (written by Ultralytics {version}; {ultralytics.__version__} is installed)"


def _texts(path: Path) -> list[str]:
    """The texts in a checkpoint's pickle, in order."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
            return [str(value) for _, value, _ in pickletools.genops(archive.read(name)) if isinstance(value, str)]
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, KeyError, EOFError):
        return []
