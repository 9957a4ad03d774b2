"""Matched atoms, which the penalty attracts to each other."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._sae.pairing import assign_atoms, edge_cosines, largest_cosines


class PullGraph(NamedTuple):
    """Pairs of atoms that the mutual penalty attracts, as a symmetric sparse matrix.

    Atoms are numbered through the group: atom a of SAE i is i * n_components + a.
    """

    partners: Tensor
    """(n_edges,) int32, the partners of each atom"""
    offsets: Tensor
    """(n_saes * n_components + 1,) int32, first and last partner of each atom"""
    weights: Tensor
    """(n_edges,), scaled so that half their sum is 1 once all pairs are matched"""
    bounds: list[int]
    """n_saes + 1 numbers, first and last edge of each SAE"""


class Matches:
    """Matched atoms of every pair of SAEs, updated one pair at a time.

    Parameters
    ----------
    matching : {"hungarian", "max"}
        One-to-one, or each atom with the nearest of the other SAE.
    n_saes, n_components : int
    least_cosine : float
        Minimum cosine of a match. Atoms less alike have not found the same feature, and
        would both move between two features if they attracted each other.
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
        """for each matched pair, (2, n_edges): atoms of the first, and of the second"""
        self._graph: PullGraph | None = None

    def renew(self, dictionaries: Tensor, pair: tuple[int, int]) -> None:
        """Match a pair again, in dictionaries (n_saes, n_components, n_features)."""
        i, j = pair
        own = torch.arange(self.n_components)
        if self.matching == "hungarian":
            partner = assign_atoms(dictionaries[i], dictionaries[j]).cpu()
            edges = torch.stack([own, partner])
        else:
            there = largest_cosines(dictionaries[i], dictionaries[j])[1].cpu()
            back = largest_cosines(dictionaries[j], dictionaries[i])[1].cpu()
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
        """Whether each atom of SAE i is matched to one of SAE j, (n_components,)."""
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
        """The graph of the current matches, with the dtype and device of `like`."""
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
