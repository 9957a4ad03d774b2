"""What chance gives, against draws."""

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from skmfr._sae.levels import BELOW, level_of_data, random_quantile


def test_level_of_data_that_vary_alike_is_that_of_the_sphere():
    level = level_of_data(np.array([1 / 24, 0.0, 0.01]), 24, 50)
    np.testing.assert_allclose(level, random_quantile(24, 50, BELOW))
    np.testing.assert_allclose(level_of_data(np.ones(3), 1, 50), 1.0)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_directions_of_the_covariance_stay_below_the_level(power):
    rng = np.random.default_rng(0)
    variance = np.arange(1.0, 41.0) ** -power
    # Atoms along the data, and anywhere.
    atoms = rng.standard_normal((20, 40))
    atoms[:10] *= np.sqrt(variance)
    atoms = normalize(atoms)
    level = level_of_data(atoms**2 @ variance / variance.sum(), 40, 30)
    draws = rng.standard_normal((1500, 30, 40)) * np.sqrt(variance)
    draws /= np.linalg.norm(draws, axis=2, keepdims=True)
    nearest = (draws @ atoms.T).max(1)
    assert (nearest < level).mean(0).min() > 0.985
    # That of the sphere is not enough, the less the more data differ from one.
    sphere = random_quantile(40, 30, BELOW)
    assert (nearest[:, :10] < sphere).mean() < (0.985 if power == 0.5 else 0.95)
    assert level.min() < 0.99
