"""The training loop: all SAEs train on the same batches until the schedule ends."""

from collections.abc import Callable
from contextlib import closing
from math import ceil

import numpy as np
import torch

from .._data.batches import Batches, row_blocks
from .._data.sources import Source
from .._data.standardiser import Standardiser
from .._sae.encoder import ENCODERS, squares_left
from .._utils.random import part_of
from .._utils.workers import Workers
from .diagnostics import check_convergence
from .revive import revive
from .schedule import Stage, due
from .settings import Settings
from .state import TrainingState
from .step import Share, gradient_buffers, take_step

# Steps after which one pair of SAEs is matched again; more with many atoms, because the
# cost of a matching grows faster than that of a step.
MATCHING_INTERVAL = 16
ATOMS_PER_MATCHING_STEP = 32
# Early stopping is checked after every epoch, but at most this often.
STEPS_PER_CHECK = 50


# Gradients are written by hand.
@torch.no_grad()
def train(
    state: TrainingState,
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
    validation: np.ndarray | None = None,
    after_step: Callable[[TrainingState], bool] = lambda state: False,
) -> None:
    """Train all SAEs on the same batches until the schedule of the state ends.

    Parameters
    ----------
    state : TrainingState
        Changed in place, and consistent whenever ``after_step`` is called.
    batches : Batches
    standardiser : Standardiser
    settings : Settings
    validation : ndarray of shape (n_validation,), optional
        Held-out rows, which show when the loss has stopped falling.
    after_step : callable(state) -> bool
        Called after each step; True ends training.
    """
    workers = batches.workers
    buffers = gradient_buffers(state)
    check_every = max(ceil(batches.per_epoch), STEPS_PER_CHECK)
    # Otherwise a GPU would wait while batches are gathered.
    ahead = settings.device != "cpu"
    # The end may move closer, but never away.
    turn = batches.in_turn(state.step, state.schedule.n_steps, ahead)
    with closing(turn):
        for batch in turn:
            stage = state.schedule.stage(state.step, settings)
            if stage.alpha > 0:
                renew_matches(state, settings)
            state.optimiser.learning_rate = stage.learning_rate
            # Before standardising, which overwrites the batch.
            shares = shares_of_witnesses(batch, settings, workers)
            X = standardiser(batch, settings.device, settings.dtype)
            take_step(state, X, stage, buffers, settings.low_precision, workers, shares)
            state.step += 1
            revive(state, stage, standardiser, settings)
            if (
                validation is not None
                and due(state.step, check_every)
                and not state.schedule.falls_at(state.step + 1)
            ):
                fvu = group_fvu(
                    state, batches.X, validation, standardiser, settings, workers, stage
                )
                if state.plateau.ends_with(fvu):
                    state.schedule = state.schedule.fall_from(state.step)
            if after_step(state) or state.step == state.schedule.n_steps:
                break


def shares_of_witnesses(
    batch: np.ndarray, settings: Settings, workers: Workers
) -> list[Share]:
    """The rows of a batch that each witness takes; none if all take all."""
    if settings.witness_rows == "same":
        return []
    part = part_of(batch, settings.seed, settings.n_witnesses)
    rows = [np.flatnonzero(part == i) for i in range(settings.n_witnesses)]
    n_rows = torch.tensor([len(each) for each in rows], device=settings.device)
    workers.add_up_(n_rows)
    return [
        Share(torch.from_numpy(each).to(settings.device), n)
        for each, n in zip(rows, n_rows.tolist(), strict=True)
    ]


def renew_matches(state: TrainingState, settings: Settings) -> None:
    """Match one pair of SAEs again if it is its turn, and any pair never matched."""
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


def group_fvu(
    state: TrainingState,
    X: np.ndarray | Source,
    rows: np.ndarray,
    standardiser: Standardiser,
    settings: Settings,
    workers: Workers,
    stage: Stage,
) -> float:
    """FVU of held-out rows, averaged over the group."""
    group = state.ensemble[: settings.n_saes]
    squares = 0.0
    for block in row_blocks(X, workers.part(rows)):
        for part in standardiser(block, settings.device, settings.dtype).split(4096):
            squares += squares_left(group, part, ENCODERS[stage.activation], settings.k)
    return workers.total(squares) / (len(group) * len(rows) * X.shape[1])
