"""One step of all SAEs on a batch."""

from math import ceil

import torch
from torch import Tensor

from .._sae.codes import n_active
from .._sae.encoder import encode
from .._sae.pursuit import pursuit_codes
from .._utils.workers import ALONE, Workers
from .objective import Gradients, add_auxiliary_, add_mutual_penalty_, reconstruction
from .schedule import due
from .state import TrainingState, atoms_where

# Every so many steps dead atoms are looked for: those that were active in none of so
# many steps, in which an average one was in so many samples.
DEAD_INTERVAL = 5
DEAD_AFTER_STEPS = 5
DEAD_AFTER_SAMPLES = 40
# Steps over which running activity rates forget.
RATE_MEMORY = 50
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
