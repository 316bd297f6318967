"""Random networks: proven and confirmed by a check of its own, or refused with a reason; anything else is a defect."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_blocks import BLOCKS, HEADS
from random_check import check, difference, leaves
from random_check import settings as options_of
from random_networks import Block, Network, build, example, networks, seeded, shrink

import channelcut as cc

settings.register_profile(
    "ci",
    max_examples=40,
    derandomize=True,
    deadline=None,
    print_blob=True,
    # Taking blocks out by hand (`shrink`) finds smaller networks in fewer runs of a second each.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CI = settings.get_profile("ci")
SMALL = Network(
    inputs=((3, 8, 8),),
    batch=2,
    blocks=(Block("conv", (0,), {"width": 8, "norm": "batch"}), Block("split", (0,), {"pieces": 2, "then": "body"})),
    heads=(Block("map"),),
    container="one",
    seed=0,
)


@CI
@given(networks(), st.integers(0, 59))
def test_every_random_network_is_proven_or_refused(description: Network, which: int) -> None:
    outcome = check(description, options_of(which))
    if outcome.failed:
        smaller = shrink(description, lambda n: check(n, options_of(which)).reason == outcome.reason)
        pytest.fail(f"{outcome.status}: {outcome.reason}\n{outcome.detail}\n{options_of(which)}\n{smaller!r}")


def test_every_kind_is_drawn() -> None:
    """By hypothesis and by seed, over 200 networks."""
    drawn: list[Network] = []

    @settings(CI, max_examples=200)
    @given(networks())
    def collect(description: Network) -> None:
        drawn.append(description)

    collect()
    for found in (drawn, [seeded(i) for i in range(200)]):
        kinds = Counter(block.kind for network in found for block in network.blocks)
        heads = Counter(head.kind for network in found for head in network.heads)
        assert set(kinds) == set(BLOCKS)
        assert set(heads) == set(HEADS)
        assert {n.container for n in found} == {"one", "tuple", "list", "dict", "nested"}
        assert {len(n.inputs) for n in found} == {1, 2}


def test_most_networks_are_really_cut() -> None:
    """Refusals alone would pass every other test here."""
    outcomes = [check(seeded(i), options_of(i)) for i in range(10_000, 10_024)]
    assert sum(o.status == "proven" for o in outcomes) > 12
    assert sum(o.checked for o in outcomes) > 3


def test_a_description_can_be_pasted_and_stored() -> None:
    for index in range(20):
        network = seeded(index)
        assert eval(repr(network)) == network
        assert Network.from_dict(json.loads(json.dumps(network.to_dict()))) == network
        assert seeded(index) == network
    first, again = build(SMALL), build(SMALL)
    assert torch.equal(leaves(first(*example(SMALL)))[0], leaves(again(*example(SMALL)))[0])


def test_the_check_sees_a_wrong_cut() -> None:
    model = build(SMALL)
    result = cc.prune(model, example(SMALL), keep=0.5)
    inputs = example(SMALL, seed=1)
    right = difference(model, result, inputs, masks=True)
    assert right is not None
    assert right < 1e-12
    with torch.no_grad():
        weight = result.model.get_parameter("blocks.1.body.weight")
        weight.copy_(weight[:, torch.arange(weight.shape[1]).roll(1)])
    wrong = difference(model, result, inputs, masks=True)
    assert wrong is not None
    assert wrong > 1e-3


def test_a_failure_is_made_smaller() -> None:
    network = next(n for n in map(seeded, range(100)) if [b.kind for b in n.blocks[1:]].count("split") == 1)
    smaller = shrink(network, lambda n: any(block.kind == "split" for block in n.blocks))
    assert [block.kind for block in smaller.blocks] == ["split"]
    assert smaller.container == "one"
    assert len(smaller.heads) == 1
