"""A fit, from top to bottom.

Data are split, centred and cut into batches. SAEs are initialised, or continue an
earlier fit or a checkpoint. They are trained together, and the result becomes arrays.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from math import ceil, inf
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

from .._data.batches import Batches, fingerprint
from .._data.moments import Moments
from .._data.sources import Source, chunk_starts, n_mixed
from .._data.standardiser import Standardiser
from .._data.statistics import Statistics, statistics_of
from .._utils.random import VALIDATION, random_numbers
from .._utils.workers import present_workers
from .checkpoint import Checkpoints
from .initial import (
    begin_with_better_,
    biases_of,
    change_units,
    pretrained,
    start_group_from,
    untrained,
)
from .loop import train
from .outliers import fvu_of_kinds, warn_of
from .progress import EpochCallbacks, Watch
from .results import (
    Earlier,
    costly_attributes,
    fitted_attributes,
    signs_of_failure,
    training_arrays,
)
from .schedule import Plateau, Schedule, due
from .settings import RESOLVED, Settings, n_steps_of, settings_of
from .state import TrainingState, from_arrays, new_state, to_arrays
from .threshold import in_units_of, threshold_of
from .variance import N_ROWS, N_ROWS_OF_MANY, typical_rows, variance_along

# Default number of steps between checkpoints.
CHECKPOINT_EVERY = 500
# Parameters that do not affect training.
INDIFFERENT_TO_TRAINING = {
    "transform_algorithm",  # except for pursuit or not
    "positive_code",  # except in pursuit
    "sparse_output",
    "checkpoint_dir",
    "checkpoint_every",
    "callback",
    "verbose",
    "random_state",
}


class Fit(NamedTuple):
    """The result of a fit."""

    attributes: dict[str, Any]
    """fitted attributes of the estimator; "_training" holds plain arrays from which
    another call continues"""
    signs: list[str]
    """signs of failure"""
    interrupt: KeyboardInterrupt | None
    """the interrupt that ended training, to be raised after the attributes are set"""
    progress: str
    """description of the steps done and planned"""


class Data(NamedTuple):
    """Data in the form that training needs."""

    batches: Batches
    moments: Moments
    """moments of all rows so far that are not outliers"""
    standardiser: Standardiser
    median_norm: float
    """median norm of the rows so far"""
    n_outliers: int
    """number of outliers so far"""
    outliers: np.ndarray | None
    """(n_rows,), outliers of this call; None if there are none"""
    held_out: np.ndarray | None
    """(n_held_out,), rows that decide when to stop"""
    along: np.ndarray | None
    """(n_saes, n_components), share of the variance of earlier rows along each atom"""
    share: float
    """share of this call's rows in all rows so far"""
    threshold: float | None
    """of earlier calls, in units of the data"""

    @property
    def dtype(self) -> np.dtype:
        return self.batches.X.dtype


def fit(
    X: np.ndarray | Source,
    parameters: Mapping,
    *,
    seed: int,
    earlier: Earlier | None = None,
    weights: Sequence[np.ndarray] | None = None,
    one_pass: bool = False,
    begin_callbacks: Callable[..., EpochCallbacks] | None = None,
) -> Fit:
    """Train on checked data, for a whole schedule or for one pass.

    Parameters
    ----------
    X : ndarray or Source of shape (n_samples, n_features)
    parameters : mapping
        Checked parameters of the estimator.
    seed : int
    earlier : Earlier, optional
        The model to continue.
    weights : sequence of ndarray, optional
        Weights of one SAE to start from, in units of the data, in the order of an
        ensemble.
    one_pass : bool
        Whether to make one pass over the data, at a constant learning rate.
    begin_callbacks : callable(X, per_epoch, state, attributes_of), optional
        Returns the `EpochCallbacks` of a new fit.

    Raises
    ------
    ValueError
        If parameters do not match the data or the earlier fit, or training diverges.
    """
    n_rows = inf if one_pass else len(X)
    given = earlier.witness_rows if earlier else None
    settings = settings_of(parameters, X.shape[1], seed, n_rows, given)
    rows, held_out = None, None
    if parameters["early_stopping"] and not one_pass:
        rows, held_out = split(X, parameters["validation_fraction"], seed)
    # A pass adds rows to those of earlier calls, and a fit takes their place.
    known = earlier.moments_beside_outliers if earlier and one_pass else None
    statistics = statistics_of(X, rows, known)
    if earlier is not None:
        whole, earlier = earlier, earlier.worth_keeping(statistics.moments)
        if earlier is not whole and known is not None:
            statistics = statistics_of(X, rows)
    data = prepare(X, rows, held_out, statistics, parameters, seed, earlier, one_pass)
    state = start(data, settings, earlier, weights, one_pass)
    anew = earlier is None and weights is None
    settled = weights is not None or (earlier is not None and earlier.settled)
    state.begin(*plan(data, parameters, anew, settled, one_pass))
    state, checkpoints = resume(state, data, parameters, settings, one_pass)
    before = [] if earlier is None or state.step else earlier.history
    history, interrupt = run(
        state, data, parameters, settings, checkpoints, begin_callbacks
    )
    keep_adam = one_pass or parameters["warm_start"]
    try:
        attributes = results_of(state, data, settings, keep_adam, late=one_pass)
    except KeyboardInterrupt as impatient:
        # The steps are done, and the estimator receives them.
        interrupt = impatient
        attributes = results_of(state, data, settings, keep_adam, late=one_pass)
    attributes["history_"] = before + history if history else []
    return Fit(
        attributes,
        [] if one_pass else signs_of_failure(state, settings, attributes, earlier),
        interrupt,
        f"{state.step} of {state.schedule.n_steps} steps",
    )


