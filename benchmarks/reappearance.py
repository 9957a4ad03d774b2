"""Do the probabilities hold that atoms return, and the error rate of those trusted?

``python -m benchmarks.reappearance`` fits the same source several times, each time on
rows that no other fit sees and with another seed.  Each fit estimates for its atoms how
likely an independent fit finds them again (``skmfr.agreement.reappearance``), from its
own witnesses; the references of the other fits say whether they do, at cosine .8.

A row for each source: the share of atoms that *return*; the *mean* of the
probabilities; the expected calibration error (ECE, ten bins) and, *chance*, that of
probabilities that hold, with so many atoms; the Brier skill over the base rate; the
AUROC; and how many atoms ``trusted_atoms`` chooses at 5 % (``trusted_``) and at 10 %,
and the share of them that does not return.  Where features are known, *no feature* is
the share of the trusted atoms that are none of them (cosine below .9).

Sources: ``superposition`` with as many atoms as features, with twice as many
(``excess``), with mostly rare features (``rare``), with noise (``noise``)
and with 2,000 samples (``few``); ``digits``, 890 for each of two fits, dealt anew
sixteen times; isotropic Gaussian ``noise alone``, and Gaussian surrogates with the
covariance of superposition and of digits, which have no features; ``paper``, its
synthetic data.
Those with a path are made where it is given: ``stories260k`` (``--model``,
``--tokens``), activations of a small language model; ``smollm2`` (``--activations
FILE``, an ``.npy`` file of contexts of 128 tokens); ``eeg`` (``--eeg``), windows;
those of one fit never overlap those of another.

``--prior`` changes the weight of the atom that the calibration adds at each end.
``--cost`` measures what witnesses cost instead: CPU seconds of one fit each to noise.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from time import process_time
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks import _data
from benchmarks._results import Command, Row
from skmfr import MFRSparseAutoencoder
from skmfr._sae.reappearance import PRIOR, binned
from skmfr.agreement import nearest_atoms, reappearance, trusted_atoms
from skmfr.datasets import make_mfr_synthetic, make_superposition

TAU = 0.8
# Cosine with a known feature from which on an atom is that feature.
KNOWN = 0.9
N_FEATURES = 24
N_TRUE = 48
RATES = (0.05, 0.1)
DIGITS = {"atoms": 0}
# Number of tokens in each input of SmolLM2.
CONTEXT = 128
# Number of fits of 512 atoms, which have 2,000 together.
ENOUGH = 4
# Number of pairs of fits with 64 atoms, which have 2,000 together.
PAIRS = 16
# Windows of EEG in 10 s, and those at the end that overlap the next ones.
BLOCK, OVERLAP = 200, 20


# Features, atoms and active atoms of the fits whose cost is measured.
SIZES = ((64, 512, 8), (256, 1024, 16))
WITNESSES: dict[str, dict] = {
    "1": {"n_witnesses": 1},
    "2": {"n_witnesses": 2},
    "2, disjoint": {"n_witnesses": 2, "witness_rows": "disjoint"},
}


class Source(NamedTuple):
    deals: list[list[np.ndarray]]
    """ways to deal the rows; in each, rows for each fit, (n_samples, n_features)"""
    n_components: int
    k: int
    n_steps: int = 400
    batch_size: int = 128
    truth: np.ndarray | None = None
    """features that are known, (n_true, n_features)"""


def dealt(X: np.ndarray, n_fits: int, seed: int = 0) -> list[np.ndarray]:
    """Deal rows, or blocks of rows (n_blocks, n_rows, n_features), to fits."""
    shuffled = np.random.default_rng(seed).permutation(len(X))
    parts = [shuffled[i::n_fits][: len(X) // n_fits] for i in range(n_fits)]
    return [X[each].reshape(-1, X.shape[-1]).astype(np.float32) for each in parts]


def source_of(X: np.ndarray, n_fits: int, n_components: int, k: int, **size) -> Source:
    return Source([dealt(X, n_fits)], n_components, k, **size)


def superposed(n_fits: int, n_components=N_TRUE, n_rows=4000, **options) -> Source:
    usual = {"n_active": 3, "decay": 0.97}
    X, _, truth = make_superposition(
        n_fits * n_rows, N_FEATURES, N_TRUE, random_state=0, **usual | options
    )
    return source_of(X, n_fits, n_components, k=3, truth=truth)


def digits(n_fits: int) -> Source:
    X = _data.digits()
    # So few rows are left for each of more fits that hardly an atom returns.
    n_fits = min(n_fits, 2)
    return Source([dealt(X, n_fits, seed) for seed in range(PAIRS)], 64, k=4)


def gaussian(n_fits: int) -> Source:
    X = np.random.default_rng(0).standard_normal((n_fits * 4000, N_FEATURES))
    return source_of(X, n_fits, 64, k=3)


def surrogate(n_fits: int, source: Callable[[int], Source]) -> Source:
    """Gaussian rows with the covariance of another source's, as many."""
    given = source(n_fits)
    parts = given.deals[0]
    covariance = np.cov(np.concatenate(parts).T)
    X = _data.gaussian(covariance, n_fits * len(parts[0]), seed=0)
    return source_of(X, n_fits, given.n_components, given.k)


