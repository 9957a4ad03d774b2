"""Reconstruction of an unseen person in the paper's setting, for ``benchmarks.eeg``."""

import argparse
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks import _data, _methods
from benchmarks._eeg_baselines import flat
from benchmarks._methods import Problem, after_pca, ours, over_seeds
from benchmarks._peers import Peer
from benchmarks._results import Row
from benchmarks.recovery import N_COMPONENTS
from skmfr.metrics import fvu


def paper_windows(path: Path, hop: float) -> np.ndarray:
    """As the paper has them: windows of 1 s of all channels, 100 Hz, flattened."""
    raw = _data.eegmat(path)
    raw.filter(
        0.5,
        45.0,
        method="iir",
        iir_params={"order": 5, "ftype": "butter"},
        verbose="error",
    )
    raw.apply_function(_data.standardised, verbose="error")
    signals = raw.resample(100.0, verbose="error").get_data()
    return flat(_data.cut(signals, 100, round(100 * hop))).astype(np.float32)


def of_unseen_people(arguments: argparse.Namespace) -> Iterator[Row]:
    """FVU of people left out; a column for each."""
    paths = sorted((arguments.data / "eegmat").glob("*.edf"))
    people = sorted({path.stem.split("_")[0] for path in paths})

    def problem(person: str) -> Problem:
        X, X_test = (
            np.concatenate(
                [
                    paper_windows(path, hop)
                    for path in paths
                    if path.stem.startswith(person) == is_test
                ]
            )
            for hop, is_test in ((0.1, False), (1.0, True))
        )
        return Problem(X, X_test, None, 512, 6, arguments.steps, 1024)

    methods = {
        "paper, lr=0.01": _methods.paper(),
        "paper, lr=0.001": _methods.paper(learning_rate=1e-3),
        "ours": ours(),
        "ours, for OMP": ours(transform_algorithm="omp"),
        f"ours, {N_COMPONENTS} principal components, for OMP": after_pca(
            N_COMPONENTS, transform_algorithm="omp"
        ),
    }

    def error(problem: Problem, sae: Peer) -> float:
        X_hat = sae.encode(problem.X_test) @ sae.atoms + sae.decoder_bias
        return fvu(problem.X_test, X_hat)

    problems = {person: problem(person) for person in people}
    for name in filter(partial(re.search, arguments.only), methods):
        rows = []
        for seed in range(arguments.seeds):
            began = perf_counter()
            row = {
                person: error(each, methods[name](each, seed).sae)
                for person, each in problems.items()
            }
            seconds = (perf_counter() - began) / len(problems)
            row |= {"FVU": float(np.mean(list(row.values()))), "seconds": seconds}
            rows.append(row)
        yield over_seeds(name, rows)
