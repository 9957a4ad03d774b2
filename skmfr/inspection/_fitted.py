"""Parts of fitted estimators that displays need."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._base import BaseSparseAutoencoder
from ..metrics import _split_pipeline


def split_fitted(estimator) -> tuple[Any, BaseSparseAutoencoder]:
    """The steps before a fitted SAE, or None, and the SAE.

    Raises
    ------
    TypeError
        If it is not an SAE of this package or a Pipeline that ends with one.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    before, sae = _split_pipeline(estimator)
    if not isinstance(sae, BaseSparseAutoencoder):
        raise TypeError(
            "estimator must be an MFRSparseAutoencoder or PretrainedSAE, or a Pipeline "
            f"that ends with one, got {type(sae).__name__}."
        )
    check_is_fitted(sae)
    return before, sae


def transformed(before, X):
    """The data that reach the SAE."""
    return X if before is None else before.transform(X)


def agreement_with(sae: BaseSparseAutoencoder) -> str:
    """Description of the dictionaries that `feature_agreement_` refers to."""
    if len(sae.dictionaries_) == 1 and not len(sae.witness_dictionaries_):
        # The agreement was read from a file, which does not name the dictionaries.
        return "other dictionaries"
    n_witnesses = len(sae.witness_dictionaries_)
    if n_witnesses:
        return f"{n_witnesses} witness" + "es" * (n_witnesses > 1)
    return "other SAEs" + " (under the penalty)" * (sae.alpha > 0)


def check_labels(labels, n: int) -> list[str]:
    """One label for each of n dictionaries; None means their indices."""
    labels = list(map(str, range(n) if labels is None else labels))
    if len(labels) != n:
        raise ValueError(f"There are {len(labels)} labels for {n} dictionaries.")
    return labels


def chosen(choice, name: str, scores: np.ndarray) -> np.ndarray:
    """Indices of the items to show, in order of descending score.

    Parameters
    ----------
    choice : int or array-like of int
        How many, evenly spread over the ranks of the scores; or the indices.
    name : str
        Name of the choice in errors.
    scores : ndarray of shape (n_items,)
        NaN ranks lowest.

    Returns
    -------
    ndarray of shape (n_chosen,), int
    """
    n_items = len(scores)
    ranked = np.argsort(-scores, kind="stable")
    wanted = np.asarray(choice)
    if wanted.dtype.kind not in "iu" or wanted.ndim > 1 or wanted.size == 0:
        raise ValueError(f"{name} must be a number or a list of them, got {choice!r}.")
    if wanted.ndim == 0:
        if wanted < 1:
            raise ValueError(f"{name} must be at least 1, got {choice}.")
        places = np.linspace(0, n_items - 1, min(int(wanted), n_items))
        return ranked[np.rint(places).astype(int)]
    if wanted.min() < 0 or wanted.max() >= n_items:
        raise ValueError(
            f"{name} must be from 0 to {n_items - 1}, got {wanted.tolist()}."
        )
    return wanted[np.argsort(-scores[wanted], kind="stable")]
