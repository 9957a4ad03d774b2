"""The threshold by which new samples are coded if a batch shares its active atoms."""

import numpy as np
import torch

from .._data.batches import Batches
from .._data.standardiser import Standardiser
from .._sae.encoder import MOST_OF_BATCH, encode, smallest_of_largest
from .._sae.ensemble import Ensemble
from .settings import Settings
from .variance import typical_rows

# Number of rows that determine the threshold.
N_ROWS = 16_384
# With so many rows, a call of `partial_fit` replaces the threshold; fewer move it by
# their share.
N_ROWS_OF_CALL = 256


def threshold_of(
    sae: Ensemble,
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
    before: float | None = None,
) -> float | None:
    """The score that k scores per training row exceed on average.

    It replaces the n_samples * k largest scores of a batch, so that the codes of a
    sample do not depend on other samples.  As there, a row has at most 2 k of them.

    Parameters
    ----------
    sae : Ensemble of one member
    batches : Batches
    standardiser : Standardiser
    settings : Settings
    before : float, optional
        Threshold of earlier calls, in units of the data.

    Returns
    -------
    float or None
        For standardised data. 0 if fewer scores are positive. None if samples do not
        share their active atoms.
    """
    if settings.activation == "topk":
        return None
    rows = typical_rows(batches, min(N_ROWS, batches.n_rows))
    X = standardiser(rows, settings.device, settings.dtype)
    width = min(MOST_OF_BATCH * settings.k, settings.n_components)
    scores = torch.cat(
        [encode(sae.centred(block), sae, width).values for block in X.split(4096)]
    )
    scores, n_active = scores.view(1, -1), len(X) * settings.k
    # Half way to the first one that is left out, because scores of new data are rounded
    # differently.
    nearest = [smallest_of_largest(scores, n_active + i) for i in (0, 1)]
    threshold = float(sum(nearest)) / 2
    if before is None:
        return threshold
    before /= standardiser.scale
    return before + min(1.0, batches.n_rows / N_ROWS_OF_CALL) * (threshold - before)


def in_units_of(
    standardiser: Standardiser,
    threshold: float | None,
    settings: Settings,
    dtype: np.dtype,
) -> np.ndarray | None:
    """The threshold of each atom in units of the data, (n_components,)."""
    if threshold is None:
        return None
    return np.full(settings.n_components, threshold * standardiser.scale, dtype)
