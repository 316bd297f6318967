"""Models of other libraries, by their names there."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import nn

from channelcut.adapters.timm import data_config
from channelcut.adapters.torchvision import BUILDER, presets
from channelcut.adapters.ultralytics.loading import load
from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.specs import InputSpec
from channelcut.sources.hints import did_you_mean
from channelcut.sources.source import RANDOM
from channelcut.sources.weights import first_line

PRETRAINED = "pretrained"


def ultralytics(name: str, weights: str, trust: bool) -> nn.Module:
    """A checkpoint (.pt, a pickle) or an architecture (.yaml) of Ultralytics."""
    stem = name.rpartition(".")[0] or name
    if name.endswith(".pt") and weights == RANDOM:
        raise UserError(
            f"ultralytics:{name} is a checkpoint, whose weights are trained. The architecture with random weights is "
            f"ultralytics:{stem}.yaml."
        )
    if name.endswith(".yaml") and weights == PRETRAINED:
        raise UserError(
            f"ultralytics:{name} is an architecture without weights. The pretrained checkpoint is "
            f"ultralytics:{stem}.pt; a state dict goes with --weights FILE."
        )
    try:
        network: nn.Module = load(name, trust=trust, download=weights == PRETRAINED)
        return network
    except MissingExtraError:
        raise
    except UserError as error:
        raise UserError(f"{error}{did_you_mean('ultralytics', name)}") from error


def torchvision(name: str, weights: str, trust: bool) -> nn.Module:  # noqa: ARG001  the signature of all libraries
    """A model of torchvision, with its default weights or random ones."""
    library = _imported("torchvision", name)
    try:
        builder = library.models.get_model_builder(name)
    except ValueError as error:
        raise UserError(
            f"torchvision has no model {name!r}.{did_you_mean('torchvision', name)} `torchvision.models.list_models()` "
            "lists them."
        ) from error
    options: dict[str, Any] = {"weights": "DEFAULT" if weights == PRETRAINED else None}
    if weights != PRETRAINED and "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None  # or a detector would download them
    model = _fetched(f"torchvision:{name}", lambda: builder(**options))
    setattr(model, BUILDER, name)
    return model


def timm(name: str, weights: str, trust: bool) -> nn.Module:  # noqa: ARG001  the signature of all libraries
    """A model of timm, with its default weights or random ones."""
    library = _imported("timm", name)
    try:
        model = library.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise UserError(
            f"timm has no model {name!r} ({first_line(error)}).{did_you_mean('timm', name)} `timm.list_models()` lists "
            "them."
        ) from error
    if weights != PRETRAINED:
        return model.eval()  # type: ignore[no-any-return]
    return _fetched(f"timm:{name}", lambda: library.create_model(name, pretrained=True))


def _imported(library: str, name: str) -> Any:
    """A library that stands on torchvision, which has to fit torch."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingExtraError(library, "zoo", f"The model {library}:{name}") from error
    except RuntimeError as error:
        raise UserError(
            f"{library} cannot be imported, because the torchvision that is installed does not fit this torch "
            f"({first_line(error)}). Install a pair from one place: pip install --force-reinstall torch torchvision."
        ) from error


def _fetched(name: str, build: Callable[[], Any]) -> nn.Module:
    """What a library builds, with weights that it may have to download."""
    try:
        return build().eval()  # type: ignore[no-any-return]
    except Exception as error:
        raise UserError(
            f"The pretrained weights of {name} cannot be had ({type(error).__name__}: {first_line(error)}). Where this "
            "machine cannot download, fetch them elsewhere and give --weights FILE; --weights random takes none."
        ) from error


LIBRARIES: dict[str, tuple[InputSpec, Callable[[str, str, bool], nn.Module]]] = {
    "ultralytics": (InputSpec((1, 3, 640, 640)), ultralytics),
    "torchvision": (InputSpec((1, 3, 224, 224)), torchvision),
    "timm": (InputSpec((1, 3, 224, 224)), timm),
}


def usual_input(library: str, name: str) -> InputSpec:
    """The input that a model is run on by default: as large as its configuration says, else as usual in its library."""
    with suppress(Exception):  # what is missing or unknown is said when the model is made
        if library == "timm":
            from timm.models import get_pretrained_cfg

            known = get_pretrained_cfg(name)
            if known is not None:
                return InputSpec((1, *data_config(known.to_dict())["input_size"]))
        found = presets(name) if library == "torchvision" else None
        if found is not None and type(found[1]).__name__ == "ImageClassification":
            side = int(found[1].crop_size[0])
            return InputSpec((1, 3, side, side))
    return LIBRARIES[library][0]
