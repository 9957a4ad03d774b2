"""Parts of fitted estimators that displays need."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import check_is_fitted

from .._base import BaseSparseAutoencoder
from .._utils.pipelines import split_pipeline
from ..io._agreement import evidence_of


def split_fitted(estimator) -> tuple[Any, BaseSparseAutoencoder]:
    """The steps before a fitted SAE, or None, and the SAE.

    Raises
    ------
    TypeError
        If it is not an SAE of this package or a Pipeline that ends with one.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    before, sae = split_pipeline(estimator)
    if not isinstance(sae, BaseSparseAutoencoder):
        raise TypeError(
            "estimator must be an MFRSparseAutoencoder or PretrainedSAE, or a Pipeline "
            f"that ends with one, got {type(sae).__name__}."
        )
    check_is_fitted(sae)
    return before, sae


def agreement_with(sae: BaseSparseAutoencoder) -> str:
    """Description of the dictionaries that `feature_agreement_` refers to."""
    n_witnesses, under_penalty = evidence_of(sae)
    if n_witnesses is None:
        return "other dictionaries"
    if n_witnesses:
        return f"{n_witnesses} witness" + "es" * (n_witnesses > 1)
    return "other SAEs" + " (under the penalty)" * under_penalty
