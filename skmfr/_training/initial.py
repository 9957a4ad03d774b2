"""Where atoms start from."""

from collections.abc import Sequence

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
# Length of that which is added to atoms of an SAE that a group starts from: its cosine
# with them is then 0.89, above what counts as alike.
PRETRAINED_NOISE = 0.5


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


def pretrained(
    weights: Sequence[np.ndarray], settings: Settings, n_features: int
) -> Ensemble:
    """One SAE to start from, in the units of its weights.

    Raises
    ------
    ValueError
        If it is of another size, or not tied as the settings are.
    """
    given = Ensemble(
        *(
            torch.tensor(array[None], dtype=settings.dtype, device=settings.device)
            for array in weights
        )
    )
    tied = torch.equal(given.encoder, given.decoder)
    _, n_components, n_found = given.decoder.shape
    for name, wanted, found in [
        ("n_components", settings.n_components, n_components),
        ("n_features_in_", n_features, n_found),
        ("tied", settings.tied, settings.tied and tied),
    ]:
        if wanted != found:
            raise ValueError(
                f"{name}={wanted}, but the SAE to go on from has {name}={found}. Set "
                "warm_start=False and call fit to start anew."
            )
    return given


def start_group_from(given: Ensemble, ensemble: Ensemble, settings: Settings) -> None:
    """Make the group of an ensemble start from one SAE, in place, in its units.

    The first is that SAE; the others have noise added to each of its atoms, and the
    same, of the same length relative to it, to the encoder. Witnesses stay as they are.
    """
    members = range(settings.n_saes)
    for i in members:
        draw = random_numbers(settings.seed, INITIAL_ATOMS, *settings.member_key(i))
        noise = torch.from_numpy(draw.standard_normal(given.decoder[0].shape))
        noise = normalize(noise).to(given.decoder) * (PRETRAINED_NOISE if i else 0.0)
        ensemble.decoder[i] = normalize(given.decoder[0] + noise)
        if not ensemble.tied:
            norms = given.encoder[0].norm(dim=1, keepdim=True)
            ensemble.encoder[i] = given.encoder[0] + norms * noise
        ensemble.encoder_bias[i] = given.encoder_bias[0]
        ensemble.decoder_bias[i] = given.decoder_bias[0]