def paper(n_fits: int) -> Source:
    n_fits = min(n_fits, ENOUGH // 2)
    X, _, truth = make_mfr_synthetic(n_fits * 100_000, dtype=np.float32, random_state=0)
    size = {"n_steps": 2000, "batch_size": 1024}
    return source_of(X, n_fits, 512, k=32, truth=truth, **size)


def stories(n_fits: int, model: Path, tokens: Path) -> Source:
    n_fits = min(n_fits, ENOUGH)
    windows, _ = _data.story_windows(tokens, n_held_out=1)
    X = _data.activations(model, "model.layers.2.mlp", windows[: n_fits * 256])
    blocks = X.reshape(-1, _data.WINDOW, X.shape[1])
    return source_of(blocks, n_fits, 512, k=8, n_steps=1000, batch_size=512)


def smollm2(n_fits: int, file: Path) -> Source:
    X = np.load(file, mmap_mode="r")
    # The first token of a context has most of the variance, and one direction.
    blocks = X.reshape(-1, CONTEXT, X.shape[1])[:, 1:]
    n_fits = min(n_fits, ENOUGH // 2)
    return source_of(blocks, n_fits, 1152, k=32, n_steps=400, batch_size=256)


def eeg(n_fits: int, folder: Path) -> Source:
    X = _data.eeg_windows(folder)
    n_blocks = len(X) // BLOCK
    blocks = X[: n_blocks * BLOCK].reshape(n_blocks, BLOCK, -1)[:, :-OVERLAP]
    return source_of(blocks, min(n_fits, ENOUGH), 512, k=6, n_steps=300, batch_size=128)


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
    "paper": paper,
}


def sources(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable]]:
    """Those that are chosen, and whose data are given."""
    given: dict[str, Callable[[int], Source]] = dict(SOURCES)
    if arguments.model and arguments.tokens:
        given["stories260k"] = partial(
            stories, model=arguments.model, tokens=arguments.tokens
        )
    if arguments.activations:
        given["smollm2"] = partial(smollm2, file=arguments.activations)
    if arguments.eeg:
        given["eeg"] = partial(eeg, folder=arguments.eeg)
    for name, make in given.items():
        if re.search(arguments.only, name):
            yield name, make


def calibration_error(probability: np.ndarray, returns: np.ndarray) -> float:
    """Mean distance of probabilities from frequencies, in bins of the probability."""
    mean, share, n_atoms = binned(probability, returns)
    return float(np.average(np.abs(mean - share), weights=n_atoms))


def chance_error(probability: np.ndarray, n_draws: int = 50) -> float:
    """The same where probabilities hold."""
    draw = np.random.default_rng(0).random((n_draws, len(probability)))
    errors = [calibration_error(probability, each < probability) for each in draw]
    return float(np.mean(errors))


