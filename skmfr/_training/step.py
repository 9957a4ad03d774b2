"""One step of all SAEs on a batch: compute gradients, then update."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._sae.codes import n_active
from .._sae.encoder import ENCODERS
from .._sae.ensemble import Ensemble
from .._sae.pursuit import pursuit_codes
from .._utils.workers import ALONE, Workers
from .activity import DEAD_INTERVAL
from .objective import (
    Gradients,
    add_auxiliary_,
    add_encoder_penalty_,
    add_mutual_penalty_,
    pursuit_reconstruction_,
    reconstruction_,
)
from .schedule import Stage, due
from .state import TrainingState

# Members with fewer pre-activations in a batch, in all, take a step together, to save
# the overhead of operations.  On a CPU, the output of one operation is then still in
# the cache for the next; on a GPU, arrays of all members must fit in memory.
SMALL = {"cpu": 1 << 23, "cuda": 1 << 30}


class Found(NamedTuple):
    """Results of a batch in addition to the gradients."""

    fvu: Tensor
    """(n_members,), by matching pursuit if decoders follow it"""
    rates: Tensor
    """(n_members, n_components), share of samples in which each atom is active"""


class Share(NamedTuple):
    """The samples of a batch that one member takes."""

    rows: Tensor
    """(n_taken,) int64, among those of this process"""
    n_rows: int
    """in all processes"""


def gradient_buffers(state: TrainingState) -> Gradients:
    """Gradients of all members, which each step overwrites, shared with the optimiser.

    Fresh pages would cost as much as the computation.
    """
    gradients = Gradients.like(state.ensemble)
    stacked = gradients[1:] if state.ensemble.tied else gradients
    for i in range(len(state.ensemble)):
        for parameter, gradient in zip(state.parameters(i), stacked, strict=True):
            parameter.grad = gradient[i]
    return gradients


def take_step(
    state: TrainingState,
    X: Tensor,
    stage: Stage,
    buffers: Gradients,
    low_precision: bool = False,
    workers: Workers = ALONE,
    shares: Sequence[Share] = (),
) -> None:
    """One step of all SAEs on one batch.

    Parameters
    ----------
    state : TrainingState
        Changed in place.
    X : Tensor of shape (n_samples, n_features)
        Standardised samples: this process's part of the batch.
    stage : Stage
    buffers : Gradients
        Gradients of this state, from :func:`gradient_buffers`.
    low_precision : bool
        Whether codes are found in bfloat16.
    workers : Workers
        The processes, with one part of the same size each.
    shares : sequence of Share
        Shares of the last members; the others take all samples.
    """
    found = find_gradients(state, X, stage, buffers, low_precision, workers, shares)
    n_samples = np.full(len(state.ensemble), float(len(X) * workers.size))
    # Expected size of a share; its actual size in one step is random.
    n_samples[len(n_samples) - len(shares) :] /= max(1, len(shares))
    update(state, found, buffers, n_samples * stage.k / state.ensemble.n_components)


def find_gradients(
    state: TrainingState,
    X: Tensor,
    stage: Stage,
    buffers: Gradients,
    low_precision: bool = False,
    workers: Workers = ALONE,
    shares: Sequence[Share] = (),
) -> Found:
    """Write the gradients of the objective on a batch; the state is unchanged.

    Parameters are as in :func:`take_step`.
    """
    ensemble = state.ensemble
    n_members, n_components, _ = ensemble.decoder.shape
    n_of_all = n_members - len(shares)
    small = SMALL.get(X.device.type, SMALL["cpu"])
    n_together = max(1, small // (len(X) * n_components))
    lots = [
        (slice(first, min(first + n_together, n_of_all)), X, len(X) * workers.size)
        for first in range(0, n_of_all, n_together)
    ]
    for i, (rows, n_rows) in enumerate(shares, start=n_of_all):
        lots.append((slice(i, i + 1), X[rows], n_rows))
    found = [
        _find_gradients_of(
            members, state, samples, n_samples, stage, buffers, low_precision, workers
        )
        for members, samples, n_samples in lots
    ]
    return Found(*map(torch.cat, zip(*found, strict=True)))


def _find_gradients_of(
    members: slice,
    state: TrainingState,
    X: Tensor,
    n_samples: int,
    stage: Stage,
    buffers: Gradients,
    low_precision: bool,
    workers: Workers,
) -> Found:
    """Write the gradients of some members, for this process's samples of the batch."""
    part, gradients = state.ensemble[members], buffers.of(members)
    if len(X):
        # Variance of the whole batch, so that the parts of all processes add up.
        total_variance = X.shape[1] * (n_samples / len(X))
        dead = state.activity.dead[members]
        found = _reconstruct(
            gradients, part, dead, X, stage, low_precision, total_variance
        )
        found.rates.div_(n_samples)
    else:
        for gradient in gradients:
            gradient.zero_()
        found = Found(X.new_zeros(len(part)), torch.zeros_like(part.encoder_bias))
    workers.add_up_(*found, *gradients)
    if n_samples == 0 and state.n_steps:
        # The step says nothing about their loss.
        found.fvu.copy_(state.losses[state.n_steps - 1, members])
    if stage.encoder_penalty > 0:
        add_encoder_penalty_(
            gradients.encoder,
            part.encoder,
            found.fvu,
            found.rates > 0,
            stage.encoder_penalty,
        )
    if stage.alpha > 0:
        _add_penalty_of(members, state, stage.alpha, gradients)
    if part.tied:
        gradients.decoder.add_(gradients.encoder)
    return found


