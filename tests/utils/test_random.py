"""Random parts of data."""

import numpy as np
import pytest

from skmfr._utils.random import part_of


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_parts", [2, 3])
def test_rows_are_in_random_parts_of_one_size(dtype, n_parts):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6000, 5)).astype(dtype)
    part = part_of(X, 0, n_parts)
    shares = np.bincount(part) / len(X)
    np.testing.assert_allclose(shares, 1 / n_parts, atol=0.02)
    # No part says anything about values, nor about the neighbour or another seed.
    assert abs(np.corrcoef(X[:, 0], part)[0, 1]) < 0.04
    assert abs(np.mean(part[1:] == part[:-1]) - 1 / n_parts) < 0.02
    assert abs(np.mean(part_of(X, 1, n_parts) == part) - 1 / n_parts) < 0.02


def test_a_row_is_in_the_same_part_wherever_it_is():
    X = np.random.default_rng(0).integers(0, 9, (500, 3)).astype(np.float32)
    part = part_of(X, 7, 4)
    order = np.random.default_rng(1).permutation(500)
    np.testing.assert_array_equal(part_of(X[order], 7, 4), part[order])
    np.testing.assert_array_equal(part_of(X[::-2], 7, 4), part[::-2])
    # Two zeros are equal, too.
    np.testing.assert_array_equal(part_of(np.where(X == 0, -0.0, X), 7, 4), part)
    # Small numbers, of which few bits differ, are told apart as well.
    assert np.bincount(part, minlength=4).min() > 80
