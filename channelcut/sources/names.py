"""`open_source`: a model named on the command line becomes a function that builds it.

ultralytics:yolo26n.pt      ultralytics:yolo26n.yaml      torchvision:resnet50      timm:resnet18
path/to/file.py:factory     package.module:factory        path/to/model.onnx            path/to/result/folder
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from channelcut.core.errors import MissingExtraError, UserError
from channelcut.cutting import load_plan, restore
from channelcut.cutting.storage import PLAN

FORMS = (
    "ultralytics:NAME.pt or .yaml, torchvision:NAME, timm:NAME, path/to/file.py:factory, package.module:factory, a "
    "file that ends in .onnx, or a result folder of channelcut"
)


@dataclass(frozen=True)
class Source:
    """A named model: `build()` makes it, with its weights, in evaluation mode; `input_shape` is the customary one.

    `weights`: the file that they were asked to be loaded from.
    """

    name: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...] | None = None
    weights: Path | None = None

    def build(self) -> nn.Module:
        """Make the model; what its code prints goes to standard error, because standard output may be JSON."""
        with contextlib.redirect_stdout(sys.stderr):
            return self.make()


def example_input(shape: tuple[int, ...]) -> torch.Tensor:
    """An input of this shape, uniform in [0, 1) as images are, the same in every run, by a generator of its own."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def open_source(
    name: str, weights: Path | None = None, *, trust: bool = False, input_shape: tuple[int, ...] | None = None
) -> Source:
    """Understand a model's name.

    Args:
        name: one of the forms above.
        weights: a state dict (.pt, .pth, .safetensors) to load into what the factory makes.
        trust: allow weights that are pickles with code in them.
        input_shape: of the one input, where an .onnx file leaves axes open; other models do not need it.

    Raises:
        UserError: the name has no known form, or what it names is not there.
    """
    if name and (Path(name) / PLAN).is_file():
        return _weighted(_result_folder(Path(name), trust), weights, trust)
    if name and Path(name).is_dir():
        raise UserError(
            f"{name} is a folder without {PLAN}. Expected a result of `channelcut compress` or channelcut.save, or one "
            f"of: {FORMS}."
        )
    if name.endswith(".onnx"):
        return _weighted(_onnx_file(Path(name), input_shape), weights, trust)
    origin, _, rest = name.rpartition(":")
    if not origin or not rest:
        raise UserError(f"{name!r} names no model. Expected one of: {FORMS}.")
    if origin in LIBRARIES:
        shape, make = LIBRARIES[origin]
        source = Source(name, lambda: make(rest, trust), shape)
    elif origin.endswith(".py"):
        file = _existing(Path(origin))
        source = Source(name, lambda: _call(_file(file), rest, name))
    else:
        module = _module(origin, name)
        source = Source(name, lambda: _call(module, rest, name))
    return _weighted(source, weights, trust)


def _weighted(source: Source, weights: Path | None, trust: bool) -> Source:
    if weights is None:
        return source
    return Source(source.name, lambda: _with_weights(source.build(), weights, trust), source.input_shape, weights)


def _result_folder(folder: Path, trust: bool) -> Source:
    options = load_plan(folder).options
    if "model" not in options:
        raise UserError(
            f"{folder} does not record which model it was cut from, so that the command line cannot build it. Save it "
            f'with the model\'s name, channelcut.save(result, folder, source="package.module:factory"), or load it in '
            f"Python: channelcut.load(build, {str(folder)!r}). A name is one of: {FORMS}."
        )
    recorded = tuple(int(s) for s in str(options["input"]).split("x")) if options.get("input") else None
    original = open_source(str(options["model"]), trust=trust, input_shape=recorded)
    return Source(str(folder), lambda: restore(original.build, folder), recorded or original.input_shape)


def _onnx_file(path: Path, shape: tuple[int, ...] | None) -> Source:
    """A network that is an ONNX file; the file says the shape of its input, except for axes that it leaves open."""
    from channelcut.onnx_in import module_from_onnx
    from channelcut.onnx_in.reader import read

    inputs = read(path, shape).inputs
    if len(inputs) != 1:
        raise UserError(
            f"{path} has {len(inputs)} inputs ({', '.join(spec.name for spec in inputs)}); the command line runs "
            "networks with one. In Python: channelcut.prune(channelcut.from_onnx(path), "
            "channelcut.example_inputs_from_onnx(path), macs=0.5)."
        )
    return Source(str(path), lambda: module_from_onnx(path, shape), inputs[0].shape)


def _ultralytics(name: str, trust: bool) -> nn.Module:
    try:
        from ultralytics import RTDETR, YOLO
    except ImportError as error:
        raise MissingExtraError("ultralytics", "ultralytics", f"The model ultralytics:{name}") from error
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    if name.endswith(".pt") and not trust:
        raise UserError(
            f"{name} is a pickle: loading it runs whatever code its author put in. If you trust where it comes from, "
            f"add --trust. "
            f"The architecture alone needs no pickle: ultralytics:{name.removesuffix('.pt')}.yaml."
        )
    try:
        model = (RTDETR if "rtdetr" in name else YOLO)(name).model
    except (FileNotFoundError, ConnectionError, ValueError, TypeError, OSError) as error:
        raise UserError(
            f"Ultralytics cannot load {name!r} ({_first_line(error)}). Expected a .pt or .yaml that the package knows "
            f"or a path."
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"Ultralytics gives no module for {name!r}. Expected a .pt checkpoint or a .yaml architecture.")
    return model.float().eval()