def results_of(
    state: TrainingState, data: Data, settings: Settings, keep_adam: bool, late: bool
) -> dict[str, object]:
    """Fitted attributes, and the arrays from which another call continues.

    If attributes may be computed late, the costly ones are left out.
    """
    attributes = fitted_attributes(state, data.standardiser, settings, data.dtype)
    group = state.ensemble.decoder[: settings.n_saes]
    n_rows = N_ROWS_OF_MANY if late else N_ROWS
    along = variance_along(group, data.batches, data.standardiser, settings, n_rows)
    if data.along is not None:
        along = data.along + data.share * (along - data.along)
    training = training_arrays(state, data.moments, settings, along, keep_adam)
    reference: Any = attributes["reference_sae_"]
    sae = state.ensemble[reference : reference + 1]
    given = data.batches, data.standardiser
    threshold = threshold_of(sae, *given, settings, data.threshold)
    attributes |= {
        # A last batch that extends into another epoch does not count as its beginning.
        "n_iter_": int((state.step - 1) / data.batches.per_epoch) + 1,
        "median_norm_": data.median_norm,
        "_training": training,
        "n_outliers_": data.n_outliers,
        "k_": settings.k,
        "threshold_": in_units_of(data.standardiser, threshold, settings, data.dtype),
        **fvu_of_kinds(sae, *given, data.outliers, settings, threshold),
    }
    if not late:
        attributes |= costly_attributes(attributes)
        # The dictionaries are now public attributes.
        del training["decoder"]
    return attributes


def snapshot(state: TrainingState, data: Data, settings: Settings) -> dict[str, object]:
    """Fitted attributes that do not change in further steps."""
    attributes = results_of(state, data, settings, keep_adam=False, late=False)
    del attributes["_training"]
    return {name: deepcopy(value) for name, value in attributes.items()}


def prepare(
    X: np.ndarray | Source,
    rows: np.ndarray | None,
    held_out: np.ndarray | None,
    statistics: Statistics,
    parameters: Mapping,
    seed: int,
    earlier: Earlier | None,
    one_pass: bool,
) -> Data:
    """Compute centre and scale, and make batches.

    Warns
    -----
    UserWarning
        If the data have outliers, unless data of an earlier pass had some.
    """
    n_rows, moments, median_norm, outliers = statistics
    before = earlier if one_pass else None
    told = before is not None and before.n_outliers > 0
    if outliers is not None and not told:
        warn_of(outliers, n_rows)
    n_outliers, share = 0 if outliers is None else len(outliers.rows), 1.0
    if before is not None:
        median_norm = before.median_norm_with(median_norm, n_rows)
        n_new = moments.n_rows
        moments = before.moments.and_of(moments)
        share = n_new / moments.n_rows
        n_outliers += before.n_outliers
    batches = Batches(
        X,
        rows,
        parameters["batch_size"],
        parameters["shuffle"],
        seed,
        key=earlier.n_steps if earlier else 0,
        workers=present_workers.get(),
    )
    standardiser = Standardiser.from_moments(moments, X.dtype, n_outliers > 0)
    return Data(
        batches,
        moments,
        standardiser,
        median_norm,
        n_outliers,
        None if outliers is None else outliers.rows,
        held_out,
        None if before is None else before.arrays.get("along"),
        share,
        None if before is None else before.threshold_for(parameters["k"]),
    )


