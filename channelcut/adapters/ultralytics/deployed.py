"""The deployed form of an Ultralytics network, prepared by the installed version's own exporter.

Its `Exporter` copies the network, selects the head, folds batch norms, and sets what its layers do in a file; then it
writes the format that was asked for. Here it is stopped before it writes: what it has prepared is the deployed form,
exactly as that version has it, and channelcut writes and checks the file itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from channelcut.adapters.ultralytics.borrowed import with_globals
from channelcut.adapters.ultralytics.data import task_of
from channelcut.adapters.ultralytics.version import require_ultralytics
from channelcut.core.copies import private_copy
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.quiet import quietly

_SMALL = 64  # pixels, for questions that do not depend on the size
_BOXES = ("detect", "segment", "pose", "obb")  # tasks whose outputs are boxes


class _Prepared(Exception):
    """Their exporter is about to write."""


@dataclass(frozen=True)
class Preparation:
    """What their exporter has prepared: the network, one input, the arguments and the metadata of the file."""

    model: nn.Module
    image: Tensor
    arguments: Any
    metadata: Mapping[str, Any]
    warnings: tuple[str, ...]


class _Listener:
    """Stands for their logger: keeps what it warns of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str, *_: Any) -> None:
        """Keep the text."""
        self.warnings.append(" ".join(str(text).split()))

    def info(self, *_: Any) -> None:
        """Drop it."""

    debug = error = info


def prepared(
    model: nn.Module, shape: tuple[int, ...], deploy: Deploy, *, dynamic: bool = False, file: str = "onnx"
) -> Preparation:
    """What Ultralytics' exporter makes of a copy of the network for an input of that shape (N, C, H, W).

    Args:
        model: a trainable network.
        shape: of its input.
        deploy: which head.
        dynamic: whether sizes stay open.
        file: what it is prepared for, `onnx` or `engine`, in their words.

    Raises:
        UserError: it refuses the network or the input.
    """
    require_ultralytics(f"The deployed form of {type(model).__name__}")
    import ultralytics.engine.exporter as theirs

    class Stopped(theirs.Exporter):  # type: ignore[misc]  # their classes have no types
        """Their exporter, which writes nothing and reports to nobody."""

        def export_onnx(self, *_: Any, **__: Any) -> Any:
            raise _Prepared

        export_engine = export_onnx

        def run_callbacks(self, event: str) -> None:
            """None: theirs count uses of the library on a server."""

    asked: dict[str, Any] = {"format": file, "imgsz": list(shape[2:]), "batch": shape[0], "dynamic": dynamic}
    asked |= {"device": "cpu", "verbose": False, "data": None} | ({} if deploy.nms is None else {"nms": deploy.nms})
    listener = _Listener()
    # The same code with other globals: it notes in the user's settings file that it has advertised another format.
    run = with_globals(theirs.Exporter.__call__, SETTINGS={}, LOGGER=listener)
    with quietly():
        try:
            exporter = Stopped(overrides=asked)
            run(exporter, _with_task(model))
        except _Prepared:
            pass
        except (AssertionError, ValueError, TypeError, RuntimeError, AttributeError, KeyError, ImportError) as error:
            raise _refused(model, error) from error
    return Preparation(
        exporter.model, exporter.im, exporter.args, dict(exporter.metadata), tuple(dict.fromkeys(listener.warnings))
    )


def deployed_form(model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
    """The network as the installed Ultralytics deploys it: batch norm folded, one head, one output (two to segment).

    Raises:
        UserError: it deploys no such network, or not with this input.
    """
    image = inputs[0] if len(inputs) == 1 else None
    if not isinstance(image, Tensor) or image.dim() != 4:
        raise UserError(
            f"Ultralytics' {type(model).__name__} takes one image tensor (N, C, H, W). Expected such an example input."
        )
    if deploy.outputs:
        raise UserError(
            f"outputs={deploy.outputs!r}: the deployed form of an Ultralytics network has one output, and two to "
            "segment. Choose the head with nms (--nms on the command line)."
        )
    return _form(prepared(model, tuple(image.shape), deploy, dynamic=dynamic), image)


def engine_form(model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy) -> Deployed | None:
    """What Ultralytics builds a TensorRT engine from, where its head picks the best boxes; else None: the same network.

    The top-k over all boxes is one over parts first there, and the metadata are those of an engine.
    """
    found = prepared(model, tuple(inputs[0].shape), deploy, file="engine")
    picks = found.metadata["end2end"] or found.metadata["head"] == "RTDETRDecoder"
    return _form(found, inputs[0]) if picks or found.metadata["task"] == "semantic" else None


def _form(found: Preparation, image: Tensor) -> Deployed:
    if found.image.shape != image.shape:
        raise UserError(
            f"Ultralytics exports inputs of {tuple(found.image.shape)} where {tuple(image.shape)} was asked for: sizes "
            f"are multiples of the stride {found.metadata.get('stride')}, and channels those of the network. Give such "
            "an example input."
        )
    suppressed = bool(found.arguments.nms)
    names = ("output0", "output1") if found.metadata["task"] == "segment" else ("output0",)
    return Deployed(
        module=_suppressing(found) if suppressed else found.model,
        inputs=(image.detach().float(),),
        input_names=("images",),
        output_names=names,
        metadata={key: str(value) for key, value in found.metadata.items()},
        words=_words(found),
        unrolled=suppressed,
    )


def undeployed_modules(model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
    """The paths of the modules that the exporter takes out: the other head, layers that only training runs."""
    channels = int(getattr(model, "yaml", {}).get("channels", 3))
    form = prepared(model, (1, channels, _SMALL, _SMALL), deploy).model
    before = dict(model.named_modules())
    return tuple(
        f"{path}.{name}".lstrip(".")
        for path, module in form.named_modules()
        for name, child in module._modules.items()
        if child is None and path in before and before[path]._modules.get(name) is not None
    )


def _suppressing(found: Preparation) -> nn.Module:
    """The network with suppression behind it, theirs as well."""
    import ultralytics.engine.exporter as theirs

    module: nn.Module = theirs.NMSModel(found.model, found.arguments)
    return module.eval()


def _words(found: Preparation) -> dict[str, str]:
    """Head, suppression and version, for reports."""
    kind = str(found.metadata["head"])
    heads = [module for module in found.model.modules() if "one2one_cv2" in module._modules]
    if heads:
        kind += ", one-to-many" if heads[0]._modules["one2one_cv2"] is None else ", one-to-one"
    needless = bool(found.metadata["end2end"]) or kind == "RTDETRDecoder"
    suppression = "in the file" if found.arguments.nms else "none needed" if needless else "left to the caller"
    said = {
        "head": kind,
        "suppression": suppression if found.metadata["task"] in _BOXES else "",
        "library": f"Ultralytics {found.metadata['version']}",
        "warnings": " ".join(found.warnings),
    }
    return {key: value for key, value in said.items() if value}


def _with_task(model: nn.Module) -> nn.Module:
    """The network, with the task that `YOLO` notes on it; a copy where it lacks one."""
    if getattr(model, "task", None):
        return model
    model = private_copy(model)
    model.task = task_of(model)  # type: ignore[assignment]
    return model


def _refused(model: nn.Module, error: Exception) -> UserError:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ImportError) or "torchvision" in text:
        return MissingExtraError("torchvision", "zoo", f"Suppression in the file of {type(model).__name__} ({text})")
    return UserError(
        f"Ultralytics {_version()} exports no such network: {type(model).__name__}, {type(error).__name__}: {text}"
    )


def _version() -> str:
    import ultralytics

    return str(ultralytics.__version__)
