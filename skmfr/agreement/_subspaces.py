"""Atoms that no other run repeats one by one, but whose span returns."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.utils._param_validation import validate_params

from .._sae.cosines import at_least, nearest_cosines
from .._sae.levels import BELOW
from .._sae.reappearance import TAU
from .._utils.checks import Interval, unit_atoms

# Number of random directions whose cosines with a span tell what chance gives.
N_RANDOM = 500
# Products with other atoms in memory at a time, 128 MB.
PRODUCTS_AT_ONCE = 1 << 24
# A span that comes so near to random directions tells nothing.
TELLING = 0.995
# Number of atoms from which on they tell in which dimensions others would lie.
ENOUGH_ATOMS = 8
# Atoms that are combined to random directions at a time, of 128 MB as well.
COMBINED_AT_ONCE = PRODUCTS_AT_ONCE // N_RANDOM
# An atom with such a cosine with another one, or with its negative, would be in the
# span of that one and any others, and is not sought in spans.
NEARLY_EQUAL = 0.95
# An atom at most this far from the span of others is linearly dependent on them.
DEPENDENT = 1e-6


class SubspaceAgreement(NamedTuple):
    """The fate of the atoms of a dictionary in another one.

    :func:`subspace_agreement` makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.agreement import SubspaceAgreement
    >>> found = SubspaceAgreement(
    ...     fate=np.array(["returns", "lost"]),
    ...     group=np.array([-1, -1]),
    ...     agreement=np.array([0.9, 0.3]),
    ... )
    >>> found.agreement[found.fate == "lost"]
    array([0.3])
    """

    fate: np.ndarray
    """(n_components,) str: "returns", "splits", "merges", "turns" or "lost" """
    group: np.ndarray
    """(n_components,) int, atoms of one number share a span; -1 without a group"""
    agreement: np.ndarray
    """(n_components,) cosine with what the fate names: the nearest atom of one that
    returns or is lost; else of the atom, or of what atoms merged to, with the span"""


@validate_params(
    {
        "tau": [Interval(Real, 0, 1, closed="both")],
        "span_tau": [Interval(Real, 0, 1, closed="both")],
        "max_atoms": [Interval(Integral, 2, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def subspace_agreement(
    atoms, others, *, tau=TAU, span_tau=0.95, max_atoms=3
) -> SubspaceAgreement:
    """Tell atoms that split, merge or turn in another run from those that are lost.

    Atoms of either dictionary that the other has at a cosine of `tau` return. Of those
    left, each is sought in the span of a few that are left in the other dictionary, by
    matching pursuit, unless one of these is nearly equal to it or to its negative.
    Atoms found in this way are linked, and atoms that are linked to one another make a
    group. Atoms of a group *split* if they are in the span of its atoms there, and
    *merge* if those there are in their span. If both is so for several atoms on both
    sides, the dictionaries have the same span, in which atoms *turn*.

    Parameters
    ----------
    atoms : array-like of shape (n_components, n_features)
        Atoms to judge.
    others : array-like of shape (n_atoms, n_features)
        Atoms of another run.
    tau : float, default=0.8
        Cosine from which on an atom returns.
    span_tau : float, default=0.95
        Cosine with a span from which on an atom is in it. It must also be above that
        of 99 % of random combinations of all atoms.
    max_atoms : int, default=3
        Atoms of a span, at most.

    Returns
    -------
    SubspaceAgreement
        Named tuple of arrays of shape (n_components,): `fate`, `group`, `agreement`.

    Raises
    ------
    ValueError
        If an array is not a matrix with rows and columns, the numbers of features
        differ, a value is not finite, or a parameter is out of its range.

    See Also
    --------
    nearest_atoms : Atoms one by one.
    reappearance : How likely atoms return.

    Examples
    --------
    An atom that another run has in two pieces, and one that it lacks.

    >>> import numpy as np
    >>> from skmfr.agreement import subspace_agreement
    >>> axes = np.eye(16)
    >>> atoms = [axes[0], axes[1] + axes[2], axes[5]]
    >>> subspace_agreement(atoms, axes[:4]).fate.tolist()
    ['returns', 'splits', 'lost']
    """
    atoms = unit_atoms(atoms, "atoms")
    others = unit_atoms(others, "others", n_features=atoms.shape[1])
    nearest = [nearest_cosines(*pair)[0] for pair in [(atoms, others), (others, atoms)]]
    here, there = (np.flatnonzero(~at_least(tau, cosine)) for cosine in nearest)
    fate = np.full(len(atoms), "lost", dtype="<U7")
    fate[at_least(tau, nearest[0])] = "returns"
    group, agreement = np.full(len(atoms), -1), nearest[0].copy()
    if not len(here) or not len(there):
        return SubspaceAgreement(fate, group, agreement)
    sides = atoms[here], others[there]
    draw = _random_directions(atoms, others)
    links = _links(*sides, draw, span_tau, max_atoms)
    back = _links(*sides[::-1], draw, span_tau, max_atoms)[::-1]
    one, other = np.concatenate([links, back], axis=1)
    n_all = len(here) + len(there)
    graph = coo_array(
        (np.ones(len(one)), (one, len(here) + other)), shape=(n_all, n_all)
    )
    _, labels = connected_components(graph, directed=False)
    ends = np.cumsum(np.bincount(labels, minlength=1))[:-1]
    members = np.split(np.argsort(labels, kind="stable"), ends)
    for number, label in enumerate(np.unique(labels[one])):
        places = members[label]
        of_here = places[places < len(here)]
        of_there = places[places >= len(here)] - len(here)
        mine, theirs = sides[0][of_here], sides[1][of_there]
        cosine, found = _in_span(mine, theirs, draw, span_tau)
        back, in_mine = _in_span(theirs, mine, draw, span_tau)
        found_back = in_mine.all()
        name = "splits"
        if found_back and found.all() and min(len(mine), len(theirs)) > 1:
            name = "turns"
        elif found_back and len(mine) > 1:
            name, cosine = "merges", np.full(len(mine), back.min())
            found[:] = True
        places = here[of_here][found]
        fate[places], group[places] = name, number
        agreement[places] = cosine[found]
    return SubspaceAgreement(fate, group, agreement)


def _random_directions(*dictionaries: np.ndarray) -> np.ndarray:
    """Directions with the covariance of atoms, (N_RANDOM, n_features), unit norm.

    If atoms lie in a few dimensions of many, random ones do, too: there, any few of
    them span much.  Of few atoms, an atom without direction is added, because they do
    not tell in which dimensions others would lie.
    """
    rng = np.random.default_rng(0)
    n_features = dictionaries[0].shape[1]
    size = min(1.0, ENOUGH_ATOMS / sum(map(len, dictionaries)))
    draw = size / np.sqrt(n_features) * rng.standard_normal((N_RANDOM, n_features))
    for atoms in dictionaries:
        for start in range(0, len(atoms), COMBINED_AT_ONCE):
            block = atoms[start : start + COMBINED_AT_ONCE]
            draw += rng.standard_normal((N_RANDOM, len(block))) @ block
    return draw / np.linalg.norm(draw, axis=1, keepdims=True)


def _links(
    atoms: np.ndarray,
    others: np.ndarray,
    draw: np.ndarray,
    span_tau: float,
    max_atoms: int,
) -> np.ndarray:
    """Atoms in spans of others, (2, n_links): an atom, and one of those that span.

    Random directions `draw` (n_random, n_features) tell what chance gives.
    """
    max_atoms = min(max_atoms, len(others))
    if not len(atoms) or max_atoms < 2:
        return np.empty((2, 0), dtype=int)
    _, by_chance = _pursued(draw, others, max_atoms)
    level = _level(by_chance, span_tau)
    level[0] = np.inf  # one atom spans nothing
    chosen, cosines = _pursued(atoms, others, max_atoms)
    in_span = (cosines >= level) & (cosines[:, :1] < NEARLY_EQUAL)
    n_atoms = np.where(in_span.any(1), in_span.argmax(1) + 1, 0)
    atom, place = np.nonzero(np.arange(max_atoms) < n_atoms[:, None])
    return np.stack([atom, chosen[atom, place]])


def _level(by_chance: np.ndarray, span_tau: float) -> np.ndarray:
    """Cosines with a span from which on an atom is in it, (...).

    ``by_chance`` (N_RANDOM, ...) holds those of random directions.
    """
    level = np.maximum(np.quantile(by_chance, BELOW, axis=0), span_tau)
    return np.where(level < TELLING, level, np.inf)


def _pursued(
    atoms: np.ndarray, others: np.ndarray, n_most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms that matching pursuit picks, and cosines with their span after each.

    Parameters
    ----------
    atoms : ndarray of shape (n_atoms, n_features)
    others : ndarray of shape (n_others, n_features)
    n_most : int

    Returns
    -------
    chosen : ndarray of shape (n_atoms, n_most), int
    cosines : ndarray of shape (n_atoms, n_most)
    """
    chosen = np.empty((len(atoms), n_most), dtype=int)
    cosines = np.empty((len(atoms), n_most))
    n_rows = max(1, PRODUCTS_AT_ONCE // len(others))
    for start in range(0, len(atoms), n_rows):
        block = slice(start, start + n_rows)
        residual = atoms[block].copy()
        basis = np.zeros((n_most, *residual.shape))
        for n in range(n_most):
            products = np.abs(residual @ others.T)
            np.put_along_axis(products, chosen[block, :n], -1.0, axis=1)
            chosen[block, n] = products.argmax(1)
            new = others[chosen[block, n]]
            # Twice, against rounding.
            for axis in [*basis[:n], *basis[:n]]:
                new = new - np.sum(new * axis, axis=1, keepdims=True) * axis
            norm = np.linalg.norm(new, axis=1, keepdims=True)
            # An atom that the span already contains adds nothing to it.
            basis[n] = np.where(norm > DEPENDENT, new / np.maximum(norm, DEPENDENT), 0)
            along = np.sum(residual * basis[n], axis=1, keepdims=True)
            residual -= along * basis[n]
            left = np.square(residual).sum(1)
            cosines[block, n] = np.sqrt(np.maximum(0.0, 1 - left))
    return chosen, cosines


def _in_span(
    atoms: np.ndarray, others: np.ndarray, draw: np.ndarray, span_tau: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each atom with the span of others, and whether it is in it."""
    cosine = _cosine_with_span(atoms, others)
    return cosine, cosine >= _level(_cosine_with_span(draw, others), span_tau)


def _cosine_with_span(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine of each atom with the span of others, (n_atoms,)."""
    _, sizes, axes = np.linalg.svd(others, full_matrices=False)
    axes = axes[sizes > DEPENDENT * sizes[0]]
    return np.linalg.norm(atoms @ axes.T, axis=1).clip(max=1.0)
