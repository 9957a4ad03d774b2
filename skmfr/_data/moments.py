"""Variances of data that come block by block."""

from collections.abc import Iterable

import numpy as np
from sklearn.preprocessing import StandardScaler


def fvu_of_blocks(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """FVU of data that come with their reconstruction block by block."""
    residual = 0.0
    moments = StandardScaler()
    for X, X_hat in blocks:
        # What overflows is told below.
        with np.errstate(over="ignore", invalid="ignore"):
            residual += float(np.sum(np.square(X - X_hat, dtype=np.float64)))
            moments.partial_fit(X)
    n_samples = moments.n_samples_seen_
    total = float(np.sum(variance(moments))) * n_samples
    if total == 0:
        rounding = 8 * np.finfo(X.dtype).eps
        size = float(np.sum(np.square(moments.mean_))) * n_samples
        return float(residual > rounding**2 * size)
    return float(residual / total)


def variance(moments: StandardScaler) -> np.ndarray:
    """Variance of each feature, 0 where what there is comes from rounding.

    Raises
    ------
    ValueError
        If it overflows.
    """
    if not np.isfinite(moments.var_).all():
        raise ValueError(
            "X has values so large that their squares overflow float64: divide it by a "
            "number."
        )
    # The scaler knows: it leaves such features as they are.
    return np.where(moments.scale_ == np.sqrt(moments.var_), moments.var_, 0.0)
