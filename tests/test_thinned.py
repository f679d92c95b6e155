"""Counts divided between two halves."""

from __future__ import annotations

import numpy as np
import pytest

from pypty.data.sources import ArraySource
from pypty.data.thinned import ThinnedSource
from pypty.errors import DataError


def halves(data: np.ndarray, seed: int = 0) -> tuple[ThinnedSource, ThinnedSource]:
    source = ArraySource(data)
    return ThinnedSource(source, seed), ThinnedSource(source, seed, rest=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_they_add_up_and_are_independent(dtype: str) -> None:
    rng = np.random.default_rng(0)
    data = rng.poisson(20.0, (60, 20, 20)).astype(dtype)
    one, two = (half.read(np.arange(60)) for half in halves(data))
    np.testing.assert_array_equal(one + two, data)
    assert one.dtype == two.dtype == data.dtype
    # both are Poisson-distributed with mean 10, and uncorrelated: within four standard deviations
    for half in (one, two):
        assert abs(half.mean() - 10) < 4 * np.sqrt(10 / half.size)
        assert abs(half.var() / 10 - 1) < 4 * np.sqrt(2.1 / half.size)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 4 / np.sqrt(data.size)


def test_a_pattern_is_the_same_however_it_is_read() -> None:
    data = np.random.default_rng(1).poisson(5.0, (8, 4, 4))
    one, _ = halves(data)
    np.testing.assert_array_equal(one.read(np.array([2, 5])), one.read(np.arange(8))[[2, 5]])
    assert (halves(data, seed=1)[0].read(np.arange(8)) != one.read(np.arange(8))).any()
    assert (one.shape, one.scan, one.name) == ((8, 4, 4), None, "dataset")


def test_pixels_without_data_stay_so() -> None:
    data = np.full((2, 2, 2), 4.0)
    data[0, 1, 1] = np.nan
    for half in halves(data):
        found = half.read(np.arange(2))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(data))


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_values_that_are_no_counts_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="only whole, non-negative counts"):
        halves(np.full((1, 2, 2), value))[0].read(np.array([0]))
