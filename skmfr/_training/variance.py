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


def variance_along(
    atoms: Tensor,
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
    n_rows: int,
) -> np.ndarray:
    """Share of the variance along each atom, of the first rows.

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
    n_rows = min(n_rows, batches.n_rows)
    numbers = range(ceil(n_rows / batches.batch_size))
    rows = np.concatenate([batches[number] for number in numbers])[:n_rows]
    X = standardiser(rows, settings.device, settings.dtype)
    total = float(X.square().sum())
    if total == 0:
        return np.full(atoms.shape[:2], 1 / X.shape[1])
    along = [(X @ each.T).square().sum(0) / total for each in atoms]
    return np.stack([each.double().cpu().numpy() for each in along])
