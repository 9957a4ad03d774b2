"""Where atoms start from."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._data.standardiser import Standardiser
from .._sae.ensemble import Ensemble
from .._utils.random import INITIAL_ATOMS, random_numbers
from .settings import Settings

# Length of the noise that is added to atoms of an SAE that a group starts from: its
# cosine with them is then 0.89, above what counts as alike.
PRETRAINED_NOISE = 0.5


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
                f"{name}={wanted}, but the SAE to continue has {name}={found}. Set "
                "warm_start=False and call fit to start again."
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
