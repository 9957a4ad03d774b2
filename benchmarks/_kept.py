"""Dictionaries with some of their atoms, chosen by use and by what is known of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin

from benchmarks._methods import Problem, estimator
from benchmarks._results import commit
from skmfr import MFRSparseAutoencoder, io


class Dictionary(TransformerMixin, BaseEstimator):
    """Codes and reconstructions by functions that were made elsewhere."""

    def __init__(self, encode, atoms=None, bias=None):
        self.encode = encode
        self.atoms = atoms
        self.bias = bias

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return self.encode(X)

    def __call__(self, X):
        return self.encode(X) @ self.atoms + self.bias

    def __sklearn_is_fitted__(self):
        return True

    def only(self, atoms: np.ndarray) -> "Dictionary":
        """With some atoms, (n_components,) bool; the others are never active."""
        mask = sparse.diags_array(atoms.astype(np.float32))

        def encode(X: np.ndarray) -> sparse.csr_array:
            return sparse.csr_array(self.encode(X) @ mask)

        return Dictionary(encode, self.atoms, self.bias)


def of_ours(cache: Path, problem: Problem, **parameters) -> MFRSparseAutoencoder:
    """Our estimator, fitted or read: the same one serves all tables of a commit."""
    given = [f"{name}={value}" for name, value in parameters.items()]
    words = [problem.n_components, problem.k, problem.n_steps, *given, commit()]
    file = cache / "saes" / f"{'-'.join(map(str, words))}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        sae = estimator(problem, 0, **parameters).fit(problem.X)
        io.save(sae, file, training_state=False)
    return io.load(file)


def dictionary_of(sae: MFRSparseAutoencoder) -> Dictionary:
    return Dictionary(sae.transform, sae.components_, sae.decoder_bias_)


def usage_of(codes: sparse.csr_array) -> np.ndarray:
    """Share of samples in which each atom is active, (n_components,)."""
    return np.asarray((codes != 0).mean(axis=0)).ravel()


def as_much_used(usage: np.ndarray, chosen: np.ndarray, seed: int) -> np.ndarray:
    """Random atoms, each the nearest in usage to one of the chosen.

    Parameters
    ----------
    usage : ndarray of shape (n_components,)
    chosen : ndarray of shape (n_components,), bool
    seed : int

    Returns
    -------
    ndarray of shape (n_components,), bool
    """
    order, draw = np.argsort(usage, kind="stable"), np.random.default_rng(seed)
    found = np.zeros(len(usage), dtype=bool)
    # One of each two neighbours in usage, so that chance decides and usage does not.
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    for atom in draw.permutation(np.flatnonzero(chosen)):
        free = np.flatnonzero(~found)
        near = free[np.argsort(np.abs(rank[free] - rank[atom]), kind="stable")[:10]]
        found[draw.choice(near)] = True
    return found


def by_usage(usage: np.ndarray, probability: np.ndarray, size: int) -> np.ndarray:
    """Groups of atoms that are active as often, each in the order of the probability.

    Parameters
    ----------
    usage, probability : ndarray of shape (n_components,)
    size : int
        Of a group; atoms that fill none, which are the rarest, are left out.

    Returns
    -------
    ndarray of shape (n_components // size, size), int
    """
    n_groups = len(usage) // size
    order = np.argsort(-usage, kind="stable")[: n_groups * size].reshape(-1, size)
    within = np.argsort(probability[order], axis=1, kind="stable")
    return np.take_along_axis(order, within, axis=1)


def members(n_components: int, atoms: np.ndarray) -> np.ndarray:
    chosen = np.zeros(n_components, dtype=bool)
    chosen[atoms] = True
    return chosen


def choices(
    sae: MFRSparseAutoencoder, usage: np.ndarray, n_draws: int = 3
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Atoms by what they have in common; several draws where chance decides."""
    n_components, draws = len(usage), range(n_draws)
    yield "all", [np.ones(n_components, dtype=bool)]
    trusted = sae.trusted_
    yield "trusted", [trusted]
    yield (
        "random, active as often as those",
        [as_much_used(usage, trusted, seed) for seed in draws],
    )
    yield "not trusted", [~trusted]
    pairs = by_usage(usage, sae.reappearance_, 2)
    yield "of each pair the likelier to return", [members(n_components, pairs[:, 1])]
    random = np.random.default_rng(0)
    yield (
        "of each pair one at random",
        [members(n_components, random.permuted(pairs, axis=1)[:, 0]) for _ in draws],
    )
    yield "of each pair the less likely", [members(n_components, pairs[:, 0])]
