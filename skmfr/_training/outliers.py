"""Warn about rows that outweigh all others, and compute the FVU of both kinds."""

import warnings
from dataclasses import replace

import numpy as np
import torch

from .._data.batches import Batches, row_blocks
from .._data.moments import fvu_of_blocks
from .._data.standardiser import FARTHEST, Standardiser
from .._data.statistics import Outliers
from .._sae.coder import Coder
from .._sae.encoder import MOST_OF_BATCH
from .._sae.ensemble import Ensemble
from .settings import Settings

# Most rows of each kind that are coded to compute their FVU.
N_CODED = 4096


class OutlyingRows(UserWarning):
    """A few rows hold most of the variance of the training data."""


def warn_of(outliers: Outliers, n_rows: int) -> None:
    """Warn about rows that would dominate the model, with a remedy."""
    n, first = len(outliers.rows), ", ".join(map(str, outliers.rows[:5]))
    warnings.warn(
        f"{n} of {n_rows} rows of X ({100 * n / n_rows:.2g}% of them; rows {first}"
        f"{', ...' if n > 5 else ''}) hold {outliers.share:.1%} of its variance. "
        f"Training scales them down to {FARTHEST:g} times the distance of the other "
        "rows, so that the model fits these too, but score counts them in full; "
        "inlier_fvu_ leaves them out. Remove such rows if you can, as "
        "ActivationExtractor(skip_first=1) or max_norm_ratio=10 does with the first "
        "tokens of language models.",
        OutlyingRows,
        stacklevel=8,
    )


def fvu_of_kinds(
    sae: Ensemble,
    batches: Batches,
    standardiser: Standardiser,
    outliers: np.ndarray | None,
    settings: Settings,
    threshold: float | None = None,
) -> dict[str, float | None]:
    """FVU of the training rows that are not outliers, and of the outliers.

    Each is relative to the variance of its own rows, at most `N_CODED` random ones.

    Parameters
    ----------
    sae : Ensemble of one member
    batches : Batches
    standardiser : Standardiser
    outliers : ndarray of shape (n_outliers,), int, or None
        Sorted. None if there are no outliers; then both FVUs are None.
    settings : Settings
    threshold : float, optional
        That scores of the encoder must exceed, of standardised data.
    """
    found: dict[str, float | None] = {"inlier_fvu_": None, "outlier_fvu_": None}
    if outliers is None:
        return found
    X, rows = batches.X, batches.rows
    draw = np.random.default_rng(0)
    rows = np.arange(len(X)) if rows is None else rows
    inliers = np.setdiff1d(rows, outliers, assume_unique=True)
    as_they_are = replace(standardiser, largest=np.inf)
    algorithm = "omp" if settings.for_pursuit else "encoder"
    k, thresholds = settings.k, None
    if threshold is not None and algorithm == "encoder":
        k *= MOST_OF_BATCH
        thresholds = torch.full_like(sae.encoder_bias[0], threshold)
    coder = Coder(sae, k, algorithm, settings.positive_code, thresholds)

    def reconstructed(chosen: np.ndarray):
        for block in row_blocks(X, chosen):
            # FVU does not depend on the unit.
            given = as_they_are(block, settings.device, settings.dtype)
            yield given.cpu().numpy(), coder.reconstruct(given).cpu().numpy()

    for name, kind in zip(found, (inliers, outliers), strict=True):
        if len(kind):
            # At random: rows at equal distances could all have one place in a text.
            n_chosen = min(len(kind), N_CODED)
            chosen = draw.choice(kind, n_chosen, replace=False, shuffle=False)
            found[name] = fvu_of_blocks(reconstructed(np.sort(chosen)))
    return found
