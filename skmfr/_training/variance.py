"""How the data vary along atoms, which is what chance gives them to agree on."""

from math import ceil

import numpy as np
from torch import Tensor

from .._data.batches import Batches
from .._data.standardiser import Standardiser
from .settings import Settings

# Rows that are enough to tell.
N_ROWS = 1024


def variance_along(
    atoms: Tensor, batches: Batches, standardiser: Standardiser, settings: Settings
) -> np.ndarray:
    """Share of the variance along each atom, from the first rows of each batch.

    Parameters
    ----------
    atoms : Tensor of shape (n_saes, n_components, n_features)
    batches : Batches
    standardiser : Standardiser
    settings : Settings

    Returns
    -------
    ndarray of shape (n_saes, n_components)
        That of a direction on the sphere, 1 / n_features, if nothing varies.
    """
    n_batches = ceil(min(N_ROWS, batches.n_rows) / batches.batch_size)
    rows = np.concatenate([batches[number] for number in range(n_batches)])
    X = standardiser(rows, settings.device, settings.dtype)
    total = float(X.square().sum())
    if total == 0:
        return np.full(atoms.shape[:2], 1 / X.shape[1])
    along = [(X @ each.T).square().sum(0) / total for each in atoms]
    return np.stack([each.double().cpu().numpy() for each in along])
