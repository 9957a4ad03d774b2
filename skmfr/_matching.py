"""Pairing the atoms of two dictionaries."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from torch import Tensor

# One-to-one matching is exact up to this many atoms (0.2 s); what it costs grows with
# their cube.
EXACT_LIMIT = 2048
MUTUAL_ROUNDS = 6
# Similarities are made in blocks of rows of about this many numbers.
BLOCK_SIZE = 1 << 24


class PullGraph(NamedTuple):
    """Which atoms the mutual penalty pulls together: a symmetric sparse matrix.

    Atoms are numbered through the group: atom a of SAE i is i * n_components + a.
    """

    partners: Tensor
    """(n_edges,) int64, the atoms that each atom is pulled to."""
    offsets: Tensor
    """(n_saes * n_components + 1,) int64, where the partners of each atom begin."""
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
    blocks = [(block @ others.T).max(1) for block in atoms.split(n_rows)]
    cosine, index = zip(*blocks, strict=True)
    return torch.cat(cosine), torch.cat(index)


def assign_atoms(
    atoms: Tensor, others: Tensor, exact_limit: int = EXACT_LIMIT
) -> Tensor:
    """One-to-one matching of two dictionaries of the same size.

    Up to ``exact_limit`` atoms, the matching of the largest total cosine (Hungarian
    algorithm).  Above, atoms that are each other's nearest are paired first, in a few
    rounds that leave about half of the atoms each, and the rest is solved exactly, in
    chunks of ``exact_limit`` should more be left.

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
    partner = torch.empty(len(atoms), dtype=torch.int64, device=atoms.device)
    left = right = torch.arange(len(atoms), device=atoms.device)
    for _ in range(MUTUAL_ROUNDS):
        if len(left) <= exact_limit:
            break
        there = nearest_atoms(atoms[left], others[right])[1]
        back = nearest_atoms(others[right], atoms[left])[1]
        mutual = back[there] == torch.arange(len(left), device=left.device)
        partner[left[mutual]] = right[there[mutual]]
        free = torch.ones_like(mutual)
        free[there[mutual]] = False
        left, right = left[~mutual], right[free]
    for rows, columns in zip(
        left.split(exact_limit), right.split(exact_limit), strict=True
    ):
        similarity = (atoms[rows] @ others[columns].T).cpu().numpy()
        order = linear_sum_assignment(similarity, maximize=True)[1]
        partner[rows] = columns[torch.from_numpy(order).to(columns.device)]
    return partner


class Matches:
    """Matched atoms of every pair of SAEs, renewed one pair at a time.

    Parameters
    ----------
    matching : {"hungarian", "max"}
        One-to-one, or each atom with the nearest of the other SAE.
    n_saes, n_components : int
    """

    def __init__(self, matching: str, n_saes: int, n_components: int):
        self.matching = matching
        self.n_saes = n_saes
        self.n_components = n_components
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
        self.edges[pair] = edges.numpy()
        self._graph = None

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
                torch.from_numpy(pull.indices.astype(np.int64)).to(like.device),
                torch.from_numpy(pull.indptr.astype(np.int64)).to(like.device),
                torch.from_numpy(pull.data).to(like),
                pull.indptr[:: self.n_components].tolist(),
            )
        return self._graph
