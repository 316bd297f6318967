"""The deployed form of a network: what will run in production, as opposed to what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.inputs import check_patterns


@dataclass(frozen=True)
class Deploy:
    """What of a network is deployed; what it costs, its files and its times are of that form.

    nms: for Ultralytics' models, as their own exporter takes it: None leaves suppression to whoever runs the file,
        False takes the head that needs none, True puts suppression into the file.
    outputs: patterns of paths in the forward's result (`1.feats.*`) that production reads; () for all.
    """

    nms: bool | None = None
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.nms not in (None, True, False):
            raise UserError(f"nms={self.nms!r}: expected None, True or False.")
        check_patterns(self.outputs, "outputs", "the paths of outputs, such as ('1.boxes',)")

    def to_dict(self) -> dict[str, Any]:
        """What is not the default, as JSON data."""
        said: dict[str, Any] = {} if self.nms is None else {"nms": self.nms}
        return said | ({"outputs": list(self.outputs)} if self.outputs else {})

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Deploy:
        """The inverse of `to_dict`."""
        return cls(said.get("nms"), tuple(said.get("outputs", ())))


DEFAULT = Deploy()


@dataclass(frozen=True)
class Deployed:
    """A network as it is deployed.

    module: float32, in evaluation mode; its forward takes `inputs`, and every tensor of its result is an output.
    input_names, output_names: those that loaders expect; () where any will do.
    metadata: pairs that loaders read from the file, under their own names.
    words: what a reader of a report has to know of it, such as `head` and `suppression`.
    unrolled: values decide its shapes, so that the file is made of one run at the example's batch size.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    unrolled: bool = False
