"""Check the data that a user passes to an estimator."""

import numpy as np
from sklearn import get_config
from sklearn.utils.validation import check_is_fitted, validate_data

from .._utils.checks import as_array, float_dtypes
from .sources import Source, as_source, check_finite


def checked(estimator, X, reset: bool) -> np.ndarray | Source:
    """X as an array, or as a source that reads it in pieces.

    Raises
    ------
    ValueError
        If X is not numeric and finite, or, unless `reset` is True, not as wide as the
        training data.
    """
    source = as_source(X)
    if source is not None:
        # Values that are not finite are detected when they are read.
        return validate_data(estimator, source, reset=reset, skip_check_array=True)
    if reset or not as_validated(estimator, X):
        X = as_array(X)
        X = validate_data(
            estimator,
            X,
            dtype=float_dtypes(X),
            ensure_all_finite=False,
            reset=reset,
        )
    if not get_config()["assume_finite"]:
        check_finite(X)
    return X


def checked_data(estimator, X) -> np.ndarray | Source:
    """X in the form that a fitted estimator codes: an array, or a source."""
    check_is_fitted(estimator)
    return checked(estimator, X, reset=False)


def as_validated(estimator, X) -> bool:
    """Whether scikit-learn's checks would return X unchanged for this estimator.

    The checks take as long as coding one row.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and len(X) > 0
        and X.shape[1] == estimator.n_features_in_
        and X.dtype in (np.float32, np.float64)
        and not hasattr(estimator, "feature_names_in_")
    )


def max_norm_of(sae, max_norm_ratio: float | None) -> float | None:
    """The norm above which rows are left out; None if there is no bound.

    Parameters
    ----------
    sae : estimator or callable
        Object whose `median_norm_` is multiplied by the ratio.
    max_norm_ratio : float or None

    Raises
    ------
    ValueError
        If a ratio is given and `sae` has no `median_norm_`.
    """
    if max_norm_ratio is None:
        return None
    median = getattr(sae, "median_norm_", np.nan)
    if not np.isfinite(median):
        raise ValueError(
            f"max_norm_ratio={max_norm_ratio!r} needs sae.median_norm_, the median "
            f"norm that fit stores, but this {type(sae).__name__} has none: set it to "
            "the median norm of the rows that it was fitted to."
        )
    return float(max_norm_ratio * median)
