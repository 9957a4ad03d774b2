"""Other ways to dictionaries that return, with the same data, steps, atoms and code.

*Aligned*: after each step the encoder of an atom has product 1 with the atom
(arXiv 2605.18629).  *Mean of the group*: three SAEs that train apart are matched, one
to one, and matched atoms with a cosine above .5 are averaged, encoders too.  *Two side
by side*: two SAEs of half as many atoms, each with half of k; the second learns the
residual of the first.  *Batchtopk*: k is the mean number of active atoms of a batch
(BatchTopK, arXiv 2412.06410), in the last fifth of the steps or from the first step.
*Nested*: the first eighth, quarter and half of the atoms also describe the data alone
(Matryoshka, arXiv 2503.17547).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from math import inf
from time import perf_counter
from unittest.mock import patch

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.preprocessing import normalize

from benchmarks._methods import Fitted, Problem, estimator, ours
from benchmarks._peers import Peer
from skmfr._sae.codes import SparseCodes
from skmfr._sae.ensemble import Ensemble
from skmfr._training import objective, schedule, step
from skmfr.agreement import feature_agreement

ALONE = {"n_saes": 1, "n_witnesses": 1}
# Shares of the atoms that describe the data alone.
NESTED = (1 / 8, 1 / 4, 1 / 2, 1)
# A cosine above which matched atoms are averaged.
ALIKE = 0.5


def aligned() -> AbstractContextManager:
    """Training after whose steps each atom has product 1 with its encoder."""
    original = step.update

    def update(state, *arguments) -> None:
        original(state, *arguments)
        encoder, atoms = state.ensemble.encoder, state.ensemble.decoder
        product = (encoder * atoms).sum(-1, keepdim=True)
        encoder.add_((1 - product) * atoms)

    return patch.object(step, "update", update)


def encoders_not_penalised() -> AbstractContextManager:
    """Training without the penalty on encoders, which is a default."""
    return patch.object(schedule, "ENCODER_PENALTY", 0.0)


def nested_reconstruction_(
    gradients: objective.Gradients,
    X_centred: torch.Tensor,
    codes: SparseCodes,
    ensemble: Ensemble,
    total_variance: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of the mean FVU of the first atoms, for each share of them.

    Parameters and results are those of :func:`.objective.reconstruction_`; the FVU and
    the residual that are returned are those of all atoms.
    """
    scale = X_centred.shape[1] * total_variance
    target, n_components = X_centred.flatten(0, 1), ensemble.n_components
    ends = torch.tensor([round(share * n_components) for share in NESTED])
    # The smallest part that has the atom of a code; all larger ones have it, too.
    part = torch.bucketize(codes.indices % n_components, ends, right=True)
    ways = [
        objective.Backward.of(
            SparseCodes(codes.values * (part <= number), codes.indices),
            target,
            ensemble,
            scale,
        )
        for number in range(len(ends))
    ]
    whole = ways[-1]
    d_codes = sum(way.d_codes for way in ways) / len(ends)
    whole._replace(d_codes=d_codes).to_encoder_(gradients, X_centred)
    # An atom learns from the residuals of all parts that have it.
    residuals = torch.stack([way.residual for way in ways]) / len(ends)
    residuals = residuals.flip(0).cumsum(0).flip(0)
    entries = whole.entries
    rows = entries.sort(part) * len(target) + entries.rows
    learned = whole._replace(
        residual=residuals.flatten(0, 1), entries=entries._replace(rows=rows)
    )
    learned.to_decoder_(gradients)
    objective._to_decoder_bias_(
        gradients,
        whole._replace(residual=residuals[0]),
        gradients.encoder_bias,
        ensemble,
        scale,
    )
    return objective._fvu(whole.residual, len(ensemble), scale), whole.residual


def nested() -> AbstractContextManager:
    """Training in which first parts of the dictionary describe the data, too."""
    return patch.object(step, "reconstruction_", nested_reconstruction_)


