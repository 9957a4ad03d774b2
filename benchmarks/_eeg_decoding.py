"""Classification before and after denoising, for ``benchmarks.eeg``."""

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from benchmarks import _data
from benchmarks._eeg_methods import FRONTAL
from benchmarks._results import Row
from skmfr.eeg import EEGDenoiser, find_artifacts, score_atoms

CSP_BAND = (7.0, 30.0)


class Task(NamedTuple):
    """A recording to denoise, and what is classified in it."""

    raw: object
    epochs: Callable[[object], tuple[np.ndarray, np.ndarray]]
    """From a recording to (n_epochs, n_channels, n_times) and classes"""
    pipelines: dict[str, BaseEstimator]


def fists(folder: Path) -> Task:
    """Left or right, moved (R03) or only in the mind (R04)."""
    import mne

    raw = _data.eegmmidb([folder / f"S001R{run:02d}.edf" for run in (3, 4)])
    raw.filter(1.0, None, verbose="error")

    def epochs(raw) -> tuple[np.ndarray, np.ndarray]:
        raw = raw.copy().filter(*CSP_BAND, verbose="error")
        events, _ = mne.events_from_annotations(
            raw, {"T1": 0, "T2": 1}, verbose="error"
        )
        made = mne.Epochs(
            raw, events, tmin=0.5, tmax=3.5, baseline=None, verbose="error"
        )
        return 1e6 * made.get_data(verbose="error"), made.events[:, 2]

    csp = make_pipeline(
        mne.decoding.CSP(4, reg="ledoit_wolf"), LinearDiscriminantAnalysis()
    )
    return Task(raw, epochs, {"CSP, LDA": csp, **riemannian()})


def eyes(folder: Path) -> Task:
    """Open (R01) or closed (R02), in pieces of 2 s."""
    raw = _data.eegmmidb([folder / f"S001R{run:02d}.edf" for run in (1, 2)])
    raw.filter(1.0, None, verbose="error")
    border = raw.annotations.onset[
        [description == "BAD boundary" for description in raw.annotations.description]
    ]
    (seconds,) = border - raw.first_time

    def epochs(raw) -> tuple[np.ndarray, np.ndarray]:
        middle, length = (
            round(seconds * raw.info["sfreq"]),
            round(2 * raw.info["sfreq"]),
        )
        signals = 1e6 * raw.get_data()
        parts = [
            _data.cut(part, length, length)
            for part in (signals[:, :middle], signals[:, middle:])
        ]
        return np.concatenate(parts), np.repeat([0, 1], list(map(len, parts)))

    def log_power(X: np.ndarray) -> np.ndarray:
        """Of delta, theta, alpha, beta, and gamma up to 45 Hz, channel by channel."""
        freqs = np.fft.rfftfreq(X.shape[-1], 1 / raw.info["sfreq"])
        power = np.abs(np.fft.rfft(X)) ** 2
        edges = np.searchsorted(freqs, (1, 4, 8, 13, 30, 45))
        bands = np.add.reduceat(power, edges, axis=-1)[..., :-1]
        return np.log(bands).reshape(len(X), -1)

    powers = make_pipeline(
        FunctionTransformer(log_power), StandardScaler(), LogisticRegression()
    )
    return Task(
        raw, epochs, {"band power, logistic regression": powers, **riemannian()}
    )


def riemannian() -> dict[str, BaseEstimator]:
    if find_spec("pyriemann") is None:
        print("pyriemann is not installed: no tangent space", file=sys.stderr)
        return {}
    from pyriemann.estimation import Covariances
    from pyriemann.tangentspace import TangentSpace

    pipeline = make_pipeline(Covariances("oas"), TangentSpace(), LogisticRegression())
    return {"tangent space, logistic regression": pipeline}


def corrected_interval(differences: np.ndarray, test_share: float) -> tuple:
    """95 % for a mean over splits that overlap (Nadeau and Bengio 2003)."""
    n = len(differences)
    variance = np.var(differences, ddof=1) * (1 / n + test_share / (1 - test_share))
    half = student.ppf(0.975, n - 1) * np.sqrt(variance)
    return differences.mean() - half, differences.mean() + half


def decoded(arguments: argparse.Namespace) -> Iterator[Row]:
    """Accuracy before and after, of the same splits."""
    import mne

    mne.set_log_level("error")
    n_folds = 5
    cv = RepeatedStratifiedKFold(
        n_splits=n_folds, n_repeats=arguments.repeats, random_state=0
    )
    tasks = {"left or right fist": fists, "eyes open or closed": eyes}
    for name in filter(partial(re.search, arguments.only), tasks):
        task = tasks[name](arguments.data / "eegmmidb")
        denoiser = EEGDenoiser(random_state=0).fit(task.raw)
        artefacts = find_artifacts(score_atoms(denoiser, task.raw, channels=FRONTAL))
        ways = {
            "reconstruction": (None, denoiser.transform),
            "ocular atoms removed": (
                len(artefacts),
                partial(denoiser.apply, exclude=artefacts.index),
            ),
        }
        for classifier, pipeline in task.pipelines.items():

            def accuracy(raw, task=task, pipeline=pipeline) -> np.ndarray:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return cross_val_score(pipeline, *task.epochs(raw), cv=cv)

            before = accuracy(task.raw)
            for way, (n_atoms, denoise) in ways.items():
                after = accuracy(denoise(task.raw))
                low, high = corrected_interval(after - before, 1 / n_folds)
                yield {
                    "task": name,
                    "classifier": classifier,
                    "denoised by": way,
                    "atoms": n_atoms,
                    "before": before.mean(),
                    "after": after.mean(),
                    "difference (95 %)": {
                        "value": np.mean(after - before),
                        "low": low,
                        "high": high,
                    },
                }
