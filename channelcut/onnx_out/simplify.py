"""The graph simplifiers, by name. None is trusted: `rewriting.accept_rewrite` checks what they return."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import onnx

from channelcut.core.errors import UserError
from channelcut.core.quiet import quietly
from channelcut.onnx_out.rewriting import Rewrite


def rewrites(names: Sequence[str]) -> list[tuple[str, Rewrite]]:
    """Return the named simplifiers that are installed, in the given order; raises `UserError` for an unknown name."""
    unknown = [name for name in names if name not in SIMPLIFIERS]
    if unknown:
        raise UserError(f"There is no ONNX simplifier called {unknown[0]!r}; known: {', '.join(sorted(SIMPLIFIERS))}.")
    return [(name, SIMPLIFIERS[name]) for name in names if importlib.util.find_spec(name) is not None]


def simplified_by_onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constant folding and fusion by onnxsim; raises `RuntimeError` when its own check fails."""
    import onnxsim

    simplified, checked = onnxsim.simplify(model)
    if not checked:
        raise RuntimeError("its own check found the result to differ")
    result: onnx.ModelProto = simplified
    # It leaves two dozen notes on what it did among the properties, which loaders read.
    kept = [p for p in result.metadata_props if not p.key.startswith("onnxsim.")]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    return result


def simplified_by_onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constant folding and fusion by onnxslim, without its report."""
    import onnxslim

    with quietly():
        result: onnx.ModelProto = onnxslim.slim(model)
    return result


SIMPLIFIERS: dict[str, Rewrite] = {"onnxsim": simplified_by_onnxsim, "onnxslim": simplified_by_onnxslim}
