"""Levels of chance: of cosines of atoms, and of what an atom explains."""

from functools import lru_cache

import numpy as np
from scipy.integrate import quad
from scipy.special import betaincinv
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches

# Agreement, as a share of the way from the null level to 1, above which atoms count as
# the same feature in training, and above which they are trusted.  Of atoms above three
# quarters, at least 96 % are true on data with known features (benchmarks/recovery.py,
# trust): the level of trust for SAEs without data for a probability.
ALIKE = 0.5
TRUSTED = 0.75
# This share of random directions must agree less than a trusted atom.
BELOW = 0.99
# Added to the diagonal of Gram matrices of unit atoms, so that those with repeated or
# zero atoms can be solved for, too.
RIDGE = 1e-9
# Samples whose supports are in memory at once.
ROWS = 64


class Support:
    """Atoms that explain each sample; those of a slice of samples are made on demand.

    Parameters
    ----------
    atoms : ndarray of shape (n_components, n_features)
    indices : ndarray of shape (n_samples, k), int
    used : ndarray of shape (n_samples, k), bool
        Zeros stand for atoms that are not used.
    """

    def __init__(self, atoms: np.ndarray, indices: np.ndarray, used: np.ndarray):
        self.atoms, self.indices, self.used = atoms, indices, used

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Of some samples, (n_rows, k, n_features)."""
        return self.atoms[self.indices[rows]] * self.used[rows, :, None]


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


def median_gain(
    residual: np.ndarray,
    support: np.ndarray | Support,
    atoms: np.ndarray,
    positive: bool,
    draw: np.random.RandomState,
) -> float:
    """Share of a residual that one more atom explains, if residuals are Gaussian.

    The median over as many Gaussian samples. They have the covariance of the residuals,
    each scaled to norm 1, so that a few long ones do not make the covariance. They are
    orthogonal to the support, as residuals of least squares are.

    Parameters
    ----------
    residual : ndarray of shape (n_samples, n_features)
    support : ndarray of shape (n_samples, k, n_features), or Support
        Atoms that explained each sample; zeros where there are fewer.
    atoms : ndarray of shape (n_components, n_features)
        Atoms of unit norm.
    positive : bool
        Whether the next atom must have a positive product with the residual.
    draw : RandomState

    Returns
    -------
    float
        Between 0 and 1.
    """
    directions = normalize(residual.astype(np.float64))
    variances, axes = np.linalg.eigh(directions.T @ directions)
    samples = draw.standard_normal(residual.shape) * np.sqrt(variances.clip(0))
    samples = normalize(apart_from(samples @ axes.T, support))
    products = samples @ atoms.T
    best = np.argmax(products if positive else np.abs(products), axis=1)
    new = normalize(apart_from(atoms[best], support))
    return float(np.median(np.einsum("ij,ij->i", samples, new) ** 2))


def combined(weights: np.ndarray, support: np.ndarray | Support) -> np.ndarray:
    """Sums, (n, n_features), of the atoms of a support with weights (n, k)."""
    sums = [
        np.einsum("ik,ikf->if", weights[rows], support[rows])
        for rows in gen_batches(len(weights), ROWS)
    ]
    return np.concatenate(sums)


def apart_from(vectors: np.ndarray, support: np.ndarray | Support) -> np.ndarray:
    """Parts of vectors (n, n_features) orthogonal to their own atoms.

    Parameters
    ----------
    vectors : ndarray of shape (n, n_features)
    support : ndarray of shape (n, k, n_features), or Support
        Rows of norm 1 or 0.
    """
    parts = [
        _apart_from(vectors[rows], support[rows])
        for rows in gen_batches(len(vectors), ROWS)
    ]
    return np.concatenate(parts)


def _apart_from(vectors: np.ndarray, support: np.ndarray) -> np.ndarray:
    gram = support @ support.transpose(0, 2, 1) + RIDGE * np.eye(support.shape[1])
    weights = np.linalg.solve(gram, support @ vectors[:, :, None])
    return vectors - (weights.transpose(0, 2, 1) @ support)[:, 0]
