"""Pairing the atoms of two dictionaries."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from .._kernels.dense import linear
from .._utils.ambient import undisturbed

# Matchings that training renews are exact up to this many atoms (0.5 s); what they cost
# grows with their cube.
EXACT_RENEWED = 2048
# Above, each atom may be matched to so many nearest ones.  With 16, the total cosine
# was that of the exact matching in five digits wherever both could be had.
N_CANDIDATES = 16
# Rounds of collecting candidates leave about 0.6 of the atoms each, ...
MAX_ROUNDS = 10
# ... down to so few that all of their pairs are candidates.
REST_SIZE = 256
# Cosines are made in blocks of rows of about this many numbers.
COSINES_AT_ONCE = 1 << 24
# Of fewer rows a product is slower.
MIN_ROWS = 256


@undisturbed()
def largest_cosines(atoms: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine of each atom with another dictionary, and where it is.

    Parameters
    ----------
    atoms : Tensor of shape (n_atoms, n_features)
    others : Tensor of shape (n_others, n_features)
        Rows of unit norm, both.

    Returns
    -------
    cosine : Tensor of shape (n_atoms,)
    index : Tensor of shape (n_atoms,)
    """
    n_rows = max(1, COSINES_AT_ONCE // len(others))
    blocks = [linear(block, others).max(1) for block in atoms.split(n_rows)]
    cosine, index = zip(*blocks, strict=True)
    return torch.cat(cosine), torch.cat(index)


@undisturbed()
def largest_cosines_both_ways(
    atoms: Tensor, others: Tensor, after_block: Callable[[int], object] = lambda n: None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """:func:`largest_cosines` of atoms with others and of others with atoms, at once.

    Each cosine is made once.

    Parameters
    ----------
    atoms : Tensor of shape (n_atoms, n_features)
    others : Tensor of shape (n_others, n_features)
        Rows of unit norm, both.
    after_block : callable(n), optional
        Told after each block of atoms how many it had.

    Returns
    -------
    there, back : (cosine, index)
    """
    cosines, places = [], []
    highest = atoms.new_full((len(others),), -torch.inf)
    where = torch.zeros(len(others), dtype=torch.int64, device=atoms.device)
    start = 0
    for block in atoms.split(max(MIN_ROWS, COSINES_AT_ONCE // len(others))):
        products = linear(block, others)
        cosine, place = products.max(1)
        cosines.append(cosine)
        places.append(place)
        # Where a maximum is costs more to find than what it is; few columns gain one.
        peak = products.amax(0)
        gained = (peak > highest).nonzero()[:, 0]
        highest[gained] = peak[gained]
        where[gained] = products[:, gained].argmax(0) + start
        start += len(block)
        after_block(len(block))
    return (torch.cat(cosines), torch.cat(places)), (highest, where)


@undisturbed()
def assign_atoms(
    atoms: Tensor, others: Tensor, exact_limit: int = EXACT_RENEWED
) -> Tensor:
    """One-to-one matching of two dictionaries of the same size.

    Up to ``exact_limit`` atoms, the matching of the largest total cosine (Hungarian
    algorithm).  Above, the one of the largest total among candidates, see
    `candidate_pairs`.

    Parameters
    ----------
    atoms, others : Tensor of shape (n_components, n_features)
        Rows of unit norm.
    exact_limit : int

    Returns
    -------
    Tensor of shape (n_components,), int64
        The partner in ``others`` of each atom, a permutation.
    """
    if len(atoms) <= exact_limit:
        similarity = linear(atoms, others).cpu().numpy()
        partner = linear_sum_assignment(similarity, maximize=True)[1]
    else:
        pairs = candidate_pairs(atoms, others)
        partner = min_weight_full_bipartite_matching(pairs, maximize=True)[1]
    return torch.from_numpy(partner.astype(np.int64)).to(atoms.device)


def candidate_pairs(atoms: Tensor, others: Tensor) -> sparse.csr_array:
    """Pairs of atoms that a one-to-one matching may choose from.

    Each atom with the `N_CANDIDATES` nearest of the other dictionary, in both
    directions.  Atoms that are each other's nearest have found a likely partner; those
    that have not, because another atom is nearer to theirs, look again among
    themselves, round after round.  So every atom has candidates that others leave to
    it, and the mutual pairs of all rounds, with the rest, are one full matching.

    Parameters
    ----------
    atoms, others : Tensor of shape (n_components, n_features)
        Rows of unit norm.

    Returns
    -------
    csr_array of shape (n_components, n_components)
        2 + cosine of each candidate pair: zeros would vanish from a sparse matrix.
    """
    pairs = sparse.csr_array((len(atoms), len(others)))
    left = right = torch.arange(len(atoms), device=atoms.device)
    for _ in range(MAX_ROUNDS):
        if len(left) <= REST_SIZE:
            break
        there, forth = _nearest_pairs(atoms, others, left, right, N_CANDIDATES)
        back, reverse = _nearest_pairs(others, atoms, right, left, N_CANDIDATES)
        pairs = pairs.maximum(forth).maximum(reverse.T)
        mutual = back[there] == torch.arange(len(left), device=left.device)
        free = torch.ones_like(mutual)
        free[there[mutual]] = False
        left, right = left[~mutual], right[free]
    for start in range(0, len(left), REST_SIZE):
        rows, columns = (side[start : start + REST_SIZE] for side in (left, right))
        _, rest = _nearest_pairs(atoms, others, rows, columns, REST_SIZE)
        pairs = pairs.maximum(rest)
    return pairs


def _nearest_pairs(
    atoms: Tensor, others: Tensor, rows: Tensor, columns: Tensor, n_nearest: int
) -> tuple[Tensor, sparse.csr_array]:
    """Some rows' atoms with their nearest in some columns, and where the nearest is.

    The first is a place in ``columns``, the second holds 2 + cosine where atoms and
    others meet.
    """
    n_nearest = min(n_nearest, len(columns))
    targets = others[columns]
    n_rows = max(1, COSINES_AT_ONCE // len(columns))
    blocks = [
        linear(atoms[block], targets).topk(n_nearest) for block in rows.split(n_rows)
    ]
    cosine = torch.cat([values for values, _ in blocks])
    place = torch.cat([places for _, places in blocks])
    weights, i, j = (
        tensor.flatten().cpu().numpy()
        for tensor in (
            2 + cosine.double(),
            # SciPy 1.12 matches with indices of 32 bits only.
            rows.repeat_interleave(n_nearest).int(),
            columns[place].int(),
        )
    )
    return place[:, 0], sparse.csr_array((weights, (i, j)), (len(atoms), len(others)))


def edge_cosines(dictionaries: Tensor, pair: tuple[int, int], edges: Tensor) -> Tensor:
    """Cosines of matched atoms.

    Parameters
    ----------
    dictionaries : Tensor of shape (n_saes, n_components, n_features)
        Rows of unit norm.
    pair : tuple of two int
        Two SAEs.
    edges : Tensor of shape (2, n_edges), int64
        Atoms of the one, of the other.

    Returns
    -------
    Tensor of shape (n_edges,)
    """
    one, other = (
        dictionaries[i][atoms.to(dictionaries.device)]
        for i, atoms in zip(pair, edges, strict=True)
    )
    return (one * other).sum(1)
