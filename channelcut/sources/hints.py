"""The exact spelling of a name that was nearly right."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

from channelcut.adapters.ultralytics.loading import is_checkpoint
from channelcut.sources import plugins
from channelcut.sources.weights import SUFFIXES

_LIBRARIES = ("ultralytics", "torchvision", "timm")
_FAMILIES = ("yolo", "rtdetr", "sam", "fastsam")
# What comes from another name is called by the one that the package has.
_OTHER_NAMES = {"tv": "torchvision", "pytorchvision": "torchvision", "yolo": "ultralytics"}


def meant(name: str) -> list[str]:
    """Every way to write what a name without an origin may mean, in full; of one there is no doubt."""
    path = Path(name)
    family = path.name.lower().startswith(_FAMILIES)
    if path.suffix == ".pt" and (family or is_checkpoint(path)):
        return [f"ultralytics:{name}"]
    if path.suffix in (".yaml", ".yml") and family:
        return [f"ultralytics:{name}"]
    if path.suffix == ".py":
        return [f"{name}:{factory}" for factory in factories_in(path)]
    if ":" in name or not name:
        return []
    return [f"{library}:{name}" for library in ("torchvision", "timm") if name in names_of(library)]


def spelling(name: str) -> str:
    """How to write what `name` seems to mean, as a sentence with a space before it; empty where it means nothing."""
    path = Path(name)
    if path.is_file() and path.name in ("plan.json", "model.safetensors", "report.json"):
        return f" A result is named by its folder: {path.parent}."
    if path.suffix == ".py":
        return _of_file(path)
    if path.suffix in SUFFIXES:
        return f" {path.name} holds weights, and no network. Name what builds it, and give --weights {name}."
    if path.suffix in (".engine", ".plan", ".tflite", ".mlmodel", ".torchscript"):
        return f" A {path.suffix} file cannot be cut: give the network that it was made from."
    library, _, rest = name.partition(":")
    if rest:
        known_prefixes = (*_LIBRARIES, *plugins.names())
        near = _OTHER_NAMES.get(library.lower()) or next(iter(_near(library.lower(), known_prefixes)), "")
        return f" Did you mean {near}:{rest}?" if near and near != library else ""
    known = meant(name)
    if known:
        return f" Did you mean {' or '.join(known)}?"
    if name.lower().startswith(_FAMILIES):
        return f" Did you mean ultralytics:{name}.yaml, or the checkpoint ultralytics:{name}.pt?"
    similar = [f"{library}:{n}" for library in ("torchvision", "timm") for n in _near(name, names_of(library))[:1]]
    return f" Did you mean {' or '.join(similar)}?" if similar else ""


def did_you_mean(library: str, name: str) -> str:
    """The nearest names that a library has, as a sentence with a space before it; empty where none is near."""
    suffix = Path(name).suffix if library == "ultralytics" else ""
    stem = name.removesuffix(suffix) if suffix else name
    known = suffix if suffix in ("", ".pt") else ".yaml"
    near = [f"{library}:{n}{known}" for n in _near(stem, names_of(library))]
    return f" Did you mean {', '.join(near)}?" if near and f"{library}:{name}" not in near else ""


def names_of(library: str) -> list[str]:
    """The names of a library's models; none where it cannot be imported."""
    try:
        if library == "torchvision":
            import torchvision

            return list(torchvision.models.list_models())
        if library == "timm":
            import timm

            return list(timm.list_models())
        from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS

        return sorted(GITHUB_ASSETS_STEMS)
    except Exception:  # noqa: BLE001  a broken installation must not hide the error that is being explained
        return []


def factories_in(path: Path) -> list[str]:
    """The functions and network classes of a Python file that can be called without an argument, by its text alone."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and _needs_none(node.args, 0)]
    classes = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any("Module" in ast.unparse(base) for base in node.bases)
        and all(_needs_none(item.args, 1) for item in node.body if _is_init(item))  # type: ignore[attr-defined]
    ]
    return [name for name in functions + classes if not name.startswith("_")]


def _needs_none(arguments: ast.arguments, given: int) -> bool:
    needed = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults) - given
    return needed <= 0 and all(default is not None for default in arguments.kw_defaults)


def _is_init(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "__init__"


def _of_file(path: Path) -> str:
    if not path.is_file():
        return f" There is no file {path}."
    found = factories_in(path)
    if not found:
        return f" {path.name} has no function without arguments; write one that returns the model: {path}:build."
    return f" Name the function in it that returns the model: {', '.join(f'{path}:{n}' for n in found[:3])}."


def _near(name: str, names: list[str] | tuple[str, ...]) -> list[str]:
    return difflib.get_close_matches(name, names, 3, 0.75)
