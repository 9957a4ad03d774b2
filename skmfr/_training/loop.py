"""The training loop: one step of all SAEs on a batch, and many."""

from collections.abc import Callable
from contextlib import closing
from math import ceil

import numpy as np
import torch

from .._data.batches import Batches, row_blocks
from .._data.sources import Source
from .._data.standardiser import Standardiser
from .._sae.codes import decode
from .._sae.encoder import encode
from .._utils.workers import ALONE, Workers
from .revive import reinitialise_skewed, resample_unmoved, transplant_shared
from .schedule import due
from .settings import Settings
from .state import TrainingState
from .step import room_for_gradients, train_step

# One pair of SAEs is matched again every so many steps; with many atoms less often,
# for the cost of a matching outgrows that of a step.
MATCHING_INTERVAL = 16
ATOMS_PER_MATCHING_STEP = 32
# Stopping is considered after every epoch, but no more often than this.
STEPS_PER_CHECK = 50


# Gradients are written by hand.  And should an interrupt come while PyTorch's optimiser
# has its own switched off, they are on again for the user.
@torch.no_grad()
def train(
    state: TrainingState,
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
    validation: np.ndarray | None = None,
    after_step: Callable[[TrainingState], bool] = lambda state: False,
) -> None:
    """Train all SAEs on the same batches, to the end of the schedule of the state.

    Parameters
    ----------
    state : TrainingState
        Changed in place, and complete whenever ``after_step`` is called.
    batches : Batches
    standardiser : Standardiser
    settings : Settings
    validation : ndarray of shape (n_validation,), optional
        Held-out rows of the data that tell when the loss has stopped falling, instead
        of the batches.
    after_step : callable(state) -> bool
        Called after each step; True ends training.
    """
    workers = batches.workers
    room = room_for_gradients(state)
    check_every = max(ceil(batches.per_epoch), STEPS_PER_CHECK)
    # A GPU would wait for batches that are gathered when it wants them.
    ahead = settings.device != "cpu"
    # The end may come closer, but never moves away.
    turn = batches.in_turn(state.step, state.schedule.n_steps, ahead)
    with closing(turn):
        for batch in turn:
            step, schedule = state.step, state.schedule
            k = schedule.k(step, settings.k, settings.n_components)
            alpha = (
                settings.alpha * schedule.alpha(step) if state.matches.pairs else 0.0
            )
            if alpha > 0:
                renew_matches(state, settings)
            for group in state.optimiser.param_groups:
                group["lr"] = settings.learning_rate * schedule.learning_rate(step)

            X = standardiser(batch, settings.device, settings.dtype)
            pursue = settings.for_pursuit and schedule.pursuing(step)
            train_step(
                state, X, k, alpha, room, settings.low_precision, pursue, workers
            )
            state.step = step = step + 1

            if due(step, settings.reinit_every) and step < schedule.n_steps / 2:
                target = k / settings.n_components
                reinitialise_skewed(state, batches, standardiser, settings, target)
            every = settings.resample_every
            if every and due(state.n_steps, every) and step < schedule.cool_down_from:
                check_convergence(state, settings)
                for_witnesses = batches.for_witnesses(batches.samples(step - 1))
                if workers.size > 1:
                    # All choose the same samples, and of the whole batch.
                    X = standardiser(batches[step - 1], settings.device, settings.dtype)
                resample_unmoved(state, settings, X, for_witnesses, k, after=every)
                if alpha > 0:
                    transplant_shared(state, settings)
            may_end = state.plateau.tol > 0 and schedule.on_plateau(step)
            if may_end and due(step, check_every):
                if validation is None:
                    recent = state.losses[state.n_steps - check_every : state.n_steps]
                    fvu = float(recent[:, : settings.n_saes].mean())
                else:
                    fvu = group_fvu(
                        state, batches.X, validation, standardiser, settings, workers
                    )
                if state.plateau.ends_with(fvu):
                    state.schedule = schedule.finishing_at(step)
            if after_step(state) or state.step == state.schedule.n_steps:
                break


def renew_matches(state: TrainingState, settings: Settings) -> None:
    """Match one pair of SAEs again when its turn has come, and any that never was."""
    pairs = state.matches.pairs
    interval = max(MATCHING_INTERVAL, settings.n_components // ATOMS_PER_MATCHING_STEP)
    turn = None
    if due(state.n_steps, interval):
        turn = state.n_steps // interval % len(pairs)
    renewed = [
        pair
        for number, pair in enumerate(pairs)
        if number == turn or pair not in state.matches.edges
    ]
    if renewed:
        check_convergence(state, settings)
    for pair in renewed:
        state.matches.renew(state.ensemble.decoder, pair)


def check_convergence(state: TrainingState, settings: Settings) -> None:
    """Look at loss and atoms before something is made of them.

    Raises
    ------
    ValueError
        If they are not what they should be: finite, and of unit norm.
    """
    last = state.losses[max(0, state.n_steps - 1) : state.n_steps]
    norms = torch.linalg.vector_norm(state.ensemble.decoder, dim=-1)
    if not (last.isfinite().all() and ((norms - 1).abs() < 0.1).all()):
        raise ValueError(
            f"Training diverged with learning_rate={settings.learning_rate:g} and "
            f"alpha={settings.alpha:g}: lower them. If it went on from earlier data, "
            "X must be of their scale."
        )


def group_fvu(
    state: TrainingState,
    X: np.ndarray | Source,
    rows: np.ndarray,
    standardiser: Standardiser,
    settings: Settings,
    workers: Workers = ALONE,
) -> float:
    """FVU of held-out rows, mean over the group."""
    group = state.ensemble[: settings.n_saes]
    squares = 0.0
    for block in row_blocks(X, workers.part(rows)):
        for part in standardiser(block, settings.device, settings.dtype).split(4096):
            X_centred = group.centred(part)
            codes = encode(X_centred, group, settings.k)
            residual = X_centred.flatten(0, 1) - decode(
                codes, group.decoder.flatten(0, 1)
            )
            squares += float(residual.square().sum())
    return workers.total(squares) / (len(group) * len(rows) * X.shape[1])
