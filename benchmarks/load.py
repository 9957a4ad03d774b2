"""Very many fits, and very many steps of one.

``python -m benchmarks.load`` prints what each of three loads leaves behind; Linux only.

fits
    10,000 small estimators are fitted, used, pickled and dropped in one process.
    Printed are private memory (RssAnon) and what Python has allocated (tracemalloc)
    every so many fits: neither may grow.
search
    A grid search over 1,000 candidates in two processes: memory of this process and of
    its workers, before and after.
steps
    A day of training in minutes: very many steps on tiny data in one fit; a life in
    calls of ``partial_fit``; and steps from a state whose counters stand where integers
    of 32 bits and floats of 24 or 53 bits end.

``python -m benchmarks.load fits --fits 1000`` runs one of them, with other numbers.
"""

import argparse
import gc
import pickle
import tracemalloc
import warnings
from collections.abc import Iterator
from functools import partial
from time import perf_counter

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from benchmarks._results import Command, Row
from benchmarks.memory import private_bytes
from skmfr import MFRSparseAutoencoder

X = np.random.default_rng(0).standard_normal((64, 6))
# Largest counts of float32, of 32-bit integers and of float64.
COUNTERS = [2**24, 2**31, 2**53]


def small(**changes) -> MFRSparseAutoencoder:
    usual = {"n_components": 12, "k": 2, "max_steps": 2, "random_state": 0}
    return MFRSparseAutoencoder(**usual | changes)


def use_one(number: int) -> None:
    """Fit an estimator that differs from the last ones in shape and in what it does."""
    sae = small(
        n_components=8 + number % 5,
        n_saes=2 + number % 2,
        matching=("hungarian", "max")[number % 2],
        transform_algorithm=("encoder", "lstsq", "omp")[number % 3],
        tied=number % 4 == 0,
        random_state=number,
    )
    sae.fit(X).transform(X)
    if number % 10 == 0:
        pickle.loads(pickle.dumps(sae)).partial_fit(X).score(X)


def memory_of_fits(n_fits: int, every: int) -> Iterator[tuple[int, int, int]]:
    """Fits done, RssAnon and bytes that tracemalloc knows of, after every so many."""
    # Modules are loaded, and caches filled, by the first ones.
    for number in range(60):
        use_one(number)
    tracemalloc.start()
    for number in range(n_fits + 1):
        if number % every == 0:
            gc.collect()
            yield number, private_bytes(), tracemalloc.get_traced_memory()[0]
        use_one(number)
    tracemalloc.stop()


def fits(arguments: argparse.Namespace) -> Iterator[Row]:
    began = perf_counter()
    every = max(1, arguments.fits // 10)
    for number, private, traced in memory_of_fits(arguments.fits, every):
        yield {
            "fits": number,
            "RssAnon, MiB": private / 2**20,
            "tracemalloc, KiB": traced / 2**10,
            "seconds": perf_counter() - began,
        }


def search(arguments: argparse.Namespace) -> Iterator[Row]:
    grid = {"alpha": np.linspace(0, 1, arguments.candidates)}
    model = GridSearchCV(small(), grid, cv=2, n_jobs=2, error_score="raise")
    # Twice: the first starts the workers.
    for _ in range(2):
        began = perf_counter()
        model.fit(X)
        workers = joblib.Parallel(2)(joblib.delayed(private_bytes)() for _ in range(8))
        yield {
            "candidates": len(model.cv_results_["params"]),
            "RssAnon, MiB": private_bytes() / 2**20,
            "in the larger worker, MiB": max(workers) / 2**20,
            "scores finite": np.isfinite(model.cv_results_["mean_test_score"]).all(),
            "seconds": perf_counter() - began,
        }


def health(sae: MFRSparseAutoencoder) -> Row:
    """Distance of atoms from unit norm, and whether the rest is finite."""
    drift = np.abs(np.linalg.norm(sae.dictionaries_, axis=2) - 1).max()
    finite = all(
        np.isfinite(array).all()
        for array in (sae.loss_curve_, sae.transform(X), sae.encoder_weights_)
    )
    return {
        "steps": sae.n_steps_,
        "norms off 1 by": drift,
        "finite": finite,
        "FVU at first": sae.loss_curve_[:100].mean(),
        "FVU at last": sae.loss_curve_[-100:].mean(),
    }


def at_counters(n: int) -> MFRSparseAutoencoder:
    """An estimator that continues from a state with n steps in the counters of Adam."""
    sae = small(max_steps=200).partial_fit(X)
    for name, array in sae._training.items():
        if name.startswith("adam") and name.endswith(" step"):
            sae._training[name] = np.full_like(array, n)
        elif name == "idle":
            sae._training[name] = np.full_like(array, min(n, 2**53))
    for _ in range(200):
        sae.partial_fit(X)
    return sae


def one_fit(n_steps: int) -> MFRSparseAutoencoder:
    return small(max_steps=n_steps).fit(X)


def many_calls(n_calls: int) -> MFRSparseAutoencoder:
    sae = small()
    for _ in range(n_calls):
        sae.partial_fit(X)
    return sae


def steps(arguments: argparse.Namespace) -> Iterator[Row]:
    trained = {
        "one fit": partial(one_fit, arguments.steps),
        "calls of partial_fit": partial(many_calls, arguments.steps // 20),
        **{f"from step {n} of Adam": partial(at_counters, n) for n in COUNTERS},
    }
    for name, train in trained.items():
        began, memory = perf_counter(), private_bytes()
        sae = train()
        yield (
            {"training": name}
            | health(sae)
            | {
                "RssAnon grew by, MiB": (private_bytes() - memory) / 2**20,
                "seconds": perf_counter() - began,
            }
        )


LOADS = {"fits": fits, "search": search, "steps": steps}
DIGITS = {
    "RssAnon, MiB": 1,
    "tracemalloc, KiB": 0,
    "in the larger worker, MiB": 1,
    "norms off 1 by": None,
    "RssAnon grew by, MiB": 1,
    "seconds": 0,
}


def main() -> None:
    parser = Command("load", __doc__)
    parser.add_argument("loads", nargs="*", choices=[[], *LOADS], default=[])
    parser.add_argument("--fits", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments, report = parser.parse()
    # Fits of a few steps fail in every way that fits warn of.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for name in arguments.loads or LOADS:
        report(LOADS[name](arguments), {"loads": name}, DIGITS)


if __name__ == "__main__":
    main()
