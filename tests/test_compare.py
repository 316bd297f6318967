"""What counts as a difference between a reference and a candidate, and on which elements."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from channelcut.proof.compare import kept_elements, kept_mask, moved, relative_error

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("reference", "candidate", "error"),
    [
        ([1.0, 3.0], [1.0, 3.0], 0.0),
        ([1.0, 3.0], [1.0, 3.5], 0.5),  # their deviation is 1
        ([2.0, 2.0], [2.0, 2.0 + 1e-6], 0.05),  # rounding is not seen below 1e-5 of the values
        ([1.0, 3.0, -INF], [1.0, 3.5, -INF], 0.5),
        ([1.0, 3.0, -INF], [1.0, 3.0, INF], INF),
        ([1.0, 3.0, -INF], [1.0, 3.0, 0.0], INF),
        ([1.0, 3.0], [1.0, NAN], INF),
        ([1.0, NAN], [1.0, NAN], INF),  # what is not a number proves nothing
        ([0.0, 0.0], [0.0, 1.0], INF),
        ([1.0, 3.0], [1.0], INF),
        ([], [], 0.0),
        ([-INF, INF], [-INF, INF], 0.0),
    ],
)
def test_the_largest_difference_in_deviations(reference: list[float], candidate: list[float], error: float) -> None:
    found = relative_error(torch.tensor(reference, dtype=torch.float64), torch.tensor(candidate, dtype=torch.float64))
    assert found == pytest.approx(error, rel=1e-6)


def test_whole_numbers_and_truth_values_are_compared_too() -> None:
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0.0
    assert relative_error(torch.tensor([True, False]), torch.tensor([True, True])) > 0


def test_the_kept_elements_along_one_axis_and_two() -> None:
    kept = np.array([True, False, True, True])  # by channel; 0 is no channel
    value = torch.arange(24.0).view(2, 3, 4)
    along = torch.tensor([1, 2, 3], dtype=torch.int32).view(1, 3, 1).expand(2, 3, 4)
    mask = kept_mask(along, kept)
    assert mask is not None and mask.shape == (1, 3, 1)
    assert torch.equal(kept_elements(value, mask), value[:, [1, 2]])
    grid = torch.tensor([[1, 0], [2, 1], [3, 3]], dtype=torch.int32).view(1, 3, 2)
    mask = kept_mask(grid, kept)
    assert mask is not None
    assert kept_elements(value[:1, :, :2], mask).tolist() == [1.0, 4.0, 8.0, 9.0]
    assert kept_mask(along, np.ones(4, dtype=bool)) is None


def test_how_far_an_output_moved() -> None:
    assert moved(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 5.0])) == pytest.approx(2.0)
    assert moved(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 3.0])) == pytest.approx(0.5)
    assert moved(torch.tensor([1.0]), torch.tensor([1.0, 2.0])) == 0.0
    assert math.isfinite(moved(torch.zeros(3), torch.zeros(3)))
