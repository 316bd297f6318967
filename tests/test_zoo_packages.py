"""The zoo of packages is made of tables: what is not installed has no rows, and every name is told apart."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.zoo import from_packages
from benchmarks.zoo.catalogue import version
from benchmarks.zoo.packages import monai, recipe, smp, spandrel


def test_names_are_told_apart_and_say_their_library():
    names = from_packages.names()
    assert len(names) == len(set(names))
    assert {name.split("/")[0] for name in names} <= set(from_packages.LIBRARIES)
    for file in (monai, smp, spandrel):
        assert len(file.names()) == len(set(file.names())) > 40


def test_a_library_that_is_not_installed_has_no_rows(monkeypatch):
    monkeypatch.setattr(from_packages, "installed", lambda distribution: "9" if distribution == "monai" else None)
    assert {name.split("/")[0] for name in from_packages.names()} == {"monai"}
    assert "monai 9" in version("packages") and "spandrel (not installed)" in version("packages")


def test_a_recipe_builds_for_evaluation():
    found = recipe.Recipe("torch.nn:Conv2d", {"in_channels": 3, "out_channels": 4, "kernel_size": 1}).example()
    assert not found.model.training
    assert isinstance(found.model, nn.Conv2d) and found.run().shape == (1, 4, recipe.SIDE, recipe.SIDE)
    assert isinstance(found.inputs, tuple) and isinstance(found.inputs[0], torch.Tensor)
