"""timm's networks: whole, with the preprocessing of their data configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from channelcut.adapters.base import Adapter
from channelcut.recovery.images import INTERPOLATIONS, Preprocessing

# How timm crops, and what does the same here; what is pasted into a border is letterboxed.
_FITS: Mapping[str, Any] = {"center": "crop", "squash": "stretch", "border": "letterbox"}


class Timm(Adapter):
    """Classifiers and backbones."""

    def owns(self, model: nn.Module) -> bool:
        """Whether the class of the whole network is timm's and says how it was trained."""
        theirs = any(kind.__module__.partition(".")[0] == "timm" for kind in type(model).__mro__)
        return theirs and isinstance(getattr(model, "pretrained_cfg", None), Mapping)

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:
        """What `timm.data.resolve_data_config` makes of the network's configuration."""
        known: Any = model.pretrained_cfg
        found = data_config(known)
        name = ".".join(str(known[key]) for key in ("architecture", "tag") if known.get(key))
        interpolation: Any = found["interpolation"]
        fit = _FITS[found["crop_mode"]]
        return Preprocessing(
            fit=fit,
            mean=tuple(map(float, found["mean"])),
            std=tuple(map(float, found["std"])),
            share=min(1.0, float(found["crop_pct"])) if fit != "letterbox" else 1.0,
            interpolation=interpolation if interpolation in INTERPOLATIONS else "bilinear",  # theirs may draw one
            by=f"timm's data configuration of {name or type(model).__name__}",
        )


def data_config(known: Mapping[str, Any]) -> dict[str, Any]:
    """`input_size`, `mean`, `std`, `crop_pct`, `crop_mode` and `interpolation` of a pretrained configuration."""
    from timm.data import resolve_data_config

    return dict(resolve_data_config({}, pretrained_cfg=dict(known)))
