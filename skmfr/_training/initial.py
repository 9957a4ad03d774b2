"""Where atoms start from."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._data.standardiser import Standardiser
from .._sae.ensemble import Ensemble
from .._utils.random import INITIAL_ATOMS, random_numbers
from .settings import Settings


def initial_atoms(
    standardiser: Standardiser, settings: Settings, i: int, attempt: int = 0
) -> Tensor:
    """Atoms that one member starts from: random directions.

    Nothing of the data is in them but the standard deviation of each feature, so that
    what two members agree on in the end, they have learned.

    Returns
    -------
    Tensor of shape (n_components, n_features)
        Rows of unit norm.
    """
    key = settings.member_key(i)
    draw = random_numbers(settings.seed, INITIAL_ATOMS, *key, attempt)
    deviation = standardiser.deviation
    shape = settings.n_components, len(deviation)
    directions = draw.standard_normal(shape) * (deviation if deviation.any() else 1.0)
    return normalize(torch.from_numpy(directions)).to(settings.device, settings.dtype)


def untrained(standardiser: Standardiser, settings: Settings) -> Ensemble:
    """SAEs as they are before the first step."""
    atoms = [
        initial_atoms(standardiser, settings, i) for i in range(settings.n_members)
    ]
    return Ensemble.starting_from(torch.stack(atoms), settings.tied)
