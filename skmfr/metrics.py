"""How well sparse codes describe data."""

from collections.abc import Iterable

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_consistent_length

__all__ = ["dead_fraction", "fvu", "l0"]


def fvu(X, X_hat) -> float:
    r"""Fraction of variance unexplained by a reconstruction.

    .. math:: \mathrm{FVU} = \sum (x - \hat x)^2 / \sum (x - \bar x)^2

    with the mean of each feature over the samples given, so that it is one minus
    ``r2_score(X, X_hat, multioutput="variance_weighted")``.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Data.
    X_hat : array-like of shape (n_samples, n_features)
        Their reconstruction.

    Returns
    -------
    float
        0 for a perfect reconstruction, 1 for the mean of each feature; without bound
        above.  For constant data 0 if the reconstruction is exact, 1 otherwise.

    Raises
    ------
    ValueError
        If the shapes differ or a value is not finite.

    Examples
    --------
    >>> from skmfr.metrics import fvu
    >>> fvu([[0.0, 1.0], [2.0, 3.0]], [[0.0, 1.0], [2.0, 2.0]])
    0.25
    """
    X = check_array(X, dtype=[np.float64, np.float32])
    X_hat = check_array(X_hat, dtype=[np.float64, np.float32])
    check_consistent_length(X, X_hat)
    if X.shape != X_hat.shape:
        raise ValueError(
            f"X_hat has {X_hat.shape[1]} features, but X has {X.shape[1]}: a "
            "reconstruction has the shape of the data."
        )
    return _fvu_of_blocks([(X, X_hat)])


def _fvu_of_blocks(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """FVU of data that come with their reconstruction block by block."""
    residual = 0.0
    moments = StandardScaler()
    for X, X_hat in blocks:
        residual += float(np.sum(np.square(X - X_hat, dtype=np.float64)))
        moments.partial_fit(X)
    n_samples = moments.n_samples_seen_
    total = float(np.sum(_variance(moments))) * n_samples
    if total == 0:
        rounding = 8 * np.finfo(X.dtype).eps
        size = float(np.sum(np.square(moments.mean_))) * n_samples
        return float(residual > rounding**2 * size)
    return float(residual / total)


def _variance(moments: StandardScaler) -> np.ndarray:
    """Variance of each feature, 0 where what there is comes from rounding."""
    # The scaler knows: it leaves such features as they are.
    return np.where(moments.scale_ == np.sqrt(moments.var_), moments.var_, 0.0)


def l0(codes) -> float:
    """Mean number of active atoms per sample.

    Parameters
    ----------
    codes : {array-like, sparse matrix} of shape (n_samples, n_components)
        Sparse codes.

    Returns
    -------
    float
        Between 0 and n_components.

    Examples
    --------
    >>> from skmfr.metrics import l0
    >>> l0([[0.0, 2.0], [1.0, 3.0]])
    1.5
    """
    codes = check_array(codes, accept_sparse="csr")
    n_active = codes.count_nonzero() if hasattr(codes, "tocsr") else np.sum(codes != 0)
    return float(n_active / codes.shape[0])


def dead_fraction(codes) -> float:
    """Share of atoms that are active in no sample.

    Parameters
    ----------
    codes : {array-like, sparse matrix} of shape (n_samples, n_components)
        Sparse codes.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> from skmfr.metrics import dead_fraction
    >>> dead_fraction([[0.0, 2.0], [0.0, 3.0]])
    0.5
    """
    codes = check_array(codes, accept_sparse="csr")
    active = np.asarray((codes != 0).sum(axis=0)).ravel()
    return float(np.mean(active == 0))
