"""Do the probabilities hold that atoms return, and the error rate of those trusted?

``python -m benchmarks.reappearance`` fits the same source several times, each time on
rows that no other fit sees and with another seed.  Each fit says of its atoms how
likely an independent fit finds them again (``skmfr.agreement.reappearance``), from its
own witnesses; the references of the other fits say whether they do, at cosine .8.

A row for each source: the share of atoms that *return*; the *mean* of the
probabilities; the expected calibration error (ECE, ten bins) and, *chance*, that of
probabilities that hold, with so many atoms; the Brier skill over the base rate; the
AUROC; and how many atoms ``trusted_atoms`` chooses at 5 % (``trusted_``) and at 10 %,
and the share of them that does not return.

Sources: ``superposition`` with as many atoms as features, with twice as many
(``excess``), with features of which most are rare (``rare``), with noise (``noise``)
and with 2,000 samples (``few``); ``digits``, of which there are 890 for each of two
fits; isotropic Gaussian ``noise alone``, and Gaussian surrogates with the covariance of
superposition and of digits, which have no features.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks import _data
from benchmarks._results import Command, Row
from skmfr import MFRSparseAutoencoder
from skmfr.agreement import nearest_atoms, reappearance, trusted_atoms
from skmfr.datasets import make_superposition

TAU = 0.8
N_BINS = 10
N_FEATURES = 24
N_TRUE = 48
RATES = (0.05, 0.1)
DIGITS = {"atoms": 0}


class Source(NamedTuple):
    parts: list[np.ndarray]
    """rows for each fit, (n_samples, n_features)"""
    n_components: int
    k: int


def parts_of(X: np.ndarray, n_fits: int, n_components: int, k: int) -> Source:
    shuffled = np.random.default_rng(0).permutation(X.astype(np.float32))
    n_rows = len(X) // n_fits
    parts = [shuffled[i * n_rows : (i + 1) * n_rows] for i in range(n_fits)]
    return Source(parts, n_components, k)


def superposed(n_fits: int, n_components=N_TRUE, n_rows=4000, **options) -> Source:
    usual = {"n_active": 3, "decay": 0.97}
    X, *_ = make_superposition(
        n_fits * n_rows, N_FEATURES, N_TRUE, random_state=0, **usual | options
    )
    return parts_of(X, n_fits, n_components, k=3)


def digits(n_fits: int) -> Source:
    # So few rows are left for each of more fits that hardly an atom returns.
    return parts_of(_data.digits(), min(n_fits, 2), 64, k=4)


def gaussian(n_fits: int) -> Source:
    X = np.random.default_rng(0).standard_normal((n_fits * 4000, N_FEATURES))
    return parts_of(X, n_fits, 64, k=3)


def surrogate(n_fits: int, source: Callable[[int], Source]) -> Source:
    """Gaussian rows with the covariance of another source's, as many."""
    parts, n_components, k = source(n_fits)
    values, axes = np.linalg.eigh(np.cov(np.concatenate(parts).T))
    draw = np.random.default_rng(0).standard_normal((n_fits * len(parts[0]), len(axes)))
    X = draw * np.sqrt(values.clip(0)) @ axes.T
    return parts_of(X, n_fits, n_components, k)


SOURCES: dict[str, Callable[[int], Source]] = {
    "superposition": superposed,
    "excess": partial(superposed, n_components=2 * N_TRUE),
    "rare": partial(superposed, n_components=64, decay=0.92),
    "noise": partial(superposed, n_components=64, noise=0.1),
    "few": partial(superposed, n_components=64, n_rows=2000),
    "digits": digits,
    "noise alone": gaussian,
    "surrogate of superposition": partial(surrogate, source=superposed),
    "surrogate of digits": partial(surrogate, source=digits),
}


def calibration_error(probability: np.ndarray, returns: np.ndarray) -> float:
    """Mean distance of probabilities from frequencies, in bins of the probability."""
    places = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    excess = np.bincount(places, probability - returns)
    return float(np.abs(excess).sum() / len(probability))


def chance_error(probability: np.ndarray, n_draws: int = 50) -> float:
    """The same where probabilities hold."""
    draw = np.random.default_rng(0).random((n_draws, len(probability)))
    errors = [calibration_error(probability, each < probability) for each in draw]
    return float(np.mean(errors))


def false_share(chosen: np.ndarray, returns: np.ndarray) -> float:
    return float(1 - returns[chosen].mean()) if chosen.any() else np.nan


def row(name: str, source: Source, n_steps: int, **witnesses) -> Row:
    fits = [
        MFRSparseAutoencoder(
            source.n_components,
            k=source.k,
            **witnesses,
            max_steps=n_steps,
            batch_size=128,
            random_state=seed,
        ).fit(part)
        for seed, part in enumerate(source.parts)
    ]
    # Of each atom of a fit, with each other fit.
    said, told = [], []
    chosen: dict[float, list[np.ndarray]] = {rate: [] for rate in RATES}
    for fit in fits:
        probability, _ = reappearance(fit, TAU)
        sets = {rate: trusted_atoms(fit, rate, TAU) for rate in RATES}
        for other in fits:
            if other is not fit:
                cosine, _ = nearest_atoms(fit.components_, other.components_)
                said.append(probability)
                told.append(cosine >= TAU)
                for rate in RATES:
                    chosen[rate].append(sets[rate])
    p, returns = np.concatenate(said), np.concatenate(told)
    base = returns.mean()
    differ = 0 < base < 1
    skill = 1 - np.mean((p - returns) ** 2) / (base * (1 - base)) if differ else np.nan
    cells = {
        "data": name,
        "atoms": len(fits) * source.n_components,
        "return": base,
        "mean": p.mean(),
        "ECE": calibration_error(p, returns),
        "chance": chance_error(p),
        "Brier skill": skill,
        "AUROC": roc_auc_score(returns, p) if differ else np.nan,
    }
    for rate, parts in chosen.items():
        members = np.concatenate(parts)
        cells[f"at {rate:g}"] = members.mean()
        cells[f"false, at {rate:g}"] = false_share(members, returns)
    return cells


def main() -> None:
    parser = Command("reappearance", __doc__)
    parser.add_argument("--fits", type=int, default=3, help="of each source")
    parser.add_argument("--witnesses", type=int, default=1, help="of each fit")
    parser.add_argument(
        "--rows", default="same", choices=["same", "disjoint"], help="of witnesses"
    )
    parser.add_argument("--steps", type=int, default=400, help="of each fit")
    parser.add_argument("--only", default="", help="regex of sources")
    arguments, report = parser.parse()
    rows = (
        row(
            name,
            make(arguments.fits),
            arguments.steps,
            n_witnesses=arguments.witnesses,
            witness_rows=arguments.rows,
        )
        for name, make in SOURCES.items()
        if re.search(arguments.only, name)
    )
    report(rows, {}, DIGITS)


if __name__ == "__main__":
    main()
