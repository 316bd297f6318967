"""`open_source`: a model named on the command line becomes a function that builds it.

ultralytics:yolo26n.pt      ultralytics:yolo26n.yaml      torchvision:resnet50      timm:resnet18
best.pt, yolo26n.yaml, det.py, resnet101d: where one of these forms alone fits
path/to/file.py:factory     package.module:factory        path/to/model.onnx            path/to/result/folder
and prefix:NAME of a package that brings a prefix, see `plugins`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from channelcut.core.errors import UserError
from channelcut.core.specs import InputSpec, read_specs
from channelcut.core.tensors import architecture_fingerprint
from channelcut.cutting import load_plan, restore
from channelcut.cutting.storage import PLAN
from channelcut.sources.factories import call, existing, module_of_file, module_of_package
from channelcut.sources.hints import meant, spelling
from channelcut.sources.libraries import LIBRARIES, PRETRAINED, usual_input
from channelcut.sources.plugins import brought, made
from channelcut.sources.source import RANDOM, Source
from channelcut.sources.weights import with_weights

FORMS = (
    "ultralytics:NAME.pt or .yaml, torchvision:NAME, timm:NAME, path/to/file.py:factory, package.module:factory, a "
    "file that ends in .onnx, or a result folder of channelcut"
)


def open_source(
    name: str, weights: str | Path | None = None, *, trust: bool = False, inputs: Sequence[InputSpec] = ()
) -> Source:
    """Understand a model's name.

    Args:
        name: one of the forms above.
        weights: `pretrained` or `random` for a model of a library, or a state dict (.pt, .pth, .safetensors) to load
            into what is built. By default torchvision and timm build random ones, and everything else has its own.
        trust: allow a model or weights that are pickles with code in them.
        inputs: what the model is run on; by default what the factory, the file or the library says.

    Raises:
        UserError: the name has no known form, or what it names is not there.
    """
    choice = str(weights) if weights is not None and str(weights) in (PRETRAINED, RANDOM) else ""
    file = Path(weights) if weights is not None and not choice else None
    source = _named(name, choice, trust, inputs)
    if inputs and not name.endswith(".onnx"):
        source = replace(source, inputs=tuple(inputs))
    if file is None:
        return source
    return replace(source, make=lambda: _loaded(source, file, trust), weights=file.name, weights_file=file)


class _FileModule:
    """The module of a file, loaded where it is first asked for; another process that gets this loads it for itself."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.module: ModuleType | None = None

    def __call__(self) -> ModuleType:
        self.module = self.module or module_of_file(self.file)
        return self.module

    def __reduce__(self) -> tuple[type[_FileModule], tuple[Path]]:
        return _FileModule, (self.file.resolve(),)


def _loaded(source: Source, file: Path, trust: bool) -> Any:
    made = source.make()
    model, *own = made if isinstance(made, tuple) else (made,)
    model = with_weights(model, file, trust)
    return (model, *own) if own else model


def _named(name: str, choice: str, trust: bool, inputs: Sequence[InputSpec]) -> Source:
    if name and (Path(name) / PLAN).is_file():
        _refuse(choice, f"{name} holds the weights of its cut")
        return _result_folder(Path(name), trust)
    if name and Path(name).is_dir():
        raise UserError(
            f"{name} is a folder without {PLAN}. Expected a result of `channelcut compress` or channelcut.save, or one "
            f"of: {FORMS}."
        )
    if name.endswith(".onnx"):
        _refuse(choice, f"{name} holds its own weights")
        return _onnx_file(Path(name), inputs)
    origin, _, rest = name.rpartition(":")
    if not origin or not rest:
        fitting = meant(name)
        if len(fitting) == 1:
            return _named(fitting[0], choice, trust, inputs)
        raise UserError(f"{name!r} names no model.{spelling(name)} Expected one of: {FORMS}.")
    if origin in LIBRARIES:
        make = LIBRARIES[origin][1]
        weights = _library_weights(origin, rest, choice)
        return Source(name, lambda: make(rest, choice, trust), (usual_input(origin, rest),), weights)
    prefix, _, inner = name.partition(":")
    if prefix not in LIBRARIES and (point := brought(prefix)) is not None:
        return Source(name, lambda: made(point, inner, choice, trust), (), choice or f"as {prefix} makes them")
    _refuse(choice, f"{rest}() decides about the weights of {name}")
    said = f"as {rest}() makes them"
    if origin.endswith(".py"):
        file = existing(Path(origin))
        once = _FileModule(file)
        return Source(name, lambda: call(once(), rest, name), (), said, beside=once)
    module = module_of_package(origin, name, FORMS)
    return Source(name, lambda: call(module, rest, name), (), said, beside=lambda: module)


def _library_weights(library: str, name: str, choice: str) -> str:
    if library != "ultralytics":
        return PRETRAINED if choice == PRETRAINED else RANDOM
    return RANDOM if name.endswith((".yaml", ".yml")) else f"of the checkpoint {Path(name).name}"


def _refuse(choice: str, why: str) -> None:
    if choice:
        raise UserError(
            f"{why}, so --weights {choice} means nothing here. Expected a state dict, --weights FILE, or none."
        )


def _result_folder(folder: Path, trust: bool) -> Source:
    options = load_plan(folder).options
    if "model" not in options:
        raise UserError(
            f"{folder} does not record which model it was cut from, so that the command line cannot build it. Save it "
            f'with the model\'s name, channelcut.save(result, folder, source="package.module:factory"), or load it in '
            f"Python: channelcut.load(build, {str(folder)!r}). A name is one of: {FORMS}."
        )
    recorded = read_specs(str(options["input"])) if options.get("input") else ()
    model, before = str(options["model"]), str(options.get("weights", ""))
    original = open_source(model, trust=trust, inputs=recorded)
    # torchvision builds some architectures otherwise around pretrained weights (frozen norms, no auxiliary heads).
    other = open_source(model, PRETRAINED, inputs=recorded) if before == PRETRAINED else None
    said = ", ".join(filter(None, [before, f"as cut in {folder.name}"]))
    inputs = recorded or original.inputs
    return Source(str(folder), lambda: _restored(original, other, folder), inputs, said, beside=original.beside)


def _restored(original: Source, other: Source | None, folder: Path) -> Any:
    """The cut model, with the example inputs that the original's factory gives."""
    made = original.make()
    if other is not None and architecture_fingerprint(made) != load_plan(folder).fingerprint:
        made = other.make()
    model, *own = made if isinstance(made, tuple) else (made,)
    small = restore(lambda: model, folder)
    return (small, *own) if own else small


def _onnx_file(path: Path, given: Sequence[InputSpec]) -> Source:
    """A network that is an ONNX file; the file says what its inputs are, except for axes that it leaves open."""
    from channelcut.onnx_in import module_from_onnx
    from channelcut.onnx_in.reader import read

    named = {spec.name: spec.shape for spec in given}
    if len(named) != len(given):
        raise UserError(
            f"{path}: {len(given)} inputs are given, and several have no name. Give each by its name in the file: "
            "--input "
            "NAME=1x3x640x640."
        )
    shapes = (given[0].shape if not given[0].name else named) if len(given) == 1 else named or None
    inputs = read(path, shapes).inputs
    specs = tuple(InputSpec(spec.shape, str(spec.dtype).removeprefix("torch.")) for spec in inputs)
    return Source(str(path), lambda: module_from_onnx(path, shapes), specs, f"of {path.name}")
