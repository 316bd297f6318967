"""Models that a function of the user's makes: `path/to/file.py:factory`, `package.module:factory`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.inputs import split_inputs
from channelcut.core.words import kind_of
from channelcut.sources.hints import spelling
from channelcut.sources.weights import first_line


def existing(path: Path) -> Path:
    """The path, if there is such a file."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob(f"*{path.suffix}")], 1)
        hint = f" Did you mean {path.with_name(near[0])}?" if near else ""
        raise UserError(
            f"There is no file {path}.{hint} Expected path/to/file.py:factory, where factory() returns the model."
        )
    return path


def module_of_file(path: Path) -> ModuleType:
    """Import a file, which may import its neighbours."""
    name = f"channelcut_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{path} cannot be imported: {type(error).__name__}: {first_line(error)}. Run it with python to see where."
        ) from error
    return module


def module_of_package(path: str, name: str, forms: str) -> ModuleType:
    """Import a module by its name."""
    sys.path.insert(0, "")
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise UserError(
            f"{name!r} names no model: {first_line(error)}.{spelling(name)} Expected one of: {forms}."
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{name!r}: {path} cannot be imported: {type(error).__name__}: {first_line(error)}. Run "
            f"`python -c 'import {path}'` to see where."
        ) from error
    finally:
        sys.path.remove("")


def call(module: ModuleType, factory: str, name: str) -> nn.Module | tuple[nn.Module, Any]:
    """The model that a factory returns, in evaluation mode, with the inputs that it returns beside it.

    Raises:
        UserError: there is no such function, it fails, or returns neither a module nor a module with inputs.
    """
    function = getattr(module, factory, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(factory, names, 1)
        raise UserError(
            f"{name!r}: there is no function {factory!r}.{f' Did you mean {near[0]}?' if near else ''} Expected a "
            "function without arguments that returns the model, or (model, inputs)."
        )
    try:
        made = function()
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{name!r}: {factory}() fails with {type(error).__name__}: {first_line(error)}. Expected a function "
            "without "
            "arguments that returns the model, or (model, inputs)."
        ) from error
    model, *inputs = made if isinstance(made, (tuple, list)) else (made,)
    if not isinstance(model, nn.Module) or len(inputs) > 1:
        kinds = ", ".join(type(part).__name__ for part in made) if isinstance(made, (tuple, list)) else ""
        raise UserError(
            f"{name!r}: {factory}() returns {kind_of(made)}{f' of {kinds}' if kinds else ''}. Expected a "
            "torch.nn.Module, or (model, inputs) with inputs as channelcut.prune takes them: a tensor, a tuple or a "
            "dict."
        )
    if not inputs:
        return model.eval()
    split_inputs(inputs[0])
    return model.eval(), inputs[0]
