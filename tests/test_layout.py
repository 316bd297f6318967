"""The layout is the data flow: a stage imports core and earlier stages only; files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "channelcut"
ORDER = (
    "core ops tracing coupling scoring cost allocation cutting proof recovery onnx_out precision engine parity bench "
    "report"
).split()
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_stage_imports_only_earlier_ones(path: Path) -> None:
    stage = path.relative_to(PACKAGE).parts[0]
    if stage not in ORDER:
        pytest.skip("not a stage: it puts stages in order, or names models")
    allowed = set(ORDER[: ORDER.index(stage) + 1])
    for module in imported(path):
        parts = module.split(".")
        if parts[0] == "channelcut" and len(parts) > 1:
            assert parts[1] in allowed, f"{stage} imports {module}"


@pytest.mark.parametrize(
    "path", [*FILES, *sorted((ROOT / "benchmarks").rglob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]
)
def test_small_rooms(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[ast.get_docstring(node) is not None :] or node.body
            public = path.name == "api.py" and not node.name.startswith("_")  # every option is a keyword with a text
            first = body[0].lineno if public else node.lineno
            assert (node.end_lineno or 0) - first < 60, node.name
            arguments = node.args
            assert len(arguments.args) + len(arguments.posonlyargs) <= 8, node.name
            assert public or len(arguments.args) + len(arguments.kwonlyargs) <= 8, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_command_line_is_a_shell(path: Path) -> None:
    """What decides can be called from Python: only `cli/` knows flags, and nothing else knows `cli/`."""
    if path.relative_to(PACKAGE).parts[0] in ("cli", "__main__.py"):
        return
    for module in imported(path):
        assert module.split(".")[0] != "argparse", path
        assert module.split(".")[:2] != ["channelcut", "cli"], path


def test_op_names_live_in_tables() -> None:
    """`aten.` names appear in the front ends, the table of ops and the proof's reference, and nowhere else."""
    for path in FILES:
        place = "/".join(path.relative_to(PACKAGE).parts[:2])
        if place.startswith(("tracing/", "ops/", "proof/reference.py")):
            continue
        assert '"aten.' not in path.read_text(), path


def test_heavy_imports_wait() -> None:
    """Optional packages are imported inside functions; the classes of an adapter are its library's own."""
    optional = {"lightning_fabric", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "ultralytics", "timm"}
    optional |= {"torchvision", "transformers"}
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] == "adapters" and path.name != "__init__.py":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not {n.split(".")[0] for n in names} & optional, path
