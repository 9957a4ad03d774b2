"""Reinitialise SAEs, and share the atoms that one of them lacks."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._data.standardiser import Standardiser
from .._sae.pairing import edge_cosines
from .diagnostics import check_convergence
from .initial import initial_atoms
from .schedule import Stage, due
from .settings import Settings
from .state import TrainingState

MAX_REINITS = 3
# Two SAEs with atoms this much alike have found a feature.
SHARED_COSINE = 0.99
# Number of steps between sharing atoms.
SHARE_EVERY = 100
# Maximum share of its atoms that an SAE receives at once.
MAX_GIVEN = 0.01


def revive(
    state: TrainingState,
    stage: Stage,
    standardiser: Standardiser,
    settings: Settings,
) -> None:
    """Reinitialise and share as is due after a step.

    Parameters
    ----------
    state : TrainingState
    stage : Stage
        Stage of the step.
    standardiser : Standardiser
    settings : Settings
    """
    step, schedule = state.step, state.schedule
    first_half = step < schedule.n_steps / 2 and not schedule.falls_at(step)
    if due(step, settings.reinit_every) and first_half:
        target = stage.k / settings.n_components
        reinitialise_skewed(state, standardiser, settings, target)
    if due(state.n_steps, SHARE_EVERY):
        check_convergence(state, settings)
        if settings.share_atoms and stage.alpha > 0:
            transplant_shared(state, settings)


def activity_skewness(rates: Tensor, target: float) -> Tensor:
    """Statistic that triggers conditional reinitialisation (arXiv 2411.01220).

    Parameters
    ----------
    rates : Tensor of shape (..., n_components)
        Share of samples in which each atom is active.
    target : float
        The share if all atoms were used equally, k / n_components.

    Returns
    -------
    Tensor of shape (...)
        Mean over atoms of (|rate - target| / target)^3, 0 for equal use.
    """
    return ((rates - target).abs() / target).pow(3).mean(-1)


def reinitialise_skewed(
    state: TrainingState,
    standardiser: Standardiser,
    settings: Settings,
    target: float,
) -> None:
    """Reinitialise SAEs whose atoms are used too unequally, a few times at most."""
    if settings.reinit_threshold is None:
        return
    skewness = activity_skewness(state.activity.rates, target).double().cpu().numpy()
    skewed = (skewness > settings.reinit_threshold) & (state.n_reinits < MAX_REINITS)
    for i in skewed.nonzero()[0].tolist():
        attempt = int(state.n_reinits[i]) + 1
        atoms = initial_atoms(standardiser, settings, i, attempt)
        restart_member(state, settings, i, atoms)


def transplant_shared(state: TrainingState, settings: Settings) -> None:
    """Give each SAE of the group atoms that two others share and it lacks.

    An SAE lacks a shared atom if no atom of the pair is matched to one of its atoms.
    The new atoms replace the least active atoms that no other SAE shares.

    Parameters
    ----------
    state : TrainingState
        State in which all pairs of SAEs are matched.
    settings : Settings
    """
    n_saes, matches = settings.n_saes, state.matches
    if n_saes < 3:
        return
    group = state.ensemble.decoder[:n_saes]
    n_most = max(1, int(MAX_GIVEN * settings.n_components))
    gifts = []
    for i in range(n_saes):
        # With many SAEs, the next two; each SAE is then asked by two.
        j, m = sorted((i + step) % n_saes for step in (1, 2))
        shared = shared_atoms(state, (j, m))
        lacking = ~matches.with_partner(j, i)[shared[0]]
        lacking &= ~matches.with_partner(m, i)[shared[1]]
        shared = shared[:, lacking][:, :n_most]

        others = [sae for sae in range(n_saes) if sae != i]
        alone = ~np.any([matches.with_partner(i, sae) for sae in others], axis=0)
        free = np.flatnonzero(alone)
        rates = state.activity.rates[i].cpu().numpy()
        free = free[np.argsort(rates[free], kind="stable")][: shared.shape[1]]
        shared = shared[:, : len(free)]
        one, other = (
            group[giver][torch.from_numpy(atoms).to(group.device)]
            for giver, atoms in zip((j, m), shared, strict=True)
        )
        directions = normalize(one + other)
        gifts.append((i, free, directions, {j: shared[0], m: shared[1]}))
    for i, places, directions, givers in gifts:
        atoms = torch.from_numpy(places).to(directions.device)
        restart_atoms(state, i, atoms, directions)
        for giver, partners in givers.items():
            matches.add(i, places, giver, partners)


def shared_atoms(state: TrainingState, pair: tuple[int, int]) -> np.ndarray:
    """Atoms that two SAEs share, the most alike first.

    Returns
    -------
    ndarray of shape (2, n_shared)
        Atoms of the first SAE, and of the second, each at most once.
    """
    edges = state.matches.edges[pair]
    cosine = edge_cosines(state.ensemble.decoder, pair, torch.from_numpy(edges))
    order = torch.argsort(cosine, descending=True, stable=True).cpu().numpy()
    shared = edges[:, order[: int((cosine > SHARED_COSINE).sum())]]
    # With nearest-atom matching, an atom may have several partners.
    for side in (0, 1):
        _, first = np.unique(shared[side], return_index=True)
        shared = shared[:, np.sort(first)]
    return shared


def restart_member(
    state: TrainingState, settings: Settings, i: int, atoms: Tensor
) -> None:
    """Give one member new atoms (n_components, n_features) and no history, in place."""
    state.n_reinits[i] += 1
    ensemble = state.ensemble
    # With tied weights both are the same tensor.
    ensemble.encoder[i] = atoms
    ensemble.decoder[i] = atoms
    ensemble.encoder_bias[i] = 0.0
    ensemble.decoder_bias[i] = 0.0
    for parameter in state.parameters(i):
        for moment in state.optimiser.state.get(parameter, {}).values():
            moment.zero_()
    state.activity.forget_member(i, settings.k / settings.n_components)
    state.matches.forget(i, np.arange(settings.n_components))


def restart_atoms(
    state: TrainingState, i: int, atoms: Tensor, directions: Tensor
) -> None:
    """Give some atoms of one member new directions and no history, in place.

    Parameters
    ----------
    state : TrainingState
    i : int
    atoms : Tensor of shape (n_replaced,), int64
    directions : Tensor of shape (n_replaced, n_features)
        Rows of unit norm.
    """
    ensemble = state.ensemble
    ensemble.encoder[i, atoms] = directions
    ensemble.decoder[i, atoms] = directions
    ensemble.encoder_bias[i, atoms] = 0.0
    # All parameters except the last, the decoder bias, have one row per atom.
    for parameter in state.parameters(i)[:-1]:
        moments = state.optimiser.state.get(parameter)
        if moments:
            moments["exp_avg"][atoms] = 0.0
            # Not zero: late in training Adam no longer corrects for an empty second
            # moment, and the first steps would be huge.
            moments["exp_avg_sq"][atoms] = moments["exp_avg_sq"].mean(0)
    state.activity.forget_atoms(i, atoms)
    state.matches.forget(i, atoms.cpu().numpy())
