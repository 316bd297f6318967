"""Names of layers and parameters: those of the file, made safe and unique, the same for every load."""

from __future__ import annotations

import keyword
import re

from torch import fx

_SUFFIXES = ("weight", "bias", "scale", "gamma", "running_mean")


def identifier(name: str) -> str:
    """`name` as a Python identifier."""
    safe = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "value"
    return f"_{safe}" if safe[0].isdigit() or keyword.iskeyword(safe) else safe


def layer_path(weight: str, node: str, kind: str, index: int) -> str:
    """Where a layer goes: by its weight's name (`backbone.0.conv.weight`), else by its node's (`/neck/cv1/Conv`).

    Without either it is `<kind>_<index>`. The result is a dotted path of safe pieces.
    """
    owner, _, last = weight.rpartition(".")
    if owner and last in _SUFFIXES and "::" not in weight:
        return path_of(owner)
    pieces = [piece for piece in node.split("/") if piece]
    if len(pieces) > 1 and re.match(rf"{kind}(_\d+)?$", pieces[-1]):
        # The older exporter repeats what holds a sequence: `/stem/stem.0/Conv` is the layer stem.0.
        scopes = pieces[:-1]
        kept = [a for a, b in zip(scopes, [*scopes[1:], ""], strict=True) if not b.startswith(f"{a}.")]
        return path_of(".".join(kept))
    return path_of(node or f"{kind}_{index}")


def path_of(name: str) -> str:
    """A dotted path of attribute names; a piece that torch.nn.Module uses itself gets an underscore."""
    pieces = [re.sub(r"\W", "_", piece, flags=re.ASCII) for piece in re.split(r"[./]|::", name) if piece]
    safe = [f"{piece}_" if hasattr(fx.GraphModule, piece) or piece in ("meta", "") else piece for piece in pieces]
    if len(safe) == 1 and safe[0][0].isdigit():
        safe = [f"value_{safe[0]}"]
    return ".".join(safe) or "value"


class Names:
    """Gives out paths so that none is taken twice and none lies inside another one's layer."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._inner: set[str] = set()

    def claim(self, path: str) -> str:
        """`path`, or the first free variation of it."""
        candidate, count = path, 0
        while not self._free(candidate):
            count += 1
            candidate = f"{path}_{count}" if count < 100 or "." not in path else f"{path.replace('.', '_')}_{count}"
        self._taken.add(candidate)
        self._inner.update(self._prefixes(candidate))
        return candidate

    def _free(self, path: str) -> bool:
        return path not in self._taken and path not in self._inner and not self._taken & set(self._prefixes(path))

    @staticmethod
    def _prefixes(path: str) -> list[str]:
        pieces = path.split(".")
        return [".".join(pieces[:count]) for count in range(1, len(pieces))]