def split(
    X: np.ndarray | Source, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training, and rows to hold out for early stopping."""
    # With many chunks, hold out whole ones. A few rows of each would require reading
    # all.
    sizes, most = np.diff(chunk_starts(X)), int(fraction * len(X))
    if len(sizes) <= n_mixed(X) or sizes.max() > most:
        sizes = np.ones(len(X), dtype=int)
    order = random_numbers(seed, VALIDATION).permutation(len(sizes))
    n_rows = np.cumsum(sizes[order])
    n_held_out = max(1, int(np.searchsorted(n_rows, most, side="right")))
    if len(sizes) - n_held_out < 1:
        raise ValueError(
            f"early_stopping=True with validation_fraction={fraction} leaves no sample "
            f"for training: n_samples={len(X)}. Lower validation_fraction, or set "
            "early_stopping=False."
        )
    held_out = np.zeros(len(sizes), dtype=bool)
    held_out[order[:n_held_out]] = True
    held_out = np.repeat(held_out, sizes)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def start(
    data: Data,
    settings: Settings,
    earlier: Earlier | None,
    weights: Sequence[np.ndarray] | None = None,
    one_pass: bool = False,
) -> TrainingState:
    """SAEs before the first step of this fit."""
    if earlier is None:
        ensemble = untrained(data.standardiser, settings)
        if weights is not None:
            given = pretrained(weights, settings, data.batches.X.shape[1])
            change_units(given, Standardiser.none(data.batches.X), data.standardiser)
            start_group_from(given, ensemble, settings)
        return new_state(ensemble, settings)
    check_can_go_on(earlier, settings, data.batches.X.shape[1])
    state = from_arrays(earlier.arrays, settings, lent=True)
    before = Standardiser.from_moments(earlier.moments, data.dtype)
    standardised = [bias.clone() for bias in biases_of(state.ensemble)]
    change_units(state.ensemble, before, data.standardiser)
    # Few rows say nothing of another centre and scale, and equal rows have no scale.
    few = len(data.batches.X) < settings.n_components
    if not (one_pass or few or not data.moments.variance.any()):
        rows = typical_rows(data.batches, min(N_ROWS, data.batches.n_rows))
        X = data.standardiser(rows, settings.device, settings.dtype)
        begin_with_better_(state.ensemble, standardised, X, settings.k)
    return state


def check_can_go_on(earlier: Earlier, settings: Settings, n_features: int) -> None:
    """Compare settings with those of the fit to continue.

    Raises
    ------
    ValueError
        If settings differ that must not change.
    """
    n_members, n_components, n_found = earlier.arrays["decoder"].shape
    dtype = earlier.arrays["encoder_bias"].dtype.name
    for name, wanted, found in [
        ("n_saes", settings.n_saes, earlier.n_saes),
        ("n_components", settings.n_components, n_components),
        ("n_features_in_", n_features, n_found),
        ("n_witnesses", settings.n_witnesses, n_members - earlier.n_saes),
        ("witness_rows", settings.witness_rows, earlier.witness_rows),
        ("tied", settings.tied, "encoder" not in earlier.arrays),
        ("precision", str(settings.dtype).removeprefix("torch."), dtype),
    ]:
        if wanted != found:
            raise ValueError(
                f"{name}={wanted}, but the fit to continue has {name}={found}. Set "
                "warm_start=False and call fit to start again."
            )


def plan(
    data: Data, parameters: Mapping, anew: bool, settled: bool, one_pass: bool
) -> tuple[Schedule, Plateau]:
    """The schedule of training, and the rule for ending early.

    Parameters
    ----------
    data : Data
    parameters : mapping
    anew : bool
        Whether SAEs have not been trained at all.
    settled : bool
        Whether they have been trained to the end.
    one_pass : bool
    """
    per_epoch = data.batches.per_epoch
    if one_pass and settled:
        return Schedule.settled(ceil(per_epoch), data.batches.batch_size), Plateau()
    if one_pass:
        return Schedule.constant(ceil(per_epoch)), Plateau()
    schedule = Schedule.over(n_steps_of(parameters, per_epoch), anneal_k=anew)
    return schedule, Plateau(parameters["tol"], parameters["n_iter_no_change"])


def resume(
    state: TrainingState,
    data: Data,
    parameters: Mapping,
    settings: Settings,
    one_pass: bool,
) -> tuple[TrainingState, Checkpoints | None]:
    """The state to continue, from the newest checkpoint if there is one.

    Raises
    ------
    ValueError
        If the processes that share the fit have different values.
    """
    workers, X = data.batches.workers, data.batches.X
    is_saved = parameters["checkpoint_dir"] is not None and not one_pass
    # Hashing reads the data, so it is done only if the hash is compared.
    hash_of_X = fingerprint(X) if is_saved or workers.size > 1 else None
    checkpoints = None
    if is_saved:
        checkpoints = checkpoints_of(state, data, parameters, settings, hash_of_X)
        state = checkpoints.load(settings) or state
    workers.check_same(
        decisive(parameters)
        | {
            "X.shape": X.shape,
            # These depend on the order of the samples.
            "hash of X": hash_of_X,
            "seed drawn from random_state": settings.seed,
            "step of the checkpoint in checkpoint_dir": state.step,
        }
    )
    return state, checkpoints


def decisive(parameters: Mapping) -> dict[str, object]:
    """The parameters that affect training."""
    return {
        name: value
        for name, value in parameters.items()
        if name not in INDIFFERENT_TO_TRAINING
    }


def checkpoints_of(
    state: TrainingState,
    data: Data,
    parameters: Mapping,
    settings: Settings,
    hash_of_X: str | None,
) -> Checkpoints:
    """The checkpoints of a fit that begins with this state."""
    if not (state.n_steps or isinstance(parameters["random_state"], int)):
        warnings.warn(
            f"With random_state={parameters['random_state']}, a later fit may draw "
            "other random numbers, and then cannot resume from checkpoints in "
            f"checkpoint_dir={str(parameters['checkpoint_dir'])!r}. Set random_state "
            "to an integer.",
            stacklevel=8,
        )
    return Checkpoints(
        Path(parameters["checkpoint_dir"]),
        decisive(parameters)
        # Resolved values are compared, because they can be written in several ways.
        | {name: getattr(settings, name) for name in RESOLVED}
        | {
            "for_pursuit": settings.for_pursuit,
            "positive_code": settings.for_pursuit and settings.positive_code,
            "seed": settings.seed,
            "n_steps_": state.n_steps,
            # The past of a warm start is more than its dictionaries.
            "state": hash_of(to_arrays(state) | vars(data.moments)),
            "X": hash_of_X,
        },
        circumstances={"world_size": data.batches.workers.size},
    )


def hash_of(values: Mapping) -> str:
    """Hash of arrays and numbers, not of the strides that empty arrays may have."""
    return joblib.hash({n: joblib.hash(np.ravel(v)) for n, v in values.items()})


def run(
    state: TrainingState,
    data: Data,
    parameters: Mapping,
    settings: Settings,
    checkpoints: Checkpoints | None,
    begin_callbacks: Callable[..., EpochCallbacks] | None,
) -> tuple[list[dict], KeyboardInterrupt | None]:
    """Run the training loop with progress, checkpoints and interrupts.

    Returns
    -------
    list of dict
        Values that the callback returned.
    KeyboardInterrupt or None
        The interrupt, if it came after the first step; before that, it is raised.
    """
    batches, standardiser = data.batches, data.standardiser
    every = parameters["checkpoint_every"] or CHECKPOINT_EVERY
    first = batches.workers.rank == 0
    epochs = None
    if begin_callbacks is not None:
        epochs = begin_callbacks(
            batches.X,
            batches.per_epoch,
            state,
            lambda state: snapshot(state, data, settings),
        )

    def after_step(state: TrainingState) -> bool:
        watch(state)
        if first and checkpoints is not None and due(state.step, every):
            checkpoints.save(state)
        return epochs is not None and epochs(state)

    verbose = parameters["verbose"] if first else 0
    with Watch(settings, verbose, parameters["callback"]) as watch:
        try:
            train(state, batches, standardiser, settings, data.held_out, after_step)
        except KeyboardInterrupt as interrupt:
            if state.step == 0:
                raise
            return watch.history, interrupt
    if epochs is not None:
        epochs.close(state)
    return watch.history, None
