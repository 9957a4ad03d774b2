"""SAEs before the first step: initial atoms, and biases of an earlier fit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._data.standardiser import Standardiser
from .._sae.encoder import encode, squares_left
from .._sae.ensemble import Ensemble
from .._utils.random import INITIAL_ATOMS, random_numbers
from .settings import Settings

# Norm of the noise that is added to atoms of an SAE from which a group starts. Their
# cosine with them is then 0.89, above the level that counts as alike.
PRETRAINED_NOISE = 0.5


def initial_atoms(
    standardiser: Standardiser, settings: Settings, i: int, attempt: int = 0
) -> Tensor:
    """Initial atoms of one member: random directions, scaled as the features are.

    They contain nothing of the data except the standard deviation of each feature.  If
    a few features have most of the variance, members agree from the start, which
    :func:`along_of` takes into account.

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
    """SAEs before the first step."""
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
        If it has another size, or its tying differs from the settings.
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

    The first member is that SAE. The other members have noise added to each atom, and
    the same noise, of the same relative norm, to the encoder. Witnesses are unchanged.
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


def biases_of(ensemble: Ensemble) -> tuple[Tensor, Tensor]:
    """The parameters that have the unit of the data."""
    return ensemble.encoder_bias, ensemble.decoder_bias


def change_units(ensemble: Ensemble, old: Standardiser, new: Standardiser) -> None:
    """Convert biases to new units, in place, so that codes mean the same as before.

    Adam's moments, which forget within a hundred steps, are kept.
    """
    factor = old.scale / new.scale
    shift = (old.mean.astype(float) - new.mean) / new.scale
    for bias in biases_of(ensemble):
        bias *= factor
    ensemble.decoder_bias += torch.from_numpy(shift).to(ensemble.decoder_bias)


def begin_with_better_(
    ensemble: Ensemble, others: Sequence[Tensor], X: Tensor, k: int
) -> None:
    """Take other biases, in place, if these SAEs then leave less of the samples.

    A fit to rows with another offset or in another unit so begins as if they were those
    of the last fit, standardised.

    Parameters
    ----------
    ensemble : Ensemble
    others : sequence of Tensor
        In the order of :func:`biases_of`.
    X : Tensor of shape (n_samples, n_features)
    k : int
    """
    other = replace(ensemble, encoder_bias=others[0], decoder_bias=others[1])
    if squares_left(other, X, encode, k) < squares_left(ensemble, X, encode, k):
        for bias, given in zip(biases_of(ensemble), others, strict=True):
            bias.copy_(given)
