"""asteroid: separating and enhancing sound, half a second of it."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.packages.recipe import Recipe

DISTRIBUTION = "asteroid"
SOUND = ((1, 4000),)


def net(name: str, **options: Any) -> Recipe:
    """A class of `asteroid.models`."""
    return Recipe(f"asteroid.models:{name}", options, SOUND)


# DCCRNet gives torch's LSTM a size of numpy's kind, which torch 2.14 refuses; XUMX says that it needs torch 1.
RECIPES: dict[str, Recipe] = {
    "ConvTasNet": net("ConvTasNet", n_src=2, n_blocks=4, n_repeats=2),
    "ConvTasNet-cLN": net("ConvTasNet", n_src=2, n_blocks=4, n_repeats=2, norm_type="cLN"),
    "DPRNNTasNet": net("DPRNNTasNet", n_src=2, n_repeats=2),
    "DPTNet": net("DPTNet", n_src=2, n_repeats=1),
    "SuDORMRFNet": net("SuDORMRFNet", n_src=2, num_blocks=4),
    "SuDORMRFImprovedNet": net("SuDORMRFImprovedNet", n_src=2, num_blocks=4),
    "LSTMTasNet": net("LSTMTasNet", n_src=2, hid_size=64, n_layers=2),
    "DCUNet": net("DCUNet", architecture="DCUNet-10", fix_length_mode="pad"),
    "DeMask": net("DeMask"),
}


def names() -> list[str]:
    """The recipes, with fewer blocks than the published models."""
    return list(RECIPES)


def example(name: str) -> Example:
    """One network with random weights and one waveform."""
    return RECIPES[name].example()
