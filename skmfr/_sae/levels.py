"""Cosines that atoms have by chance."""

from functools import lru_cache

import numpy as np
from scipy.integrate import quad
from scipy.special import betaincinv

# Agreement, as a share of the way from the null level to 1, above which atoms count as
# the same feature in training, and above which they are trusted.  Of atoms above three
# quarters, at least 96 % are true on data with known features (benchmarks/recovery.py,
# trust): the level of trust for SAEs without data for a probability.
ALIKE = 0.5
TRUSTED = 0.75
# This share of random directions must agree less than a trusted atom.
BELOW = 0.99


def agreement_level(null: float, share: float) -> float:
    """The agreement at this share of the way from the null level (0) to 1."""
    return null + share * (1 - null)


# Cached, because it is the same for all fits of one size and called twice in each.
@lru_cache(maxsize=64)
def random_agreement(n_features: int, n_components: int) -> float:
    """Mean cosine of a random direction with the nearest of `n_components` others."""
    if n_features == 1:
        return 1.0 - 2.0 ** (1 - n_components)

    def quantile(share: float) -> float:
        return random_quantile(n_features, n_components, share)

    mean = quad(quantile, 0.0, 1.0, limit=200)[0]
    # For a single atom the mean is 0, up to rounding.
    return max(0.0, mean)


def random_quantile(n_features: float, n_components: int, share: float) -> float:
    """Quantile of the cosine with the nearest of `n_components` random atoms."""
    if n_features == 1:
        return 1.0 if share > 0.5**n_components else -1.0
    # The largest of m cosines is below t with probability F(t)^m.
    log_below = np.log(share) / n_components
    below, above = np.exp(log_below), -np.expm1(log_below)
    tail = 2 * min(below, above)
    size = np.sqrt(1 - betaincinv((n_features - 1) / 2, 0.5, tail))
    return float(size if below > above else -size)


def level_of_data(along: np.ndarray, n_features: int, n_components: int) -> np.ndarray:
    """The 99 % quantile of the cosine with the nearest direction of the data.

    Directions that carry the covariance S of the data and nothing else, normalised
    draws from N(0, S), have a mean squared cosine with an atom d of d' S d / tr S, the
    share of the variance along it.  Random directions have that in as many dimensions
    as such shares make a whole, and in high dimensions the same distribution.

    Parameters
    ----------
    along : ndarray of shape (n_atoms,)
        Share of the variance of the data along each atom.
    n_features, n_components : int

    Returns
    -------
    ndarray of shape (n_atoms,)
        Nowhere below that of directions on the sphere.
    """
    n_dimensions = 1 / np.clip(along, 1 / n_features, 1.0)
    return np.array([random_quantile(n, n_components, BELOW) for n in n_dimensions])
