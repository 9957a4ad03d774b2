"""Fits that must not find features, to test the scores on.

Dictionaries that do not learn, and data without features (after arXiv 2602.14111).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks import _data
from benchmarks._methods import Problem, estimator, fvu_by_coding, in_columns
from benchmarks._peers import Peer
from benchmarks._results import Row
from skmfr._training import step
from skmfr.metrics import recall_precision

# Cosine with an atom from which on a feature counts as found.
TAU = 0.9
# Atoms of the soft-frozen decoder stay this near to their random start.
SOFT = 0.8


def frozen(cosine: float) -> AbstractContextManager:
    """Training in which atoms keep this cosine, at least, with their start."""
    original = step.update
    starts = {}

    def update(state, *arguments) -> None:
        if state.n_steps == 0:
            starts[id(state)] = state.ensemble.decoder.clone()
        original(state, *arguments)
        atoms, start = state.ensemble.decoder, starts[id(state)]
        along = (atoms * start).sum(-1, keepdim=True)
        across = atoms - along * start
        across /= across.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        nearest = cosine * start + (1 - cosine**2) ** 0.5 * across
        atoms.copy_(nearest.where(along < cosine, atoms))

    return patch.object(step, "update", update)


def shuffled(X: np.ndarray, seed: int) -> np.ndarray:
    """Each column in another order: the same values, and no correlation."""
    return np.random.default_rng(seed).permuted(X, axis=0)


def gaussian(X: np.ndarray, seed: int) -> np.ndarray:
    """Gaussian samples with the mean and covariance of X."""
    return (X.mean(0) + _data.gaussian(np.cov(X.T), len(X), seed)).astype(X.dtype)


class Control(NamedTuple):
    change: Callable[[], AbstractContextManager] = nullcontext
    data: Callable[[np.ndarray, int], np.ndarray] = lambda X, seed: X
    parameters: dict = {}


# SAEs that neither share atoms nor attract each other.
APART = {"share_atoms": False, "alpha": 0.0}
CONTROLS = {
    "trained": Control(),
    "frozen random decoder": Control(lambda: frozen(1.0), parameters=APART),
    "soft-frozen decoder": Control(lambda: frozen(SOFT), parameters=APART),
    "columns shuffled": Control(data=shuffled),
    "Gaussian, same covariance": Control(data=gaussian),
}


def controls(problems: Callable[[int], Problem], n_seeds: int) -> Iterator[Row]:
    """FVU, agreement and trust of each, and recall where features are known."""
    for name, control in CONTROLS.items():
        rows = []
        for seed in range(n_seeds):
            problem = problems(seed)
            X = control.data(problem.X, seed)
            X_test = control.data(problem.X_test, seed + 1)
            with control.change():
                sae = estimator(problem, seed, **control.parameters).fit(X)
            trained = Peer(sae.components_, sae.decoder_bias_, sae.transform, np.nan)
            fvu = fvu_by_coding(X_test, trained, problem.k)
            cells = {"FVU": fvu["encoder"], "OMP": fvu["omp"]}
            if problem.truth is not None:
                found = recall_precision(sae.components_, problem.truth, TAU)
                cells["recall"] = found[0]
            rows.append(
                cells
                | {
                    "agreement": sae.feature_agreement_.mean(),
                    "null": sae.agreement_null_,
                    "reappearance": sae.reappearance_.mean(),
                    "trusted": sae.trusted_.mean(),
                }
            )
        yield {"control": name} | in_columns(rows)
