"""Probability that an independent run finds atoms again, from repeated runs."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.isotonic import IsotonicRegression

from .cosines import at_least, nearest_cosines
from .levels import level_of_data

# Cosine from which on an atom counts as found, and share of trusted atoms that are
# not, by default.
TAU = 0.8
FDR = 0.05
# Of probabilities, to compare them with frequencies.
N_BINS = 10


def reappearance(
    atoms: np.ndarray,
    group: Sequence[np.ndarray],
    witnesses: Sequence[np.ndarray],
    tau: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Probability that an independent dictionary has an atom at cosine tau or more.

    The atoms of the witnesses calibrate the cosine with the nearest atom of another
    run. Each of them has a cosine with one further dictionary, and returns in another
    one or not.  A monotone regression of the latter on the former, over all ordered
    pairs of further dictionaries, is applied to the cosines of the atoms with the
    witnesses. Several witnesses are averaged.

    The penalty makes the members of the group alike, so two of them never form a pair,
    unless there is only one witness and therefore no other pair.

    The deviation is a jackknife estimate over the dictionaries in which atoms return.

    Parameters
    ----------
    atoms : ndarray of shape (n_components, n_features)
        All atoms have unit norm.
    group, witnesses : sequence of ndarray of shape (n_components, n_features)
    tau : float

    Returns
    -------
    probability : ndarray of shape (n_components,)
        NaN if there is no witness, or at most two dictionaries.
    deviation : ndarray of shape (n_components,)
    """
    others, n_coupled = [*group, *witnesses], len(group) if len(witnesses) > 1 else 0
    if not len(witnesses) or len(others) < 3:
        unknown = np.full(len(atoms), np.nan)
        return unknown, unknown.copy()
    known = np.stack([nearest_cosines(atoms, witness)[0] for witness in witnesses])
    # Cosines of each atom of a witness, by the index of the other dictionary.
    cosines = [
        {
            j: nearest_cosines(witness, each)[0]
            for j, each in enumerate(others)
            if j != len(group) + i
        }
        for i, witness in enumerate(witnesses)
    ]

    def without(left_out: int | None) -> np.ndarray:
        pairs = [
            (by_number[seen], at_least(tau, by_number[target]))
            for by_number in cosines
            for seen in by_number
            for target in by_number
            if target not in (seen, left_out) and max(seen, target) >= n_coupled
        ]
        weight = len(witnesses) / len(pairs)
        return _calibrated(pairs, weight)(known.ravel()).reshape(known.shape).mean(0)

    probability = without(None)
    left = np.stack([without(number) for number in range(len(others))])
    spread = np.square(left - left.mean(0)).sum(0)
    return probability, np.sqrt((1 - 1 / len(others)) * spread)


def too_few(n_saes: int, n_witnesses: int) -> str | None:
    """Message if these SAEs do not say how often atoms return."""
    if n_witnesses and n_saes + n_witnesses > 2:
        return None
    return (
        f"With {n_saes} SAEs and {n_witnesses} witnesses, the probability that an atom "
        "returns cannot be estimated: the estimate needs a witness and three SAEs in "
        "all. Set n_witnesses=1 or more and n_saes=2 or more."
    )


def warn_of_too_few(n_saes: int, n_witnesses: int, stacklevel: int) -> None:
    """Warn if these SAEs do not say how often atoms return."""
    if message := too_few(n_saes, n_witnesses):
        warnings.warn(message, stacklevel=stacklevel + 1)


def _calibrated(pairs: list[tuple[np.ndarray, np.ndarray]], weight: float):
    """Monotone regression of returns on cosines, with this weight for each pair.

    An added atom at each end, which returns half of the time, keeps probabilities away
    from 0 and 1, more so if there are few atoms.
    """
    seen, returns = (np.concatenate(part) for part in zip(*pairs, strict=True))
    regression = IsotonicRegression(out_of_bounds="clip").fit(
        np.concatenate([[-1.0], seen, [1.0]]),
        np.concatenate([[0.5], returns, [0.5]]),
        np.concatenate([[1.0], np.full(len(seen), weight), [1.0]]),
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
    chosen[order[: np.count_nonzero(lost <= fdr)]] = True
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
