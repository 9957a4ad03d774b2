"""The threshold by which new samples are coded if a batch shares its active atoms."""

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
N_ROWS_OF_CALL = 1024


def threshold_of(
    sae: Ensemble, batches: Batches, standardiser: Standardiser, settings: Settings
) -> float:
    """The score that k scores per training row exceed on average.

    It replaces the n_samples * k largest scores of a batch, so that the codes of a
    sample do not depend on other samples.  As there, a row has at most 2 k of them.

    Parameters
    ----------
    sae : Ensemble of one member
    batches : Batches
    standardiser : Standardiser
    settings : Settings

    Returns
    -------
    float
        In units of the standardised data. 0 if fewer scores are positive.
    """
    rows = typical_rows(batches, min(N_ROWS, batches.n_rows))
    X = standardiser(rows, settings.device, settings.dtype)
    width = min(MOST_OF_BATCH * settings.k, settings.n_components)
    scores = torch.cat(
        [encode(sae.centred(block), sae, width).values for block in X.split(4096)]
    )
    # The first one that is left out.
    n_active = len(X) * settings.k + 1
    return float(smallest_of_largest(scores.view(1, -1), n_active))
