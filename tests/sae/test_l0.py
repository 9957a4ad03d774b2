"""What one more atom explains by chance, against draws and least squares."""

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from skmfr._sae.l0 import ROWS, Support, apart_from, combined, median_gain
from skmfr._sae.levels import random_quantile


@pytest.mark.parametrize("positive", [True, False])
def test_gain_by_chance_is_that_of_random_directions(positive):
    draw = np.random.RandomState(0)
    atoms = normalize(draw.standard_normal((50, 24)))
    # Without a preferred direction, however long they are.
    residual = draw.standard_normal((4000, 24)) * draw.exponential(size=(4000, 1))
    gain = median_gain(residual, np.zeros((4000, 0, 24)), atoms, positive, draw)
    n_directions = 50 if positive else 100
    expected = random_quantile(24, n_directions, 0.5) ** 2
    assert gain == pytest.approx(expected, rel=0.03)  # 1 % is the error of a median


def test_gain_by_chance_grows_as_dimensions_are_used_up():
    """With orthogonal atoms in use, chance acts in the dimensions that are left."""
    draw = np.random.RandomState(0)
    residual = np.zeros((4000, 24))
    residual[:, 8:] = draw.standard_normal((4000, 16))
    support = np.broadcast_to(np.eye(24)[:8], (4000, 8, 24))
    atoms = normalize(draw.standard_normal((2000, 24)))
    gain = median_gain(residual, support, atoms, True, draw)
    # The best of many atoms; parts of atoms in other dimensions do not count.
    draws = draw.standard_normal((4000, 16))
    products = normalize(draws) @ atoms[:, 8:].T
    best = products.argmax(1)
    part = (1 - np.square(atoms[:, :8]).sum(1))[best]
    truth = np.median(products.max(1) ** 2 / part)
    assert gain == pytest.approx(truth, rel=0.05)
    assert gain > median_gain(residual, support[:, :0], atoms, True, draw) * 1.1


def test_apart_from_is_the_residual_of_least_squares():
    rng = np.random.default_rng(0)
    atoms, vectors = normalize(rng.standard_normal((9, 6))), rng.standard_normal((3, 6))
    # One sample without atoms, one with the same atom twice.
    support = np.stack([atoms[[2, 4]], 0 * atoms[:2], atoms[[1, 1]]])
    rest = apart_from(vectors, support)
    for i, used in enumerate([[2, 4], [], [1]]):
        basis = atoms[used].T
        expected = vectors[i] - basis @ np.linalg.pinv(basis) @ vectors[i]
        np.testing.assert_allclose(rest[i], expected, atol=1e-7)


def test_supports_are_made_in_blocks_without_a_change():
    rng = np.random.default_rng(0)
    n = 2 * ROWS + 3
    atoms, vectors = normalize(rng.standard_normal((9, 6))), rng.standard_normal((n, 6))
    indices, used = rng.integers(9, size=(n, 4)), rng.random((n, 4)) < 0.7
    support = Support(atoms, indices, used)
    whole = atoms[indices] * used[:, :, None]
    np.testing.assert_array_equal(support[:], whole)
    weights = rng.standard_normal((n, 4))
    expected = (weights[:, None] @ whole)[:, 0]
    np.testing.assert_allclose(combined(weights, support), expected, atol=1e-12)
    one_by_one = [apart_from(vectors[[i]], whole[[i]])[0] for i in range(n)]
    np.testing.assert_array_equal(apart_from(vectors, support), one_by_one)