def _torchvision(name: str, trust: bool) -> nn.Module:
    try:
        import torchvision
    except ImportError as error:
        raise MissingExtraError("torchvision", "zoo", f"The model torchvision:{name}") from error
    except RuntimeError as error:
        raise UserError(
            f"torchvision is installed but does not fit this torch ({_first_line(error)}). Install a pair from one "
            f"place: "
            "pip install --force-reinstall torch torchvision."
        ) from error
    try:
        builder = torchvision.models.get_model_builder(name)
    except ValueError as error:
        raise UserError(f"torchvision has no model {name!r}. `torchvision.models.list_models()` lists them.") from error
    options: dict[str, object] = {"weights": "DEFAULT" if trust else None}
    if not trust and "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None  # or a detector would download them
    return builder(**options).eval()  # type: ignore[no-any-return]


def _timm(name: str, trust: bool) -> nn.Module:  # noqa: ARG001  the signature of every library's loader
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "zoo", f"The model timm:{name}") from error
    except RuntimeError as error:
        raise UserError(
            f"timm cannot be imported, because its torchvision does not fit this torch ({_first_line(error)}). "
            f"Install a pair "
            "from one place: pip install --force-reinstall torch torchvision."
        ) from error
    try:
        return timm.create_model(name, pretrained=False).eval()  # type: ignore[no-any-return]
    except RuntimeError as error:
        raise UserError(
            f"timm has no model {name!r} ({_first_line(error)}). `timm.list_models()` lists them."
        ) from error


LIBRARIES: dict[str, tuple[tuple[int, ...], Callable[[str, bool], nn.Module]]] = {
    "ultralytics": ((1, 3, 640, 640), _ultralytics),
    "torchvision": ((1, 3, 224, 224), _torchvision),
    "timm": ((1, 3, 224, 224), _timm),
}


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"There is no file {path}. Expected path/to/file.py:factory, where factory() returns the model."
        )
    return path


def _file(path: Path) -> ModuleType:
    name = f"channelcut_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))  # so that the file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"{path} cannot be imported: {type(error).__name__}: {_first_line(error)}. Run it with python to see where."
        ) from error
    return module


def _module(path: str, name: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise UserError(f"{name!r} names no model: {_first_line(error)}. Expected one of: {FORMS}.") from error
    finally:
        sys.path.remove("")


def _call(module: ModuleType, factory: str, name: str) -> nn.Module:
    function = getattr(module, factory, None)
    if not callable(function):
        raise UserError(
            f"{name!r}: there is no function {factory!r}. Expected a function without arguments that returns the model."
        )
    try:
        model = function()
    except (Exception, SystemExit) as error:
        raise UserError(f"{name!r}: {factory}() fails with {type(error).__name__}: {_first_line(error)}.") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name!r}: {factory}() returns a {type(model).__name__}. Expected a torch.nn.Module.")
    return model.eval()


def _with_weights(model: nn.Module, path: Path, trust: bool) -> nn.Module:
    """Load a state dict strictly; common wrappers (`state_dict`, `model`, a `module.` prefix) are taken off."""
    state = read_weights(path, trust=trust)
    for key in ("state_dict", "model", "model_state_dict"):
        inner = state.get(key)
        if isinstance(inner, dict):
            state = inner
    tensors = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"{path} does not fit the model: {' '.join(lines[:3])[:400]}. Expected the state dict of the same class."
        ) from error
    return model.eval()


def read_weights(path: Path, *, trust: bool = False) -> dict[str, object]:
    """Read a weights file; a pickle with code in it only where `trust` allows.

    Raises:
        UserError: the file is missing, truncated, of another kind, or a pickle that was not trusted.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        if Path(path).suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=not trust)
    except (pickle.UnpicklingError, KeyError, AttributeError, IndexError, TypeError) as error:
        if "eights_only" in str(error) or "nsupported" in str(error):
            raise UserError(
                f"{path} is a pickle that holds more than tensors: loading it runs whatever code its author put in. "
                f"If you trust "
                "where it comes from, add --trust; better, ask its author for a state dict or a .safetensors file."
            ) from error
        raise UserError(_damaged(path, error)) from error
    except (RuntimeError, EOFError, SafetensorError, OSError, ValueError) as error:
        raise UserError(_damaged(path, error)) from error
    if isinstance(found, nn.Module):
        return dict(found.state_dict())
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}. Expected a state dict.")
    return found


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read ({_first_line(error)}): it is truncated or no weights file. Copy it again and compare "
        "checksums."
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
