"""How many atoms are really active: more than chance explains."""

import numpy as np
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches

from .arrays import coded_blocks, coder_of
from .codes import stacked

# Squared residual of a sample, relative to the sample, that is rounding error.
EXACT = 1e-10
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


def estimated_l0(sae, X: np.ndarray, draw: np.random.RandomState) -> float:
    """Mean number of steps of matching pursuit that explain more than chance does.

    Parameters
    ----------
    sae : BaseSparseAutoencoder
        Codes by matching pursuit. Its `k` is changed.
    X : ndarray of shape (n_samples, n_features)
    draw : RandomState
    """
    atoms, n_active = sae.components_.astype(np.float64), 0.0
    sizes = np.linalg.norm(atoms, axis=1)
    atoms /= np.where(sizes > 0, sizes, 1)[:, None]
    centred = X.astype(np.float64) - sae.decoder_bias_
    # In units of the largest, whose squares neither vanish nor overflow.
    unit = np.abs(centred).max() or 1.0
    centred /= unit
    residual, nothing = centred, np.zeros((len(X), 0), dtype=int)
    support = Support(atoms, nothing, nothing > 0)
    left = np.square(residual).sum(1)
    exact = EXACT * left
    for k in range(1, len(atoms) + 1):
        by_chance = median_gain(residual, support, atoms, sae.positive_code, draw)
        coder = coder_of(sae.set_params(k=k), X)
        codes = stacked([codes for _, codes in coded_blocks(coder, X)])
        values, indices = (part.cpu().numpy() for part in codes)
        support = Support(atoms, indices, values != 0)
        residual = centred - combined(values * (sizes[indices] / unit), support)
        had, left = left, np.square(residual).sum(1)
        real = (had > exact) & (left <= (1 - by_chance) * had)
        share = 2 * np.mean(real) - 1
        if share <= 0:
            break
        n_active += share
    return float(n_active)


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
