"""The result of a fit: attributes in units of the data, and the state to continue."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .._data.moments import Moments
from .._data.standardiser import Standardiser
from .._sae.cosines import nearest_of_pairs
from .._sae.levels import random_agreement
from .._sae.reappearance import (
    FDR,
    TAU,
    reappearance_in_fit,
    trusted,
    warn_of_too_few,
)
from .attributes import along_of, decoder_of, rows_of_witnesses
from .diagnostics import check_convergence, failure_signs, share_of_duplicates
from .revive import MAX_REINITS
from .schedule import Schedule
from .settings import Settings
from .state import TrainingState, to_arrays

# Number of last steps whose losses decide which SAE is best.
RECENT_STEPS = 100
# Fields that a further fit needs in addition to `.state.FIELDS`.
FIELDS_BESIDE = {
    "n_rows": "float",
    "mean": "float d",
    "variance": "float d",
    "seed": "int",
    "disjoint": "bool",
    "along": "float s m",
}


class Earlier(NamedTuple):
    """The parts of a fitted model that another fit continues."""

    arrays: dict[str, np.ndarray]
    """from :func:`training_arrays`, including "decoder" """
    n_saes: int
    """number of SAEs in the group; the other members are witnesses"""
    median_norm: float
    """median norm of the rows so far"""
    n_outliers: int
    """number of outliers so far"""
    history: list[dict]
    """what the callback returned, to go before the records of a call from its first
    step on"""
    threshold: float | None
    """of scores, in units of the data, if samples shared their active atoms"""
    k: int
    """k of that threshold"""

    @property
    def seed(self) -> int:
        return int(self.arrays["seed"])

    @property
    def witness_rows(self) -> str:
        """As the parameter has it."""
        return rows_of_witnesses(self.arrays)

    @property
    def moments(self) -> Moments:
        """Moments of the rows so far that are not outliers."""
        arrays = self.arrays
        return Moments(float(arrays["n_rows"]), arrays["mean"], arrays["variance"])

    @property
    def moments_beside_outliers(self) -> Moments | None:
        """Those moments, if there have been outliers."""
        return self.moments if self.n_outliers else None

    @property
    def n_steps(self) -> int:
        return len(self.arrays["losses"])

    def worth_keeping(self, moments: Moments) -> "Earlier | None":
        """The part of the model to keep beside rows that say more; None if none.

        Rows that were all identical contain no information, about centre and scale or
        about SAEs that began with them.  Nor do single steps of `partial_fit` on fewer
        rows than the atoms and than the new rows, because atoms that start from them
        are alike.  The knowledge of an SAE of others is kept.
        """
        n_rows, n_components = self.moments.n_rows, self.arrays["decoder"].shape[1]
        few = n_rows < min(moments.n_rows, n_components) and self.n_steps <= n_rows
        alike = moments.variance.any() and not self.moments.variance.any()
        # k is annealed in a first fit only.
        began_here = self.is_of_first_calls or self.schedule.annealing > 0
        if (few and self.is_of_first_calls) or (alike and began_here):
            return None
        if not alike:
            return self
        # Mean and variance are still those in which the biases are expressed.
        arrays = self.arrays | {"n_rows": np.array(0.0)}
        return self._replace(
            arrays=arrays, median_norm=np.nan, n_outliers=0, threshold=None
        )

    def threshold_for(self, k: int) -> float | None:
        """The threshold, if it is one for so many active atoms."""
        n_components = self.arrays["decoder"].shape[1]
        return self.threshold if min(k, n_components) == self.k else None

    @property
    def schedule(self) -> Schedule:
        """That of the last call."""
        return Schedule(*self.arrays["schedule"].tolist())

    @property
    def is_of_first_calls(self) -> bool:
        """Whether the last call was of `partial_fit`, on no model that was finished."""
        return self.schedule == Schedule.constant(self.schedule.n_steps)

    @property
    def settled(self) -> bool:
        """Whether the model has reached the final decay of a fit."""
        return self.schedule.falls_at(int(self.arrays["step"]))

    def median_norm_with(self, median_norm: float, n_rows: int) -> float:
        """Mean of the medians of the rows so far and `n_rows` more, weighted.

        Outliers are among the rows.
        """
        if np.isnan(self.median_norm):
            return median_norm
        if np.isinf(self.moments.n_rows):
            return self.median_norm
        share = n_rows / (n_rows + self.moments.n_rows + self.n_outliers)
        return self.median_norm + share * (median_norm - self.median_norm)

    @classmethod
    def of(cls, estimator) -> "Earlier":
        arrays = estimator._training | {"decoder": decoder_of(vars(estimator))}
        return cls(
            arrays,
            estimator.n_reinits_.size,
            estimator.median_norm_,
            estimator.n_outliers_,
            estimator.history_,
            None if estimator.threshold_ is None else float(estimator.threshold_[0]),
            estimator.k_,
        )


def fitted_attributes(
    state: TrainingState,
    standardiser: Standardiser,
    settings: Settings,
    dtype: np.dtype,
) -> dict[str, object]:
    """Fitted attributes of the estimator: NumPy, in units and precision of the data.

    The costly ones are not included, see :func:`costly_attributes`.

    Raises
    ------
    ValueError
        If training has diverged.
    """
    check_convergence(state, settings)
    n_saes = settings.n_saes
    losses = state.losses[: state.n_steps, :n_saes].cpu().numpy()
    reference = int(np.argmin(losses[-RECENT_STEPS:].mean(0)))
    encoder_bias, decoder_bias = (
        tensor[reference].cpu().numpy().astype(dtype)
        for tensor in (state.ensemble.encoder_bias, state.ensemble.decoder_bias)
    )
    scale = dtype.type(standardiser.scale)
    return {
        "reference_sae_": reference,
        "witness_rows_": settings.witness_rows,
        # ReLU and TopK commute with the scale, so the biases take it.
        "encoder_bias_": encoder_bias * scale,
        "decoder_bias_": standardiser.mean + decoder_bias * scale,
        "agreement_null_": random_agreement(
            state.ensemble.decoder.shape[2], settings.n_components
        ),
        "n_steps_": state.n_steps,
        "loss_curve_": losses.mean(1),
        "n_reinits_": state.n_reinits[:n_saes].copy(),
    }


def costly_attributes(attributes: dict) -> dict[str, np.ndarray]:
    """Weights and agreement, computed from other fitted attributes and "_training"."""
    weights = weights_of(attributes)
    return weights | agreement_of(attributes | weights)


def weights_of(attributes: dict) -> dict[str, np.ndarray]:
    """Weights of an estimator in units of the data, from its "_training"."""
    training, n_saes = attributes["_training"], attributes["n_reinits_"].size
    dtype = attributes["decoder_bias_"].dtype
    decoder = training["decoder"].astype(dtype)
    decoder /= np.linalg.norm(decoder, axis=2, keepdims=True)
    dictionaries = {
        "dictionaries_": decoder[:n_saes],
        "witness_dictionaries_": decoder[n_saes:],
    }
    return _derived(attributes | dictionaries) | dictionaries


def agreement_of(attributes: dict) -> dict[str, np.ndarray]:
    """Agreement of the atoms of an estimator that has weights."""
    group = attributes["dictionaries_"]
    witnesses = attributes["witness_dictionaries_"]
    reference = attributes["reference_sae_"]
    nearest = nearest_of_pairs([*group, *witnesses])
    numbers = range(len(group))

    def mean(i: int, others: Iterable[int]) -> np.ndarray:
        cosines = [nearest[i, j] for j in others if j != i]
        unknown = [np.full(len(group[i]), np.nan, dtype=group.dtype)]
        return np.mean(cosines or unknown, axis=0)

    mutual = np.stack([mean(i, numbers) for i in numbers])
    agreement = mutual[reference]
    if len(witnesses):
        agreement = mean(reference, range(len(group), len(group) + len(witnesses)))
    disjoint = rows_of_witnesses(attributes["_training"]) == "disjoint"
    probability, deviation = reappearance_in_fit(
        reference, group, witnesses, TAU, disjoint, nearest
    )
    found = {"feature_agreement_": agreement, "mutual_agreement_": mutual}
    # Without a value, reading the attribute warns and says why.
    if not np.isnan(probability).any():
        found["reappearance_"] = probability.astype(agreement.dtype)
    n_features = group.shape[2]
    along = along_of(attributes["_training"], reference, group[reference])
    return found | {
        "trusted_": trusted(probability, deviation, agreement, along, n_features, FDR)
    }


def reappearance_of(attributes: dict) -> np.ndarray:
    """How likely atoms return, of an estimator that has weights.

    Warns
    -----
    UserWarning
        If there are too few SAEs to tell.
    """
    group = attributes["dictionaries_"]
    witnesses = attributes["witness_dictionaries_"]
    reference = attributes["reference_sae_"]
    warn_of_too_few(len(group), len(witnesses), stacklevel=4)
    disjoint = rows_of_witnesses(attributes["_training"]) == "disjoint"
    found = reappearance_in_fit(reference, group, witnesses, TAU, disjoint)
    return found[0].astype(group.dtype)


def training_arrays(
    state: TrainingState,
    moments: Moments,
    settings: Settings,
    along: np.ndarray,
    keep_adam: bool,
) -> dict[str, np.ndarray]:
    """The arrays from which another call continues.

    Adam's moments are kept only if a further call is likely.
    """
    arrays = {
        name: array
        for name, array in to_arrays(state).items()
        if keep_adam or not name.startswith("adam")
    }
    return arrays | {
        "n_rows": np.array(float(moments.n_rows)),
        "mean": moments.mean,
        "variance": moments.variance,
        "seed": np.array(settings.seed),
        "disjoint": np.array(settings.witness_rows == "disjoint"),
        "along": along,
    }


def without_copies(attributes: dict) -> dict:
    """Attributes of an estimator, without arrays that other attributes also hold."""
    derived = _derived(attributes)
    if derived and "decoder" in attributes["_training"]:
        made = weights_of(attributes)
        # The reference is restored from the dictionaries, if the user assigned them.
        if _same(attributes["dictionaries_"], made["dictionaries_"]):
            derived = made
        else:
            derived = made | derived
    return {
        name: value
        for name, value in attributes.items()
        if name not in derived or not _same(value, derived[name])
    }


def with_copies(attributes: dict) -> dict:
    """Inverse of :func:`without_copies`, except for attributes computed when read."""
    return _derived(attributes) | attributes


def _derived(attributes: dict) -> dict[str, np.ndarray]:
    """Weights of the reference SAE, unless the user has assigned others."""
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
    state: TrainingState,
    settings: Settings,
    attributes: dict,
    earlier: Earlier | None,
) -> list[str]:
    """Signs of failure of a fit with these fitted attributes."""
    # The maximum is one over all calls. Only the call that reaches it tells so.
    before = 0 if earlier is None else earlier.arrays["n_reinits"]
    reinitialised = state.n_reinits > before
    recent = state.losses[max(0, state.n_steps - RECENT_STEPS) : state.n_steps]
    group, witnesses = np.split(recent.cpu().numpy().mean(0), [settings.n_saes])
    # An interrupted fit may not have reached the penalty.
    penalised = settings.n_saes > 1 and state.step > state.schedule.coupled_from
    # On half of the rows, witnesses overfit more than the group does.
    comparable = len(witnesses) and settings.witness_rows == "same"
    return failure_signs(
        alpha=settings.alpha if penalised else 0.0,
        group_fvu=group.mean(),
        witness_fvu=witnesses.mean() if comparable else np.nan,
        mutual_agreement=attributes["mutual_agreement_"].mean(),
        duplicate_share=share_of_duplicates(attributes["components_"]),
        null_agreement=attributes["agreement_null_"],
        n_reinits=int((state.n_reinits * reinitialised).max()),
        max_reinits=MAX_REINITS,
    )
