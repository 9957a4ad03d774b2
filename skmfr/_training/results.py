"""What a fit leaves: fitted attributes in units of the data, and what to go on from."""

from typing import NamedTuple

import numpy as np

from .._data.standardiser import Standardiser
from .._sae.cosines import mean_nearest_cosine
from .._sae.levels import TRUSTED, agreement_level, random_agreement
from .diagnostics import check_convergence, failure_signs, share_of_duplicates
from .revive import MAX_REINITS
from .settings import Settings
from .state import TrainingState, to_arrays

# Losses of this many last steps tell how good an SAE is.
RECENT_STEPS = 100
# What a further fit needs beside the state of training, see `.state.FIELDS`.
FIELDS_BESIDE = {
    "mean": "float d",
    "scale": "float",
    "deviation": "float d",
    "seed": "int",
}


class Earlier(NamedTuple):
    """A fitted model, as far as a fit goes on from it."""

    dictionaries: np.ndarray
    """(n_saes, n_components, n_features)"""
    witnesses: np.ndarray
    """(n_witnesses, n_components, n_features)"""
    arrays: dict[str, np.ndarray]
    """from :func:`training_arrays`"""

    @property
    def seed(self) -> int:
        return int(self.arrays["seed"])

    @property
    def standardiser(self) -> Standardiser:
        return Standardiser(
            self.arrays["mean"], float(self.arrays["scale"]), self.arrays["deviation"]
        )

    @property
    def n_steps(self) -> int:
        return len(self.arrays["losses"])


def fitted_attributes(
    state: TrainingState,
    standardiser: Standardiser,
    settings: Settings,
    dtype: np.dtype,
) -> dict[str, object]:
    """Fitted attributes of the estimator: NumPy, in units and precision of the data.

    Raises
    ------
    ValueError
        If training has diverged.
    """
    check_convergence(state, settings)
    n_saes = settings.n_saes
    losses = state.losses[: state.n_steps, :n_saes].cpu().numpy().copy()
    reference = int(np.argmin(losses[-RECENT_STEPS:].mean(0)))

    decoder = state.ensemble.decoder.cpu().numpy().astype(dtype)
    decoder /= np.linalg.norm(decoder, axis=2, keepdims=True)
    dictionaries, witnesses = decoder[:n_saes], decoder[n_saes:]
    encoder, encoder_bias, decoder_bias = (
        tensor[reference].cpu().numpy().astype(dtype)
        for tensor in (
            state.ensemble.encoder,
            state.ensemble.encoder_bias,
            state.ensemble.decoder_bias,
        )
    )
    mutual = np.stack(
        [
            mean_nearest_cosine(atoms, np.delete(dictionaries, i, axis=0))
            for i, atoms in enumerate(dictionaries)
        ]
    )
    agreement = mutual[reference]
    if len(witnesses):
        agreement = mean_nearest_cosine(dictionaries[reference], witnesses)
    null = random_agreement(decoder.shape[2], settings.n_components)
    scale = dtype.type(standardiser.scale)
    return {
        "components_": dictionaries[reference],
        "dictionaries_": dictionaries,
        "witness_dictionaries_": witnesses,
        "reference_sae_": reference,
        "encoder_weights_": dictionaries[reference] if settings.tied else encoder,
        # ReLU and TopK commute with the scale, so that it goes to the biases.
        "encoder_bias_": encoder_bias * scale,
        "decoder_bias_": standardiser.mean + decoder_bias * scale,
        "feature_agreement_": agreement,
        "mutual_agreement_": mutual,
        "agreement_null_": null,
        "trusted_": agreement > agreement_level(null, TRUSTED),
        "n_steps_": state.n_steps,
        "loss_curve_": losses.mean(1),
        "n_reinits_": state.n_reinits[:n_saes].copy(),
    }


def training_arrays(
    state: TrainingState, standardiser: Standardiser, seed: int, moments: bool
) -> dict[str, np.ndarray]:
    """What another call goes on from, beside the dictionaries, which are public.

    Adam's moments are kept only if a further call is likely.
    """
    arrays = {
        name: array
        for name, array in to_arrays(state).items()
        if name != "decoder" and (moments or not name.startswith("adam"))
    }
    return arrays | {
        "mean": standardiser.mean,
        "scale": np.array(standardiser.scale),
        "deviation": standardiser.deviation,
        "seed": np.array(seed),
    }


def without_copies(attributes: dict) -> dict:
    """Attributes of an estimator, but for arrays that others of them hold as well."""
    derived = _derived(attributes)
    return {
        name: value
        for name, value in attributes.items()
        if name not in derived or not _same(value, derived[name])
    }


def with_copies(attributes: dict) -> dict:
    """Inverse of :func:`without_copies`."""
    return _derived(attributes) | attributes


def _derived(attributes: dict) -> dict[str, np.ndarray]:
    """What weights of the reference SAE are, unless somebody has assigned others."""
    if "dictionaries_" not in attributes:
        return {}
    reference = attributes["reference_sae_"]
    atoms = encoder = attributes["dictionaries_"][reference]
    if "encoder" in attributes["_training"]:
        encoder = attributes["_training"]["encoder"][reference]
        encoder = encoder.astype(atoms.dtype, copy=False)
    return {"components_": atoms, "encoder_weights_": encoder}


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def signs_of_failure(
    state: TrainingState, settings: Settings, attributes: dict
) -> list[str]:
    """What a user should know about a fit with these fitted attributes."""
    recent = state.losses[max(0, state.n_steps - RECENT_STEPS) : state.n_steps]
    group, witnesses = np.split(recent.cpu().numpy().mean(0), [settings.n_saes])
    # An interrupted fit may not have come so far.
    penalised = settings.n_saes > 1 and state.step > state.schedule.annealing
    return failure_signs(
        alpha=settings.alpha if penalised else 0.0,
        group_fvu=group.mean(),
        witness_fvu=witnesses.mean() if len(witnesses) else np.nan,
        mutual_agreement=attributes["mutual_agreement_"].mean(),
        duplicate_share=share_of_duplicates(attributes["components_"]),
        null_agreement=attributes["agreement_null_"],
        n_reinits=int(state.n_reinits.max()),
        max_reinits=MAX_REINITS,
    )
