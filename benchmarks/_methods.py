"""Methods that are compared: ours, the paper's, scikit-learn's, other packages'.

Each method is a function of a problem and a seed, so that all get the same data, number
of steps, batch size, atoms and active atoms.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize

from benchmarks._paper import LEARNING_RATE, train_paper
from benchmarks._peers import PEERS, Peer, Standardiser
from benchmarks._results import Row
from skmfr import MFRSparseAutoencoder
from skmfr._sae.coder import Coder
from skmfr._sae.codes import SparseCodes
from skmfr._sae.ensemble import Ensemble
from skmfr._sae.lstsq import refitted
from skmfr.agreement import feature_agreement, matched_cosine, mmcs
from skmfr.metrics import fvu

# Penalty of dictionary learning: scikit-learn's default, for data of mean variance 1.
DICTIONARY_ALPHA = 1.0
# Time limit of dictionary learning, because one of its steps costs a hundred of ours.
DICTIONARY_SECONDS = 60
# Columns of FVU in tables that compare methods, in the order of `codings`.
CODINGS = ("FVU", "lstsq", "OMP", "OMP, not negative")
DIGITS = {**dict.fromkeys(CODINGS, 4), "seconds": 0}


class Problem(NamedTuple):
    """Data, and the budget that every method gets."""

    X: np.ndarray
    X_test: np.ndarray
    truth: np.ndarray | None
    """(n_true, n_features), unit norm: the features in use, where they are known"""
    n_components: int
    k: int
    n_steps: int
    batch_size: int


class Fitted(NamedTuple):
    """A dictionary, how its method codes, and its score of trust for each atom."""

    sae: Peer
    agreement: np.ndarray | None
    """(n_components,)"""


def estimator(problem: Problem, seed: int, **parameters) -> MFRSparseAutoencoder:
    """Our estimator with the budget of the problem."""
    usual = {
        "n_components": problem.n_components,
        "k": problem.k,
        "max_steps": problem.n_steps,
        "batch_size": problem.batch_size,
        "sparse_output": True,
        "random_state": seed,
    }
    return MFRSparseAutoencoder(**(usual | parameters))


def ours(**parameters) -> Callable[[Problem, int], Fitted]:
    def fit(problem: Problem, seed: int) -> Fitted:
        sae = estimator(problem, seed, **parameters)
        began = perf_counter()
        sae.fit(problem.X)
        trained = Peer(
            sae.components_,
            sae.decoder_bias_,
            sae.transform,
            perf_counter() - began,
        )
        return Fitted(trained, sae.feature_agreement_)

    return fit


OURS = {
    "ours, alpha=0": ours(alpha=0.0),
    "ours, default": ours(),
    "ours, batchtopk": ours(activation="batchtopk"),
    "ours, for OMP": ours(transform_algorithm="omp"),
    "ours, for OMP, not negative": ours(transform_algorithm="omp", positive_code=True),
}


def after_pca(
    n_components: int | None = None, whiten: bool = False, **parameters
) -> Callable[[Problem, int], Fitted]:
    """Ours on principal components, its atoms taken back to the space of the data."""

    def fit(problem: Problem, seed: int) -> Fitted:
        pca = PCA(n_components, whiten=whiten, random_state=seed)
        began = perf_counter()
        sae = estimator(problem, seed, **parameters).fit(pca.fit_transform(problem.X))
        seconds = perf_counter() - began
        atoms = pca.inverse_transform(sae.components_) - pca.mean_
        norms = np.linalg.norm(atoms, axis=1)

        def encode(X: np.ndarray) -> sparse.csr_array:
            return sparse.csr_array(sae.transform(pca.transform(X)) * norms)

        bias = pca.inverse_transform(sae.decoder_bias_[None])[0]
        trained = Peer(atoms / norms[:, None], bias, encode, seconds)
        return Fitted(trained, sae.feature_agreement_)

    return fit


def paper(n_saes=1, alpha=0.0, learning_rate=LEARNING_RATE):
    """The authors' setting; its score is the agreement inside the group."""

    def fit(problem: Problem, seed: int) -> Fitted:
        standardiser = Standardiser(problem.X)
        began = perf_counter()
        saes = train_paper(
            standardiser.transform(problem.X).numpy(),
            problem.n_components,
            problem.k,
            n_saes=n_saes,
            alpha=alpha,
            n_steps=problem.n_steps,
            batch_size=problem.batch_size,
            seed=seed,
            learning_rate=learning_rate,
        )
        seconds = perf_counter() - began

        def encode(X: np.ndarray) -> sparse.csr_array:
            with torch.no_grad():
                codes = saes[0].encode(standardiser.transform(X))
            return sparse.csr_array(codes.numpy() * standardiser.scale)

        atoms = [sae.atoms().detach().numpy() for sae in saes]
        trained = Peer(atoms[0], standardiser.mean, encode, seconds)
        return Fitted(trained, feature_agreement(atoms[0], atoms[1:]))

    return fit


