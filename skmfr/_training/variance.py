"""How the data vary along atoms, which is what chance gives them to agree on."""

from math import ceil

import numpy as np
from torch import Tensor

from .._data.batches import Batches
from .._data.standardiser import Standardiser
from .settings import Settings

# Number of rows that the variance is measured on: in a fit, and in each of many calls
# of partial_fit, whose mean is used.
N_ROWS, N_ROWS_OF_MANY = 1024, 256
# Number of rows side by side that are read from data in order, to spare chunked files.
RUN = 64


def variance_along(
    atoms: Tensor,
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
    n_rows: int,
) -> np.ndarray:
    """Share of the variance along each atom, of rows that stand for all.

    Parameters
    ----------
    atoms : Tensor of shape (n_saes, n_components, n_features)
    batches : Batches
    standardiser : Standardiser
    settings : Settings
    n_rows : int
        At most, if there are so many.

    Returns
    -------
    ndarray of shape (n_saes, n_components)
        That of a direction on the sphere, 1 / n_features, if nothing varies.
    """
    rows = typical_rows(batches, min(n_rows, batches.n_rows))
    X = standardiser(rows, settings.device, settings.dtype)
    total = float(X.square().sum())
    if total == 0:
        return np.full(atoms.shape[:2], 1 / X.shape[1])
    along = [(X @ each.T).square().sum(0) / total for each in atoms]
    return np.stack([each.double().cpu().numpy() for each in along])


def typical_rows(batches: Batches, n_rows: int) -> np.ndarray:
    """A copy of about so many rows, (n_rows, n_features), like all of them.

    They are all rows if there are no more.  Otherwise they are those of the first
    batches, or, if batches are in the order of the data, runs of rows at equal
    distances.
    """
    if n_rows >= batches.n_rows:
        return batches.X[
            np.arange(batches.n_rows) if batches.rows is None else batches.rows
        ]
    if batches.shuffle:
        numbers = range(ceil(n_rows / batches.batch_size))
        return np.concatenate([batches[number] for number in numbers])[:n_rows]
    starts = np.linspace(0, max(0, batches.n_rows - RUN), ceil(n_rows / RUN))
    chosen = np.unique(starts.astype(int)[:, None] + np.arange(RUN))
    chosen = chosen[chosen < batches.n_rows]
    return batches.X[chosen if batches.rows is None else batches.rows[chosen]]
