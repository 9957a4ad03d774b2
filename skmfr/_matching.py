"""Pairing the atoms of two dictionaries."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from ._dense import linear

# One-to-one matching is exact up to this many atoms (0.5 s); what it costs grows with
# their cube.
EXACT_LIMIT = 2048
# Above, each atom may be matched to so many nearest ones.  With 16, the total cosine
# was that of the exact matching in five digits wherever both could be had.
N_CANDIDATES = 16
# Rounds of collecting candidates leave about 0.6 of the atoms each, ...
MAX_ROUNDS = 10
# ... down to so few that all of their pairs are candidates.
REST_SIZE = 256
# Similarities are made in blocks of rows of about this many numbers.
BLOCK_SIZE = 1 << 24


class PullGraph(NamedTuple):
    """Which atoms the mutual penalty pulls together: a symmetric sparse matrix.

    Atoms are numbered through the group: atom a of SAE i is i * n_components + a.
    """

    partners: Tensor
    """(n_edges,) int32, the atoms that each atom is pulled to."""
    offsets: Tensor
    """(n_saes * n_components + 1,) int32, where the partners of each atom begin."""
    weights: Tensor
    """(n_edges,), so that half their sum is 1 once all pairs are matched."""
    bounds: list[int]
    """n_saes + 1 numbers, where the edges of each SAE begin"""


def nearest_atoms(atoms: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
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
    n_rows = max(1, BLOCK_SIZE // len(others))
    blocks = [linear(block, others).max(1) for block in atoms.split(n_rows)]
    cosine, index = zip(*blocks, strict=True)
    return torch.cat(cosine), torch.cat(index)


def assign_atoms(
    atoms: Tensor, others: Tensor, exact_limit: int = EXACT_LIMIT
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
    n_rows = max(1, BLOCK_SIZE // len(columns))
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


class Matches:
    """Matched atoms of every pair of SAEs, renewed one pair at a time.

    Parameters
    ----------
    matching : {"hungarian", "max"}
        One-to-one, or each atom with the nearest of the other SAE.
    n_saes, n_components : int
    least_cosine : float
        Atoms no more alike than this have not found the same feature, and are not
        matched: pulled together they would both end up between two features.
    """

    def __init__(
        self, matching: str, n_saes: int, n_components: int, least_cosine: float
    ):
        self.matching = matching
        self.n_saes = n_saes
        self.n_components = n_components
        self.least_cosine = least_cosine
        self.pairs = list(combinations(range(n_saes), 2))
        self.edges: dict[tuple[int, int], np.ndarray] = {}
        """For each pair matched, (2, n_edges): atoms of the one, of the other."""
        self._graph: PullGraph | None = None

    def renew(self, dictionaries: Tensor, pair: tuple[int, int]) -> None:
        """Match a pair again, to dictionaries (n_saes, n_components, n_features)."""
        i, j = pair
        own = torch.arange(self.n_components)
        if self.matching == "hungarian":
            partner = assign_atoms(dictionaries[i], dictionaries[j]).cpu()
            edges = torch.stack([own, partner])
        else:
            there = nearest_atoms(dictionaries[i], dictionaries[j])[1].cpu()
            back = nearest_atoms(dictionaries[j], dictionaries[i])[1].cpu()
            edges = torch.stack([torch.cat([own, back]), torch.cat([there, own])])
        cosine = edge_cosines(dictionaries, pair, edges).cpu()
        self.edges[pair] = edges[:, cosine > self.least_cosine].numpy()
        self._graph = None

    def add(self, i: int, atoms: np.ndarray, j: int, partners: np.ndarray) -> None:
        """Match some atoms of SAE i to atoms of SAE j, (n_atoms,) both."""
        edges = [atoms, partners] if i < j else [partners, atoms]
        pair = min(i, j), max(i, j)
        self.edges[pair] = np.concatenate([self.edges[pair], edges], axis=1)
        self._graph = None

    def with_partner(self, i: int, j: int) -> np.ndarray:
        """Which atoms of SAE i are matched to one of SAE j, (n_components,) bool."""
        matched = np.zeros(self.n_components, dtype=bool)
        pair = min(i, j), max(i, j)
        matched[self.edges[pair][pair.index(i)]] = True
        return matched

    def forget(self, i: int, atoms: np.ndarray) -> None:
        """Drop the matches of some atoms of SAE i, because they were replaced."""
        for pair, edges in self.edges.items():
            if i in pair:
                side = edges[pair.index(i)]
                self.edges[pair] = edges[:, ~np.isin(side, atoms)]
                self._graph = None

    def graph(self, like: Tensor) -> PullGraph:
        """The pull graph of the present matches, in the dtype and place of a tensor."""
        if self._graph is None:
            per_pair = self.n_components * (1 if self.matching == "hungarian" else 2)
            weight = 1.0 / (per_pair * len(self.pairs))
            rows, columns = np.concatenate(
                [
                    edges + np.array(pair)[:, None] * self.n_components
                    for pair, edges in self.edges.items()
                ],
                axis=1,
            )
            n_atoms = self.n_saes * self.n_components
            one_way = sparse.coo_array(
                (np.full(len(rows), weight), (rows, columns)), (n_atoms, n_atoms)
            )
            pull = (one_way + one_way.T).tocsr()
            self._graph = PullGraph(
                torch.from_numpy(pull.indices.astype(np.int32)).to(like.device),
                torch.from_numpy(pull.indptr.astype(np.int32)).to(like.device),
                torch.from_numpy(pull.data).to(like),
                pull.indptr[:: self.n_components].tolist(),
            )
        return self._graph
