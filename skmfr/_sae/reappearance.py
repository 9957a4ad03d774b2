"""Probability that an independent run finds atoms again, from repeated runs."""

import warnings
from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression

from .cosines import Nearest, at_least, nearest_of_pairs
from .levels import level_of_data

# Cosine from which on an atom counts as found, and share of trusted atoms that are
# not, by default.
TAU = 0.8
FDR = 0.05
# Weight of an atom that is added at each end of the calibration.
PRIOR = 1.0
# Tolerance, so that a mean equal to the rate is within it in spite of rounding.
ROUNDING = 1e-9
# Number of bins of the probability in a calibration plot.
N_BINS = 10


def reappearance(
    nearest: Nearest,
    reference: int,
    group: Sequence[int],
    witnesses: Sequence[int],
    tau: float,
    disjoint: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Probability that an independent dictionary has an atom at cosine tau or more.

    The atoms of the witnesses calibrate the cosine with the nearest atom of another
    run. Each of them has a cosine with one further dictionary, and returns in another
    one or not.  A monotone regression of the latter on the former, over pairs of
    further dictionaries, is applied to the cosines of the atoms with the witnesses.
    Several witnesses are averaged.  It needs a witness, and three dictionaries in all.

    An atom of a group shall return in another group.  The penalty makes the members of
    a group alike, and they share atoms, so more atoms return there than in a witness.
    Therefore atoms of a witness are seen at another witness, and return in the group.
    With one witness, both are members of the group.  A group of one is like a witness,
    and then all pairs count.

    Witnesses with disjoint rows have no rows in common, but the group has seen those of
    both.  Few rows make it more similar to each than they are to each other.  Then
    ranks among the atoms of a dictionary take the place of cosines.

    The deviation is a jackknife estimate over the dictionaries in which atoms return.

    Parameters
    ----------
    nearest : dict of ndarray of shape (n_components,)
        From :func:`nearest_of_pairs`, for all dictionaries.
    reference : int
        The dictionary whose atoms are judged.
    group, witnesses : sequence of int
        The other dictionaries; the group contains the reference.
    tau : float
    disjoint : bool
        Whether the witnesses saw disjoint rows.

    Returns
    -------
    probability : ndarray of shape (n_components,)
    deviation : ndarray of shape (n_components,)
    """
    others = [*group, *witnesses]
    apart = len(group) > 1 and len(witnesses) > 1
    seen_in, found_in = (witnesses, group) if apart else (others, others)
    likeness = nearest
    if disjoint:
        likeness = {pair: ranks(cosines) for pair, cosines in nearest.items()}
    known = np.stack([likeness[reference, witness] for witness in witnesses])
    returns = {
        (witness, target): at_least(tau, nearest[witness, target])
        for witness in witnesses
        for target in found_in
        if target != witness
    }

    pairs = [(w, other) for w, other in product(witnesses, seen_in) if other != w]

    def without(left_out: int | None) -> np.ndarray:
        seen, share, n_targets = [], [], []
        for witness, other in pairs:
            targets = [
                returns[witness, target]
                for target in found_in
                if target not in (witness, other, left_out)
            ]
            if targets:
                seen.append(likeness[witness, other])
                share.append(np.mean(targets, axis=0))
                n_targets.append(len(targets))
        weights = len(witnesses) / sum(n_targets) * np.array(n_targets)
        predict = _calibrated(seen, share, weights)
        return predict(known.ravel()).reshape(known.shape).mean(0)

    probability = without(None)
    left = np.stack([without(number) for number in others])
    spread = np.square(left - left.mean(0)).sum(0)
    return probability, np.sqrt((1 - 1 / len(others)) * spread)


def ranks(cosines: np.ndarray) -> np.ndarray:
    """Ranks of cosines (n_components,), between 0 and 1, the same for equal ones."""
    return (rankdata(cosines) - 0.5) / len(cosines)


def reappearance_in_fit(
    reference: int,
    group: np.ndarray,
    witnesses: np.ndarray,
    tau: float,
    disjoint: bool,
    nearest: Nearest | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`reappearance` of the reference, NaN if there are too few dictionaries.

    Parameters
    ----------
    reference : int
    group, witnesses : ndarray of shape (n, n_components, n_features)
    tau : float
    disjoint : bool
        Whether the witnesses saw disjoint rows.
    nearest : dict of ndarray of shape (n_components,), optional
        From :func:`nearest_of_pairs`, of the group and then the witnesses.
    """
    if too_few(len(group), len(witnesses)):
        unknown = np.full(group.shape[1], np.nan)
        return unknown, unknown.copy()
    if nearest is None:
        nearest = nearest_of_pairs([*group, *witnesses])
    n_saes, n_all = len(group), len(group) + len(witnesses)
    members, others = range(n_saes), range(n_saes, n_all)
    return reappearance(nearest, reference, members, others, tau, disjoint)


def too_few(n_saes: int, n_witnesses: int) -> str | None:
    """Message if these SAEs do not say how often atoms return."""
    if n_witnesses and n_saes + n_witnesses > 2:
        return None
    return (
        f"With {n_saes} SAEs and {n_witnesses} witnesses, the probability that an atom "
        "returns cannot be estimated: the estimate needs a witness and three SAEs in "
        "all. Set n_witnesses=2 or more."
    )


def warn_of_too_few(n_saes: int, n_witnesses: int, stacklevel: int) -> None:
    """Warn if these SAEs do not say how often atoms return."""
    if message := too_few(n_saes, n_witnesses):
        warnings.warn(message, stacklevel=stacklevel + 1)


def _calibrated(seen: list[np.ndarray], share: list[np.ndarray], weights: np.ndarray):
    """Monotone regression of shares on cosines or ranks, with a weight for each part.

    An added atom at each end, which returns half of the time, keeps probabilities away
    from 0 and 1, more so if there are few atoms: n atoms that all return do so with
    (n + 1/2) / (n + 1), the posterior mean of Jeffreys' prior.
    """
    each = np.repeat(weights, [len(cosines) for cosines in seen])
    regression = IsotonicRegression(out_of_bounds="clip").fit(
        np.concatenate([[-1.0], *seen, [1.0]]),
        np.concatenate([[0.5], *share, [0.5]]),
        np.concatenate([[PRIOR], each, [PRIOR]]),
    )
    return regression.predict


def trusted(
    probability: np.ndarray,
    deviation: np.ndarray,
    agreement: np.ndarray,
    along: np.ndarray,
    n_features: int,
    fdr: float,
) -> np.ndarray:
    """The largest set of atoms above chance with at most a share that does not return.

    Parameters
    ----------
    probability, deviation : ndarray of shape (n_components,)
        From :func:`reappearance`.
    agreement : ndarray of shape (n_components,)
        With the witnesses.
    along : ndarray of shape (n_components,)
        Share of the variance of the data along each atom.
    n_features : int
    fdr : float

    Returns
    -------
    ndarray of shape (n_components,), bool
    """
    level = level_of_data(along, n_features, len(agreement))
    above = np.where(agreement > level, probability - deviation, np.nan)
    return largest_set(above, agreement, fdr)


def largest_set(
    probability: np.ndarray, agreement: np.ndarray, fdr: float
) -> np.ndarray:
    """The largest set of atoms whose expected share that does not return is bounded.

    Parameters
    ----------
    probability : ndarray of shape (n_components,)
    agreement : ndarray of shape (n_components,)
        Breaks ties between atoms with the same probability.
    fdr : float
        Upper bound on the expected share.

    Returns
    -------
    ndarray of shape (n_components,), bool
        False where the probability is NaN.
    """
    order = np.lexsort((-agreement, -probability))
    order = order[~np.isnan(probability[order])]
    lost = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    chosen = np.zeros(len(probability), dtype=bool)
    chosen[order[: np.count_nonzero(lost <= fdr + ROUNDING)]] = True
    return chosen


def binned(
    probability: np.ndarray, returns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities and frequencies in ten bins of the probability, without empty ones.

    Parameters
    ----------
    probability : ndarray of shape (n_atoms,)
    returns : ndarray of shape (n_atoms,), bool

    Returns
    -------
    mean, share : ndarray of shape (n_filled,)
        Mean probability of the atoms of a bin, and share of them that returns.
    n_atoms : ndarray of shape (n_filled,), int
    """
    bins = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    _, bins, n_atoms = np.unique(bins, return_inverse=True, return_counts=True)
    mean, share = (np.bincount(bins, each) / n_atoms for each in (probability, returns))
    return mean, share, n_atoms
