"""How many atoms are really active: more than chance explains."""

import numpy as np
from sklearn.preprocessing import normalize

from .arrays import coded_blocks, coder_of
from .codes import stacked

# Squared residual of a sample, relative to the sample, that is rounding error.
EXACT = 1e-10
# On products of atoms of norm 1, so that equal atoms and missing ones have a solution.
RIDGE = 1e-9


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
    residual, support = centred, np.zeros((len(X), 0, X.shape[1]))
    left = np.square(residual).sum(1)
    exact = EXACT * left
    for k in range(1, len(atoms) + 1):
        by_chance = median_gain(residual, support, atoms, sae.positive_code, draw)
        coder = coder_of(sae.set_params(k=k), X)
        codes = stacked([codes for _, codes in coded_blocks(coder, X)])
        values, indices = (part.cpu().numpy() for part in codes)
        support = atoms[indices] * (values != 0)[:, :, None]
        residual = centred - np.einsum(
            "ik,ikf->if", values * (sizes[indices] / unit), support
        )
        had, left = left, np.square(residual).sum(1)
        real = (had > exact) & (left <= (1 - by_chance) * had)
        share = 2 * np.mean(real) - 1
        if share <= 0:
            break
        n_active += share
    return float(n_active)


def median_gain(
    residual: np.ndarray,
    support: np.ndarray,
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
    support : ndarray of shape (n_samples, k, n_features)
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


def apart_from(vectors: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Parts of vectors (n, n_features) orthogonal to their own atoms.

    Parameters
    ----------
    vectors : ndarray of shape (n, n_features)
    support : ndarray of shape (n, k, n_features)
        Rows of norm 1 or 0.
    """
    gram = support @ support.transpose(0, 2, 1) + RIDGE * np.eye(support.shape[1])
    weights = np.linalg.solve(gram, support @ vectors[:, :, None])
    return vectors - (weights.transpose(0, 2, 1) @ support)[:, 0]