def dictionary_learning(problem: Problem, seed: int) -> Fitted:
    """scikit-learn's, for as many steps as the others, or as many as time allows.

    Its codes are non-negative in training, as the others' are, so that the sign of an
    atom means something; new data are coded by its orthogonal matching pursuit.
    """
    standardiser = Standardiser(problem.X)
    X = standardiser.transform(problem.X).numpy()
    model = MiniBatchDictionaryLearning(
        problem.n_components,
        alpha=DICTIONARY_ALPHA,
        fit_algorithm="cd",
        positive_code=True,
        random_state=seed,
    )
    draw = np.random.default_rng(seed)
    began = perf_counter()
    with warnings.catch_warnings():
        # Coordinate descent that stops a hair short of its tolerance.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(problem.n_steps):
            model.partial_fit(X[draw.integers(len(X), size=model.batch_size)])
            if perf_counter() - began > DICTIONARY_SECONDS:
                break
    seconds = perf_counter() - began
    atoms = normalize(model.components_)

    def encode(X: np.ndarray) -> sparse.csr_array:
        X = standardiser.transform(X).numpy()
        codes = sparse_encode(X, atoms, algorithm="omp", n_nonzero_coefs=problem.k)
        return sparse.csr_array(codes * standardiser.scale)

    return Fitted(Peer(atoms, standardiser.mean, encode, seconds), None)


def peer(name: str, learning_rate: float, **more):
    def fit(problem: Problem, seed: int) -> Fitted:
        budget = (problem.n_components, problem.k, problem.n_steps, problem.batch_size)
        trained = PEERS[name](problem.X, *budget, learning_rate, seed, **more)
        return Fitted(trained, None)

    return fit


def codings(sae: Peer, k: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Reconstructions of X with one dictionary, by how samples are coded.

    "encoder" is the method's own way, "lstsq" least squares on its support, "omp"
    orthogonal matching pursuit with k atoms, and "omp, not negative" the same without
    negative codes: these three are the same code for all.
    """
    ensemble = Ensemble.starting_from(torch.tensor(sae.atoms[None]), tied=True)
    ensemble.decoder_bias = torch.tensor(sae.decoder_bias[None])
    pursuit, positive = Coder(ensemble, k, "omp"), Coder(ensemble, k, "omp", True)

    def encoder(X: np.ndarray) -> np.ndarray:
        return sae.encode(X) @ sae.atoms + sae.decoder_bias

    def lstsq(X: np.ndarray) -> np.ndarray:
        codes, samples = sae.encode(X), torch.from_numpy(X)
        n_active = np.diff(codes.indptr)
        rows = np.repeat(np.arange(len(X)), n_active)
        place = np.arange(codes.nnz) - codes.indptr[rows]
        support = np.zeros((len(X), int(n_active.max())), dtype=int)
        values = np.zeros(support.shape, dtype=codes.dtype)
        support[rows, place] = codes.indices
        values[rows, place] = codes.data
        own = SparseCodes(torch.from_numpy(values), torch.from_numpy(support))
        codes = refitted(own, samples, ensemble, positive=False)
        return pursuit.decode(codes).numpy()

    def omp(X: np.ndarray) -> np.ndarray:
        return pursuit.reconstruct(torch.from_numpy(X)).numpy()

    def positive_omp(X: np.ndarray) -> np.ndarray:
        return positive.reconstruct(torch.from_numpy(X)).numpy()

    return {
        "encoder": encoder,
        "lstsq": lstsq,
        "omp": omp,
        "omp, not negative": positive_omp,
    }


def fvu_by_coding(X: np.ndarray, sae: Peer, k: int) -> dict[str, float]:
    """FVU with each of the :func:`codings`."""
    blocks = np.array_split(X, max(1, len(X) // 2000))
    return {
        name: fvu(X, np.concatenate([reconstruct(block) for block in blocks]))
        for name, reconstruct in codings(sae, k).items()
    }


def reproducibility(dictionaries: list[np.ndarray]) -> list[dict[str, float]]:
    """Mean cosine of atoms with the nearest of the next seed's dictionary, and matched.

    The second, one to one, is not raised by copies of an atom.
    """
    following = dictionaries[1:] + dictionaries[:1]
    return [
        {"reproducibility": mmcs(*pair), "one to one": matched_cosine(*pair)}
        for pair in zip(dictionaries, following, strict=True)
    ]


def over_seeds(name: str, rows: list[dict[str, float]]) -> Row:
    """A row of a table: the name of a method, and cells with a value for each seed."""
    return {"method": name} | in_columns(rows)


def in_columns(rows: Sequence[Mapping[str, float | None]]) -> Row:
    """Cells with the values of all seeds."""
    return {column: {"values": [row[column] for row in rows]} for column in rows[0]}
