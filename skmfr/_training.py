"""The training loop: one step of all SAEs on a batch, and many."""

from collections.abc import Callable
from contextlib import closing
from math import ceil

import numpy as np
import torch
from torch import Tensor

from ._batches import Batches, Standardiser, row_blocks
from ._codes import decode, n_active
from ._coding import pursuit_codes
from ._ensemble import encode
from ._objective import (
    Gradients,
    add_auxiliary_,
    add_mutual_penalty_,
    reconstruction,
)
from ._reinit import reinitialise_skewed, resample_unmoved, transplant_shared
from ._sources import Source
from ._state import Settings, TrainingState, atoms_where
from ._workers import ALONE, Workers

# One pair of SAEs is matched again every so many steps; with many atoms less often,
# for the cost of a matching outgrows that of a step.
MATCHING_INTERVAL = 16
ATOMS_PER_MATCHING_STEP = 32
# Steps over which running activity rates forget.
RATE_MEMORY = 50
# Stopping is considered after every epoch, but no more often than this.
STEPS_PER_CHECK = 50
# Every so many steps dead atoms are looked for: those that were active in none of so
# many steps, in which an average one was in so many samples.
DEAD_INTERVAL = 5
DEAD_AFTER_STEPS = 5
DEAD_AFTER_SAMPLES = 40
# Members that have fewer pre-activations in a batch, together, take a step as one, for
# the sake of what an operation costs by itself.  On a CPU, what one step writes is then
# still in the cache for the next; on a GPU, arrays of all members must fit in memory.
SMALL = {"cpu": 1 << 23, "cuda": 1 << 30}


def room_for_gradients(state: TrainingState) -> Gradients:
    """Gradients of all members that each step writes anew, where the optimiser looks.

    Fresh pages cost as much as what is computed into them.
    """
    gradients = Gradients.like(state.ensemble)
    stacked = gradients[1:] if state.ensemble.tied else gradients
    for i in range(len(state.ensemble)):
        for parameter, gradient in zip(state.parameters(i), stacked, strict=True):
            parameter.grad = gradient[i]
    return gradients


def train_step(
    state: TrainingState,
    X: Tensor,
    k: int,
    alpha: float,
    room: Gradients,
    low_precision: bool = False,
    pursue: bool = False,
    workers: Workers = ALONE,
) -> None:
    """One step of all SAEs on one batch.

    Parameters
    ----------
    state : TrainingState
        Changed in place.
    X : Tensor of shape (n_samples, n_features)
        Standardised samples: this process's part of the batch.
    k : int
    alpha : float
    room : Gradients
        For those of this state, from :func:`room_for_gradients`.
    low_precision : bool
        Whether codes are found in bfloat16.
    pursue : bool
        Whether dictionaries follow codes of matching pursuit, whose FVU is then the
        loss, while encoders follow their own, and dead atoms no loss of theirs.  Tied
        weights follow both.
    workers : Workers
        Who have a part of the same size each.
    """
    ensemble = state.ensemble
    n_members, n_components, n_features = ensemble.decoder.shape
    n_coupled = state.matches.n_saes if alpha > 0 else 0
    # Of the whole batch, so that what its parts give adds up.
    total_variance = float(n_features * workers.size)

    losses = []
    small = SMALL.get(X.device.type, SMALL["cpu"])
    n_together = max(1, small // (len(X) * n_components))
    for first in range(0, n_members, n_together):
        members = slice(first, min(first + n_together, n_members))
        part = ensemble[members]
        X_centred = part.centred(X)
        gradients = room.of(members)
        codes = encode(X_centred, part, k, low_precision)
        fvu, _, residual = reconstruction(
            X_centred, codes, part, total_variance, gradients
        )
        if pursue:
            pursued = pursuit_codes(X, part, k)
            fvu, by_pursuit, _ = reconstruction(
                X_centred, pursued, part, total_variance
            )
            gradients.decoder.copy_(by_pursuit.decoder)
            gradients.decoder_bias.copy_(by_pursuit.decoder_bias)
        else:
            add_auxiliary_(
                gradients,
                X_centred,
                residual,
                part,
                state.dead[members],
                total_variance,
                low_precision,
            )
        rates = n_active(codes, len(part) * n_components)
        rates /= len(X) * workers.size
        workers.add_up_(fvu, rates, *gradients)
        losses.append(fvu)

        coupled = slice(first, min(members.stop, n_coupled))
        if coupled.start < coupled.stop:
            pull = state.matches.graph(like=ensemble.decoder)
            group = ensemble.decoder[:n_coupled]
            coupled_gradient = gradients.decoder[: coupled.stop - first]
            add_mutual_penalty_(coupled_gradient, group, pull, alpha, coupled)
        if ensemble.tied:
            gradients.decoder.add_(gradients.encoder)

        rates = rates.view(len(part), n_components)
        state.rates[members].lerp_(rates, 1 / RATE_MEMORY)
        active = rates > 0
        moved = active | (gradients.encoder_bias != 0)
        state.idle[members] = torch.where(active, 0, state.idle[members] + 1)
        state.unmoved[members] = torch.where(moved, 0, state.unmoved[members] + 1)

    if due(state.n_steps, DEAD_INTERVAL):
        samples_of_average = len(X) * workers.size * k / n_components
        enough = ceil(DEAD_AFTER_SAMPLES / samples_of_average)
        state.dead = atoms_where(state.idle >= max(DEAD_AFTER_STEPS, enough))
    state.optimiser.descend()
    torch.cat(losses, out=state.losses[state.n_steps])
    state.n_steps += 1


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


def due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


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
