"""Second chances: SAEs started anew, stuck atoms resampled, missing ones given."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .._data.batches import Batches
from .._data.standardiser import Standardiser
from .._sae.codes import decode
from .._sae.encoder import encode
from .._sae.pairing import edge_cosines
from .._utils.random import RESAMPLING, random_numbers
from .diagnostics import check_convergence
from .initial import initial_atoms
from .schedule import Stage, due
from .settings import Settings
from .state import TrainingState

MAX_REINITS = 3
# Two SAEs that have an atom this much alike have found a feature.
SHARED_COSINE = 0.99
# Steps between two looks for atoms to share.
SHARE_EVERY = 100
# An SAE is given at most this share of its atoms at once.
MAX_GIVEN = 0.01


def revive(
    state: TrainingState,
    X: Tensor,
    stage: Stage,
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
) -> None:
    """Give the second chances that are due after a step.

    Parameters
    ----------
    state : TrainingState
    X : Tensor of shape (n_samples, n_features)
        This process's part of the batch of the step.
    stage : Stage
        What the step did.
    batches : Batches
    standardiser : Standardiser
    settings : Settings
    """
    step, schedule = state.step, state.schedule
    if due(step, settings.reinit_every) and step < schedule.n_steps / 2:
        target = stage.k / settings.n_components
        reinitialise_skewed(state, standardiser, settings, target)
    every = settings.resample_every
    resample = step < schedule.cool_down_from and due(state.n_steps, every)
    share = settings.share_atoms and stage.alpha > 0 and due(state.n_steps, SHARE_EVERY)
    if share or resample:
        check_convergence(state, settings)
    if every is not None and resample:
        for_witnesses = batches.for_witnesses(batches.samples(step - 1))
        if batches.workers.size > 1:
            # All choose the same samples, and of the whole batch.
            X = standardiser(batches[step - 1], settings.device, settings.dtype)
        resample_unmoved(state, settings, X, for_witnesses, stage.k, after=every)
    if share:
        transplant_shared(state, settings)


def activity_skewness(rates: Tensor, target: float) -> Tensor:
    """Statistic of the conditional reinitialisation (arXiv 2411.01220).

    Parameters
    ----------
    rates : Tensor of shape (..., n_components)
        Share of samples in which each atom is active.
    target : float
        That share if all atoms were used alike, k / n_components.

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
    """Start each SAE anew whose atoms are used too unequally, a few times at most."""
    if settings.reinit_threshold is None:
        return
    skewness = activity_skewness(state.activity.rates, target).double().cpu().numpy()
    skewed = (skewness > settings.reinit_threshold) & (state.n_reinits < MAX_REINITS)
    for i in skewed.nonzero()[0].tolist():
        attempt = int(state.n_reinits[i]) + 1
        atoms = initial_atoms(standardiser, settings, i, attempt)
        restart_member(state, settings, i, atoms)


def resample_unmoved(
    state: TrainingState,
    settings: Settings,
    X: Tensor,
    for_witnesses: np.ndarray,
    k: int,
    after: int,
) -> None:
    """Point atoms that nothing moves at samples that their SAE reconstructs badly.

    Most dead atoms follow the auxiliary loss; those that are active in no code of it
    either have no other way back.

    Parameters
    ----------
    state : TrainingState
    settings : Settings
    X : Tensor of shape (n_samples, n_features)
        A batch.
    for_witnesses : ndarray of shape (n_samples,), bool
        Samples that may give atoms to witnesses; the others may to the group.
    k : int
    after : int
        Steps in which nothing moved an atom.
    """
    for i, atoms in enumerate(state.activity.unmoved_in(after)):
        # Samples of the batch may not be for this witness.
        apart = i >= settings.n_saes and settings.witness_rows == "disjoint"
        if len(atoms) == 0 or apart:
            continue
        donors = for_witnesses == (i >= settings.n_saes)
        directions = missed_directions(state, settings, X, donors, k, i, len(atoms))
        restart_atoms(state, i, atoms[: len(directions)], directions)


def missed_directions(
    state: TrainingState,
    settings: Settings,
    X: Tensor,
    donors: np.ndarray,
    k: int,
    i: int,
    n: int,
) -> Tensor:
    """Residuals of at most n donors, drawn with probability as their squared size.

    Returns
    -------
    Tensor of shape (n_drawn, n_features)
        Rows of unit norm, of different samples.
    """
    sae = state.ensemble[i : i + 1]
    X_centred = sae.centred(X)
    residual = X_centred[0] - decode(encode(X_centred, sae, k), sae.decoder[0])
    weight = residual.square().sum(1).double().cpu().numpy() * donors
    n_drawn = min(n, int((weight > 0).sum()))
    if n_drawn == 0:
        return residual[:0]
    draw = random_numbers(
        settings.seed, RESAMPLING, *settings.member_key(i), state.n_steps
    )
    rows = draw.choice(len(weight), n_drawn, replace=False, p=weight / weight.sum())
    return normalize(residual[torch.from_numpy(rows).to(residual.device)])


def transplant_shared(state: TrainingState, settings: Settings) -> None:
    """Give each SAE of the group atoms that two others share and it lacks.

    An SAE lacks a shared atom if neither of the two is matched to one of its own.  The
    given atoms take the places of the least active ones that no other SAE has either.

    Parameters
    ----------
    state : TrainingState
        With all pairs of SAEs matched.
    settings : Settings
    """
    n_saes, matches = settings.n_saes, state.matches
    if n_saes < 3:
        return
    group = state.ensemble.decoder[:n_saes]
    n_most = max(1, int(MAX_GIVEN * settings.n_components))
    gifts = []
    for i in range(n_saes):
        # Of many SAEs, the two that follow: each is asked by two.
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
    """Atoms that two SAEs have in common, the most alike first.

    Returns
    -------
    ndarray of shape (2, n_shared)
        Atoms of the one, of the other, each at most once.
    """
    edges = state.matches.edges[pair]
    cosine = edge_cosines(state.ensemble.decoder, pair, torch.from_numpy(edges))
    order = torch.argsort(cosine, descending=True, stable=True).cpu().numpy()
    shared = edges[:, order[: int((cosine > SHARED_COSINE).sum())]]
    # Matched to the nearest, an atom may have several partners.
    for side in (0, 1):
        _, first = np.unique(shared[side], return_index=True)
        shared = shared[:, np.sort(first)]
    return shared


def restart_member(
    state: TrainingState, settings: Settings, i: int, atoms: Tensor
) -> None:
    """Give one member new atoms (n_components, n_features) and no past, in place."""
    state.n_reinits[i] += 1
    ensemble = state.ensemble
    # With tied weights the two are one tensor.
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
    """Give some atoms of one member new directions and no past, in place.

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
    # All parameters but the last, the decoder bias, have a row per atom.
    for parameter in state.parameters(i)[:-1]:
        moments = state.optimiser.state.get(parameter)
        if moments:
            moments["exp_avg"][atoms] = 0.0
            # Not zero: late in training Adam no longer corrects for an empty second
            # moment, and the first steps would be huge.
            moments["exp_avg_sq"][atoms] = moments["exp_avg_sq"].mean(0)
    state.activity.forget_atoms(i, atoms)
    state.matches.forget(i, atoms.cpu().numpy())
