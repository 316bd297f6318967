"""Layers as the target runs them: what a layer is apart from its widths, and the widths that it can be timed at."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

DENSE, TOGETHER = "dense", "together"


class Widths(NamedTuple):
    """Channels that a layer reads and writes, and its groups (1: every output reads every input)."""

    cin: int
    cout: int
    groups: int = 1


@dataclass(frozen=True)
class LayerKind:
    """Everything that the time of a layer depends on, but its widths. Shared between models.

    op: ONNX's operator, `Conv`, `ConvTranspose` or `Gemm` (any product with a weight).
    lead: the extents in front of the channels: (N,) of a convolution, (N, tokens) of a product.
    size: the extents behind them, of what is read: (H, W).
    attributes: the operator's own, as pairs of name and value: kernel, strides, pads, dilations, output padding.
    after: what the back end computes in the same kernel, in order: `Relu`, `Clip(0,6)`, `Add` (of a residual).
    """

    op: str
    lead: tuple[int, ...]
    size: tuple[int, ...]
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The kind as one line of JSON, the same in every process."""
        return json.dumps({**asdict(self), "attributes": dict(self.attributes)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_key(cls, key: str) -> LayerKind:
        """The inverse of `key`."""
        said: dict[str, Any] = json.loads(key)
        attributes = tuple((name, tuple(value)) for name, value in said["attributes"].items())
        return cls(said["op"], tuple(said["lead"]), tuple(said["size"]), attributes, tuple(said["after"]))

    def attribute(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """One of the operator's attributes."""
        return dict(self.attributes).get(name, default)

    def __str__(self) -> str:
        """Read as `Conv 3×3/2 of 80×80 + Relu`."""
        kernel = "×".join(map(str, self.attribute("kernel_shape", ())))
        stride = max(self.attribute("strides", (1,)))
        size = "×".join(map(str, self.size or self.lead))
        words = f"{self.op} {kernel}{f'/{stride}' if stride > 1 else ''} of {size}".replace("  ", " ")
        return " + ".join([words, *self.after])


@dataclass(frozen=True)
class Entry:
    """One thing to time: a kind at given widths."""

    kind: LayerKind
    widths: Widths

    @property
    def weight(self) -> tuple[int, ...]:
        """The shape of its weight, as ONNX has it."""
        cin, cout, groups = self.widths
        if self.kind.op == "Gemm":
            return cin, cout
        kernel = self.kind.attribute("kernel_shape", ())
        return (cout, cin // groups, *kernel) if self.kind.op == "Conv" else (cin, cout // groups, *kernel)