def false_share(chosen: np.ndarray, returns: np.ndarray) -> float:
    return float(1 - returns[chosen].mean()) if chosen.any() else np.nan


def fitted(source: Source, X: np.ndarray, seed: int, **parameters):
    return MFRSparseAutoencoder(
        source.n_components,
        k=source.k,
        max_steps=source.n_steps,
        batch_size=source.batch_size,
        random_state=seed,
        **parameters,
    ).fit(X)


def row(name: str, source: Source, n_rows: int | None, **parameters) -> Row:
    # Probabilities of a fit's atoms, and whether another fit on the same deal has them.
    said, told = [], []
    chosen: dict[float, list[np.ndarray]] = {rate: [] for rate in RATES}
    unknown: list[np.ndarray] = []
    seeds = count()
    for parts in source.deals:
        fits = [
            fitted(source, part[:n_rows], next(seeds), **parameters) for part in parts
        ]
        for fit in fits:
            probability, _ = reappearance(fit, TAU)
            sets = {rate: trusted_atoms(fit, rate, TAU) for rate in RATES}
            if source.truth is not None and fit.trusted_.any():
                cosine, _ = nearest_atoms(fit.components_[fit.trusted_], source.truth)
                unknown.append(cosine < KNOWN)
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
        "fits": (n_fits := next(seeds)),
        "atoms": n_fits * source.n_components,
        "steps": source.n_steps,
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
    cells["no feature"] = np.concatenate(unknown).mean() if unknown else np.nan
    return cells


def cpu_seconds(n_features: int, n_components: int, k: int, **parameters) -> float:
    """Of one fit to noise."""
    X = np.random.default_rng(0).standard_normal((16_384, n_features))
    usual = {"k": k, "max_steps": 100, "random_state": 0}
    sae = MFRSparseAutoencoder(n_components, **usual | parameters)
    began = process_time()
    sae.fit(X.astype(np.float32))
    return process_time() - began


def costs() -> Iterator[Row]:
    """CPU seconds of fits with witnesses, beside those of the group alone."""
    for size in SIZES:
        # The first fit compiles.
        cpu_seconds(*size, max_steps=1)
        alone = cpu_seconds(*size, n_witnesses=0)
        for name, witnesses in WITNESSES.items():
            cost = cpu_seconds(*size, **witnesses)
            yield {
                "size": ", ".join(map(str, size)),
                "witnesses": name,
                "CPU s": cost,
                "beside the group alone": cost / alone,
            }


def main() -> None:
    parser = Command("reappearance", __doc__)
    parser.add_argument("--fits", type=int, default=5, help="of each source")
    parser.add_argument("--n-rows", type=int, help="of each fit, instead of all")
    parser.add_argument("--witnesses", type=int, default=2, help="of each fit")
    parser.add_argument(
        "--rows",
        default="auto",
        choices=["auto", "same", "disjoint"],
        help="of witnesses",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="stories260k")
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="for it, .npy")
    parser.add_argument(
        "--activations", type=Path, metavar="FILE", help="of SmolLM2, .npy"
    )
    parser.add_argument("--eeg", type=Path, metavar="DIR", help="folder of EDF files")
    parser.add_argument("--prior", type=float, default=PRIOR, help="of calibration")
    parser.add_argument("--cost", action="store_true", help="what witnesses cost")
    parser.add_argument("--only", default="", help="regex of sources")
    arguments, report = parser.parse()
    if arguments.cost:
        report(costs(), {}, {"CPU s": 1, "beside the group alone": 2})
        return
    rows = (
        row(
            name,
            make(arguments.fits),
            arguments.n_rows,
            n_witnesses=arguments.witnesses,
            witness_rows=arguments.rows,
        )
        for name, make in sources(arguments)
    )
    with patch("skmfr._sae.reappearance.PRIOR", arguments.prior):
        report(rows, {}, DIGITS)


if __name__ == "__main__":
    main()