def changed(
    change: Callable[[], AbstractContextManager], fit: Callable[[Problem, int], Fitted]
) -> Callable[[Problem, int], Fitted]:
    def fit_changed(problem: Problem, seed: int) -> Fitted:
        with change():
            return fit(problem, seed)

    return fit_changed


def mean_of_matched(atoms: np.ndarray, others: np.ndarray, encoders: np.ndarray):
    """Atoms and encoders, averaged with those that are alike in other dictionaries.

    Parameters
    ----------
    atoms : ndarray of shape (n_components, n_features)
    others : ndarray of shape (n_others, n_components, n_features)
    encoders : ndarray of shape (1 + n_others, n_components, n_features)
        Those of the atoms first.

    Returns
    -------
    atoms, encoder : ndarray of shape (n_components, n_features)
    """
    total, encoder = atoms.copy(), encoders[0].copy()
    n_alike = np.ones((len(atoms), 1))
    for dictionary, of_it in zip(others, encoders[1:], strict=True):
        cosines = atoms @ dictionary.T
        own, partner = linear_sum_assignment(cosines, maximize=True)
        alike = (cosines[own, partner] > ALIKE)[:, None]
        total += np.where(alike, dictionary[partner], 0)
        encoder += np.where(alike, of_it[partner], 0)
        n_alike += alike
    return normalize(total), encoder / n_alike


def mean_of_group(problem: Problem, seed: int) -> Fitted:
    began = perf_counter()
    sae = estimator(problem, seed, alpha=0.0, share_atoms=False).fit(problem.X)
    first = sae.reference_sae_
    order = [first, *(i for i in range(sae.n_saes) if i != first)]
    dictionaries = sae.dictionaries_[order]
    sae.components_, sae.encoder_weights_ = mean_of_matched(
        dictionaries[0], dictionaries[1:], sae._training["encoder"][order]
    )
    seconds = perf_counter() - began
    trained = Peer(sae.components_, sae.decoder_bias_, sae.transform, seconds)
    agreement = feature_agreement(sae.components_, sae.witness_dictionaries_)
    return Fitted(trained, agreement)


def side_by_side(problem: Problem, seed: int) -> Fitted:
    began = perf_counter()
    half = problem._replace(
        n_components=problem.n_components // 2, k=max(1, problem.k // 2)
    )
    first = estimator(half, seed, **ALONE).fit(problem.X)
    left = problem.X - first.reconstruct(problem.X)
    second = estimator(half, seed + 1000, **ALONE).fit(left)
    seconds = perf_counter() - began

    def encode(X: np.ndarray) -> sparse.csr_array:
        left = X - first.reconstruct(X)
        return sparse.hstack([first.transform(X), second.transform(left)], "csr")

    trained = Peer(
        np.concatenate([first.components_, second.components_]),
        first.decoder_bias_ + second.decoder_bias_,
        encode,
        seconds,
    )
    agreement = [sae.feature_agreement_ for sae in (first, second)]
    return Fitted(trained, np.concatenate(agreement))


def shared_from_the_first_step(**parameters) -> Callable[[Problem, int], Fitted]:
    def change() -> AbstractContextManager:
        return patch.object(schedule, "FINISH", inf)

    return changed(change, ours(activation="batchtopk", **parameters))


def rivals(n_steps: int) -> Iterator[tuple[str, Callable[[Problem, int], Fitted]]]:
    one, shared = ours(**ALONE), shared_from_the_first_step(**ALONE)
    yield "one SAE", one
    yield "three SAEs, alpha=0", ours(alpha=0.0)
    yield "three SAEs, default", ours()
    yield "one SAE, three times the steps", ours(**ALONE, max_steps=3 * n_steps)
    yield "aligned", changed(aligned, one)
    yield "encoders not penalised", changed(encoders_not_penalised, one)
    yield "mean of the group", mean_of_group
    yield "two side by side", side_by_side
    yield "batchtopk", ours(**ALONE, activation="batchtopk")
    yield "batchtopk from the first step", shared
    yield "nested", changed(nested, one)
    # Both, as in the Matryoshka SAEs of other packages.
    yield "nested, batchtopk from the first step", changed(nested, shared)