def _reconstruct(
    gradients: Gradients,
    part: Ensemble,
    dead: list[Tensor],
    X: Tensor,
    stage: Stage,
    low_precision: bool,
    total_variance: float,
) -> Found:
    """Write the gradients of some members for their codes; rates are still counts."""
    X_centred = part.centred(X)
    encode = ENCODERS[stage.activation]
    codes = encode(X_centred, part, stage.k, low_precision)
    if stage.pursue:
        # Dead atoms have no auxiliary loss in this stage.
        pursued = pursuit_codes(X, part, stage.k, stage.positive)
        fvu = pursuit_reconstruction_(
            gradients, X_centred, codes, pursued, part, total_variance
        )
    else:
        fvu, residual = reconstruction_(
            gradients, X_centred, codes, part, total_variance
        )
        add_auxiliary_(
            gradients, X_centred, residual, part, dead, total_variance, low_precision
        )
    counts = n_active(codes, part.encoder_bias.numel())
    return Found(fvu, counts.view_as(part.encoder_bias))


def _add_penalty_of(
    members: slice, state: TrainingState, alpha: float, gradients: Gradients
) -> None:
    """Add the mutual penalty's gradients of those members that belong to the group."""
    n_saes = state.matches.n_saes
    coupled = slice(members.start, min(members.stop, n_saes))
    if coupled.start < coupled.stop:
        pull = state.matches.graph(like=state.ensemble.decoder)
        add_mutual_penalty_(
            gradients.decoder[: coupled.stop - coupled.start],
            state.ensemble.decoder[:n_saes],
            pull,
            alpha,
            coupled,
        )


def update(
    state: TrainingState,
    found: Found,
    gradients: Gradients,
    samples_of_average: np.ndarray,
) -> None:
    """Follow the gradients, and record the results of the batch.

    Parameters
    ----------
    state : TrainingState
        Changed in place.
    found : Found
    gradients : Gradients
        The gradients that the optimiser uses.
    samples_of_average : ndarray of shape (n_members,)
        Number of samples of the batch in which an average atom of each is active.
    """
    state.activity.renew(found.rates)
    if due(state.n_steps, DEAD_INTERVAL):
        state.activity.look_for_dead(samples_of_average.tolist())
    state.own()
    state.optimiser.descend()
    state.note_losses(found.fvu)
