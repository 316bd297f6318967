"""Coupling commutes with cutting, on every test network and on random ones; see `square.py`.

Two kinds of random networks are left out, because cutting changes what they do:

- a forward that compares two widths (`views="hard"` with values as wide as no head) goes another way once they are
  equal, and the other way ties them;
- where the probe had to try which line hard-codes a width, it decides by how much of all that is free a line holds, and
  less is free after a cut.
"""

from __future__ import annotations

import pytest
import random_networks
from networks import NETWORKS, build, example
from random_networks import Network, seeded
from square import differences

import channelcut as cc
from channelcut.core.reasons import HARD_CODED_WIDTH


def compares_widths(description: Network) -> bool:
    options = [block.options for block in description.blocks if block.kind == "attention"]
    return any(o["views"] == "hard" and o["value_width"] != o["head_width"] for o in options)


# How its grouped convolution is cut is chosen by what frees most, and that is another way in the cut network.
CHOSEN_ANEW = {"Picked"}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in CHOSEN_ANEW])
def test_the_analysis_of_a_cut_network_is_what_the_cut_leaves(name: str, seed: int) -> None:
    model = build(name)
    assert not differences(model, example(), cc.analyze(model, example()), seed)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["NarrowShuffle", "ShuffledThirds"])
def test_whatever_channels_stay_they_are_in_order(name: str, seed: int) -> None:
    """Selections that leave single channels, which the square cannot judge, are for the proof.

    Kills an analysis that tries too few selections, of which none keeps the first channel of one piece and the last of
    another: the weights of these seeds then make a cut that is refused.
    """
    assert cc.prune(build(name, seed), example(), keep=0.5).proof.passed


@pytest.mark.parametrize("seed", [i for i in range(40) if not compares_widths(seeded(i))])
def test_so_it_is_for_random_networks(seed: int) -> None:
    description = seeded(seed)
    model, inputs = random_networks.build(description), random_networks.example(description)
    groups = cc.analyze(model, inputs)
    if any(pin.reason == HARD_CODED_WIDTH.text for pin in groups.pins):
        pytest.skip("the probe chose a line")
    assert not differences(model, inputs, groups, seed)
