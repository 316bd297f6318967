"""May a rewrite of an ONNX model replace it? Only if it computes what the module computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]  # ships no stubs

from channelcut.core.errors import UserError
from channelcut.onnx_out import files
from channelcut.onnx_out.files import weight_bytes
from channelcut.onnx_out.parity import Parity, ParityCheck, first_line

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]

# What third-party graph rewriters raise on graphs that they do not understand.
REWRITE_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OSError,
    EncodeError,  # of a model above protobuf's 2 GiB
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


@dataclass(frozen=True)
class Accepted:
    """The model to go on with: a rewrite's, or the original when every rewrite was refused."""

    model: onnx.ModelProto
    name: str
    parity: Parity
    refusals: tuple[str, ...]


def accept_rewrite(
    original: onnx.ModelProto,
    rewrites: Sequence[tuple[str, Rewrite]],
    check: ParityCheck,
) -> Accepted:
    """Return the first named rewrite whose result still computes what the module computes, else the original ("none").

    `original` is not changed: each rewrite gets a copy. Every refusal is kept with its reason. Raises `UserError` when
    nothing passes, the original included.
    """
    refusals: list[str] = []
    if weight_bytes(original) > files.EXTERNAL_ABOVE:
        # The simplifiers work on one protobuf message, which ends at 2 GiB; native code may not fail politely.
        refusals = [f"{name} not tried: the weights exceed one protobuf message (2 GiB)" for name, _ in rewrites]
        rewrites = ()
    for name, rewrite in rewrites:
        copy = onnx.ModelProto()
        copy.CopyFrom(original)
        try:
            model = rewrite(copy)
        except REWRITE_FAILURES as problem:
            refusals.append(f"{name} failed: {type(problem).__name__}: {first_line(problem)}")
            continue
        reason = _interface_change(original, model)
        parity = Parity(0.0)
        if reason is None:
            try:
                parity = check(model)
                reason = parity.refused or None
            except UserError as problem:
                reason = first_line(problem)
        if reason is None:
            return Accepted(model, name, parity, tuple(refusals))
        refusals.append(f"{name} rejected: {reason}")
    parity = check(original)
    if parity.refused:
        raise UserError(
            f"The exported ONNX model does not compute what the module computes: {parity.refused}. Expected equality "
            "up to float32 rounding in eval mode. Look for randomness, state kept between calls, or branches on the "
            "input's values in the model's forward, and export with an example input of the resolution you deploy."
        )
    return Accepted(original, "none", parity, tuple(refusals))


def _interface_change(original: onnx.ModelProto, model: onnx.ModelProto) -> str | None:
    for side in ("input", "output"):
        before, after = ([v.name for v in getattr(m.graph, side)] for m in (original, model))
        if before != after:
            return f"it changed the {side}s from {before} to {after}"
    return None
