"""A plan: what is kept of every tensor, as data that anybody can check or replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What a network costs for the example input: multiply-accumulates and parameters."""

    macs: float
    params: int


@dataclass(frozen=True)
class GroupPlan:
    """What a plan does to one group: the width of each lane before and after."""

    name: str
    lanes: int
    width: int
    kept: int


@dataclass(frozen=True)
class Plan:
    """The kept positions of every cut tensor of the original, and the attributes that follow.

    `kept[name][axis]` lists positions in ascending order; `attributes[module][attribute]` is the new value.
    `fingerprint` identifies names and shapes of the original's tensors, `weights` their values.
    """

    fingerprint: str
    weights: str
    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    attributes: Mapping[str, Mapping[str, Any]]
    groups: tuple[GroupPlan, ...]
    before: Cost
    after: Cost
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def macs_ratio(self) -> float:
        """Multiply-accumulates after, as a share of those before."""
        return self.after.macs / self.before.macs if self.before.macs else 1.0

    @property
    def params_ratio(self) -> float:
        """Parameters after, as a share of those before."""
        return self.after.params / self.before.params if self.before.params else 1.0

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        data = asdict(self)
        data["kept"] = {n: {str(a): list(p) for a, p in axes.items()} for n, axes in self.kept.items()}
        data["format"] = 1
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:
        """Read what `to_dict` wrote."""
        return Plan(
            fingerprint=data["fingerprint"],
            weights=data["weights"],
            kept={n: {int(a): tuple(p) for a, p in axes.items()} for n, axes in data["kept"].items()},
            attributes={
                m: {k: tuple(v) if isinstance(v, list) else v for k, v in attrs.items()}
                for m, attrs in data["attributes"].items()
            },
            groups=tuple(GroupPlan(**g) for g in data["groups"]),
            before=Cost(**data["before"]),
            after=Cost(**data["after"]),
            options=data.get("options", {}),
        )
