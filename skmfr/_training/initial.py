"""Where atoms start from."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._data.batches import Batches
from .._data.standardiser import Standardiser
from .._sae.ensemble import Ensemble
from .._utils.random import INITIAL_ATOMS, random_numbers
from .settings import Settings

# Length of the noise that is added to the samples that atoms start from.
INITIAL_NOISE = 0.1


def initial_atoms(
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
    i: int,
    attempt: int = 0,
) -> Tensor:
    """Atoms that one member starts from: samples of its own, and a little noise.

    Unlike random directions, samples lie where the data are: what an atom has outside
    their span is never trained away.

    Returns
    -------
    Tensor of shape (n_components, n_features)
        Rows of unit norm.
    """
    draw = random_numbers(
        settings.seed, INITIAL_ATOMS, *settings.member_key(i), attempt
    )
    n_components, n_features = settings.n_components, batches.X.shape[1]
    donors = batches.donors(n_components, i >= settings.n_saes, draw)
    samples = normalize(standardiser(donors, "cpu", torch.float64)).numpy()
    n_more = n_components - len(samples)
    if len(samples) and n_more:
        # Too few samples: random combinations of two.
        one, other = draw.integers(len(samples), size=(2, n_more))
        weights = draw.standard_normal((2, n_more, 1))
        more = weights[0] * samples[one] + weights[1] * samples[other]
        samples = np.concatenate([samples, more])
    spread = standardiser.deviation if standardiser.deviation.any() else 1.0
    noise = draw.standard_normal((n_components, n_features)) * spread
    atoms = normalize(torch.from_numpy(noise)) * INITIAL_NOISE
    if len(samples):
        atoms += normalize(torch.from_numpy(samples))
    return normalize(atoms).to(settings.device, settings.dtype)


def untrained(
    batches: Batches, standardiser: Standardiser, settings: Settings
) -> Ensemble:
    """SAEs as they are before the first step."""
    atoms = [
        initial_atoms(batches, standardiser, settings, i)
        for i in range(settings.n_members)
    ]
    return Ensemble.starting_from(torch.stack(atoms), settings.tied)
