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

# Matchings that training repeats are exact up to this many atoms (0.5 s); their cost
# grows with the cube of the number.
EXACT_RENEWED = 2048
# Above that, each atom may be matched to this many nearest atoms.  With 16, the total
# cosine equalled that of the exact matching to five digits wherever both were computed.
N_CANDIDATES = 16
# Each round of collecting candidates leaves about 0.6 of the atoms, ...
MAX_ROUNDS = 10
# ... until there are so few that all of their pairs are candidates.
REST_SIZE = 256
# Cosines are computed in blocks of rows with about this many numbers.
COSINES_AT_ONCE = 1 << 24
# A product is slower with fewer rows.
MIN_ROWS = 256


@undisturbed()
def largest_cosines(atoms: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine of each atom with another dictionary, and its index.

    Parameters
    ----------
    atoms : Tensor of shape (n_atoms, n_features)
    others : Tensor of shape (n_others, n_features)
        Both have rows of unit norm.

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

    Each cosine is computed only once.

    Parameters
    ----------
    atoms : Tensor of shape (n_atoms, n_features)
    others : Tensor of shape (n_others, n_features)
        Both have rows of unit norm.
    after_block : callable(n), optional
        Called after each block with its number of atoms.

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
        # Finding the index of a maximum costs more than its value, and few columns have
        # a new maximum.
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

    Up to ``exact_limit`` atoms, it is the matching with the largest total cosine
    (Hungarian algorithm).  Above that, it is the matching with the largest total among
    candidates, see `candidate_pairs`.

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

    Each atom is paired with the `N_CANDIDATES` nearest atoms of the other dictionary,
    in both directions.  Atoms that are each other's nearest have found a likely
    partner. The other atoms, whose nearest atom is nearer to another, are compared
    among themselves again, round after round.  Every atom therefore has candidates that
    others do not need, and the mutual pairs of all rounds, with the rest, form one full
    matching.

    Parameters
    ----------
    atoms, others : Tensor of shape (n_components, n_features)
        Rows of unit norm.

    Returns
    -------
    csr_array of shape (n_components, n_components)
        2 + cosine of each candidate pair, because zeros would be dropped.
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
    """Atoms of some rows with their nearest in some columns.

    Returns the index in ``columns`` of the nearest, and a matrix with 2 + cosine for
    each pair of an atom and one of its nearest.
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
            # SciPy 1.12 matches only with 32-bit indices.
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
        Atoms of the first SAE, and of the second.

    Returns
    -------
    Tensor of shape (n_edges,)
    """
    one, other = (
        dictionaries[i][atoms.to(dictionaries.device)]
        for i, atoms in zip(pair, edges, strict=True)
    )
    return (one * other).sum(1)
