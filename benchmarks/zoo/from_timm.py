"""The smallest model of every family of timm."""

from __future__ import annotations

import torch

from benchmarks.zoo.catalogue import Example

TINY = "test_"  # fixtures of timm's own tests, smaller than any network that is used


def names() -> list[str]:
    """For every module of timm, the architecture with the fewest parameters, counted on the meta device."""
    import timm

    found = []
    for module in timm.list_modules():
        offered = [name for name in timm.list_models(module=module) if not name.startswith(TINY)]
        sizes = {name: size for name in offered if (size := parameters(name)) is not None}
        if sizes:
            found.append(min(sizes, key=lambda name: (sizes[name], name)))
    return found


def parameters(name: str) -> int | None:
    """How many parameters an architecture has; None where it cannot be built without downloads or real memory."""
    import timm

    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
    except Exception:  # noqa: BLE001  some architectures compute with values while they are built
        return None
    return int(sum(parameter.numel() for parameter in model.parameters()))


def example(name: str) -> Example:
    """A model with random weights and the input of its default configuration."""
    import timm

    model = timm.create_model(name, pretrained=False).eval()
    shape = model.default_cfg.get("input_size") or (3, 224, 224)
    return Example(model, (torch.rand(1, *shape),))
