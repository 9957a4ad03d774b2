"""Does it denoise EEG, compared with what is used for that, and at what cost?

``python -m benchmarks.eeg single --data DIR`` mixes clean single-channel epochs with
ocular or muscular artefacts and prints a row for each way to get them out again, with
errors on epochs of people that training has not seen: mean and standard deviation over
splits.  ``multi`` does the same with 19 channels and ocular topographies, ``muscles``
with muscular ones, ``kept`` asks
what is left of the brain where nobody has clean signals, ``real`` what is taken out of
recordings as they are, clean ones among them, ``paper`` reconstructs an
unseen person in the paper's setting, ``decode`` classifies before and after denoising,
``speed`` measures time and memory.

DIR has the folders ``eegmat`` and ``eegmmidb``, EDF files of PhysioNet, and
``semisim``, epochs to mix: see ``docs/eeg_benchmark.md``.  Rows whose package is not
installed (pywavelets, mne-denoise, mne-icalabel, gedai, pyriemann) are left out, with a
message.
"""

import argparse
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from benchmarks import _data, _eeg_kept, _eeg_network, _eeg_peers, _methods
from benchmarks import _eeg_baselines as baselines
from benchmarks._methods import DIGITS, Problem, after_pca, ours, over_seeds
from benchmarks._peers import Peer
from benchmarks._results import Command, Report, Row
from benchmarks.memory import PeakMemory, in_own_process
from benchmarks.recovery import N_COMPONENTS
from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_noisy_eeg
from skmfr.eeg import (
    EEGDenoiser,
    atom_waveforms,
    correlation,
    find_artifacts,
    rrmse_s,
    rrmse_t,
    score_atoms,
)
from skmfr.eeg._artifacts import leading_vectors
from skmfr.metrics import fvu

SFREQ = baselines.SFREQ
# Mixtures of each clean epoch, in training and in test.
N_REPEATS = 2
# Of people, and of runs of the ocular artefacts, the share that is held out.
HELD_OUT = 0.2
N_FOLDS = 4
N_ATOMS = 128
CSP_BAND = (7.0, 30.0)
# Muscles are near these, so many metres off, and reach so far.
MUSCLES = ["T7", "T8", "F7", "F8", "Fp1", "Fp2"]
AROUND_SITE, REACH = 0.015, 0.03
# They replace an EOG.
FRONTAL = ["Fp1", "Fpz", "Fp2"]


class Split(NamedTuple):
    """Mixtures to learn from, and others of people and artefacts not among them."""

    noisy: np.ndarray
    """(n_epochs, n_channels, n_times), float32"""
    clean: np.ndarray
    groups: np.ndarray
    """(n_epochs,): two groups share neither a person nor a source of artefacts"""
    noisy_test: np.ndarray
    clean_test: np.ndarray


class Pool(NamedTuple):
    """Epochs, and what must not be on both sides of a split."""

    X: np.ndarray
    groups: np.ndarray

    def thinned(self, most: int | None) -> "Pool":
        """At most so many epochs of each group."""
        chosen = np.concatenate(
            [np.flatnonzero(self.groups == group)[:most] for group in set(self.groups)]
        )
        return Pool(self.X[np.sort(chosen)], self.groups[np.sort(chosen)])


def mix(clean: Pool, noise: Pool, held_out: tuple, normalise: bool, seed: int) -> Split:
    """Mix inside each fold of training, and what is held out by itself.

    Parameters
    ----------
    clean, noise : Pool
    held_out : (groups of clean, groups of noise)
    normalise : bool
        Whether each mixture is divided by its standard deviation.
    seed : int
    """
    pools, draw = (clean, noise), np.random.default_rng(seed)

    def mixed(wanted, number: int) -> list[np.ndarray]:
        parts = [
            pool.X[np.isin(pool.groups, groups)]
            for pool, groups in zip(pools, wanted, strict=True)
        ]
        random_state = int(np.random.default_rng((seed, number)).integers(2**31))
        return make_noisy_eeg(
            *parts,
            n_repeats=N_REPEATS,
            normalise=normalise,
            random_state=random_state,
        )[:2]

    left = [
        draw.permutation(np.setdiff1d(pool.groups, out))
        for pool, out in zip(pools, held_out, strict=True)
    ]
    n_folds = min(N_FOLDS, *map(len, left))
    folds = [mixed([groups[i::n_folds] for groups in left], i) for i in range(n_folds)]
    noisy, targets = map(np.concatenate, zip(*folds, strict=True))
    numbers = np.repeat(np.arange(n_folds), [len(fold[0]) for fold in folds])
    return Split(noisy, targets, numbers, *mixed(held_out, n_folds))


def drawn(groups: np.ndarray, seed: int) -> np.ndarray:
    """Some groups to hold out."""
    unique = np.unique(groups)
    n_out = max(1, round(HELD_OUT * len(unique)))
    return np.random.default_rng(seed).permutation(unique)[:n_out]


def single_split(
    folder: Path, artefact: str, seed: int, normalise: bool, most: int | None
) -> Split:
    """Of epochs of one channel, 2 s.

    Of the ocular artefacts, those of an EEG recording are split by run, whatever the
    direction of the eyes; the in-ear recording, a single run, is always in training.
    Of the muscular ones, people are held out in turn.
    """
    files = [
        np.load(folder / "semisim" / f"{name}_epochs.npz")
        for name in ("clean_eeg", artefact.lower())
    ]
    if artefact == "EOG":
        # Of its two components the runs are the same recordings; the in-ear one is 0.
        sources = files[1]["run"]
        noise_out = drawn(sources[sources != 0], seed)
    else:
        sources = files[1]["subject"]
        people = np.unique(sources)
        noise_out = people[[seed % len(people)]]
    pools = [
        Pool(file["X"][:, None], groups)
        for file, groups in zip(files, (files[0]["subject"], sources), strict=True)
    ]
    clean = pools[0].thinned(most)
    held_out = drawn(clean.groups, seed), noise_out
    return mix(clean, pools[1], held_out, normalise, seed)


def multi_split(
    folder: Path, seed: int, normalise: bool, most: int | None, artefact: str = "EOG"
) -> tuple[Split, np.ndarray | None, list[str]]:
    """Of epochs of 19 channels, 1 s, with average reference; people in turn.

    Returns
    -------
    split : Split
    topographies : ndarray of shape (2, n_channels), or None
        Of ocular artefacts; muscular ones have one each.
    ch_names : list of str
    """
    epochs, people = [], []
    for path in sorted((folder / "eegmat").glob("*.edf")):
        raw = _data.eegmat(path).resample(SFREQ, verbose="error")
        raw.set_eeg_reference("average", verbose="error")
        part = _data.cut(1e6 * raw.get_data(), int(SFREQ), int(SFREQ))
        epochs.append(part.astype(np.float32))
        people += [path.stem.split("_")[0]] * len(part)
    clean = Pool(np.concatenate(epochs), np.array(people))
    names = np.unique(clean.groups)
    person = names[[seed % len(names)]]
    topographies = None
    if artefact == "EOG":
        noise, topographies = ocular_artefacts(folder, raw.ch_names)
        noise_out = drawn(noise.groups, seed)
    else:
        noise = muscular_artefacts(folder, raw.ch_names)
        people = np.unique(noise.groups)
        noise_out = people[[seed % len(people)]]
    return (
        mix(clean.thinned(most), noise, (person, noise_out), normalise, seed),
        topographies,
        raw.ch_names,
    )


def ocular_artefacts(folder: Path, ch_names: list[str]) -> tuple[Pool, np.ndarray]:
    """Artefacts of the eyes in all channels, by run, and their two topographies."""
    maps = np.load(folder / "semisim" / "ocular_topographies.npz")
    places = [list(maps["ch_names"]).index(name) for name in ch_names]
    topographies = np.stack([maps[name][places] for name in ("vEOG", "hEOG")])
    topographies -= topographies.mean(1, keepdims=True)
    ocular = np.load(folder / "semisim" / "eog_epochs.npz")
    noise, runs = [], []
    for source, topography in zip(("vEOG", "hEOG"), topographies, strict=True):
        of_source = np.char.startswith(ocular["source"], f"{source}_S001")
        waves = ocular["X"][of_source].reshape(-1, int(SFREQ))
        noise.append(waves[:, None] * topography[:, None])
        runs.append(np.repeat(ocular["run"][of_source], len(waves) // of_source.sum()))
    return Pool(np.concatenate(noise), np.concatenate(runs)), topographies


def muscular_artefacts(folder: Path, ch_names: list[str]) -> Pool:
    """Artefacts of muscles in all channels, by person.

    Each is at a place of its own near `MUSCLES`, and falls off as a Gaussian.
    """
    rng = np.random.default_rng(0)
    positions = _data.template_positions().get_positions()["ch_pos"]
    emg = np.load(folder / "semisim" / "emg_epochs.npz")
    waves = emg["X"].reshape(-1, int(SFREQ))
    sites = np.array([positions[name] for name in MUSCLES])
    places = sites[rng.integers(len(sites), size=len(waves))]
    places = places + AROUND_SITE * rng.standard_normal(places.shape)
    channels = np.array([positions[name] for name in ch_names])
    squared = np.square(channels - places[:, None]).sum(2)
    topographies = np.exp(-squared / (2 * REACH**2))
    topographies -= topographies.mean(1, keepdims=True)
    signals = (waves[:, None] * topographies[:, :, None]).astype(np.float32)
    return Pool(signals, np.repeat(emg["subject"], len(waves) // len(emg["X"])))


Method = Callable[[Split, int], np.ndarray]


def fixed(denoise: baselines.Denoise) -> Method:
    return lambda split, seed: denoise(split.noisy_test)


def selected(family: baselines.Family) -> Method:
    """The best of a family by cross-validation on the training mixtures."""

    def method(split: Split, seed: int) -> np.ndarray:
        chosen, denoise = baselines.select(
            family, split.noisy, split.clean, split.groups
        )
        print(f"  chosen: {chosen}", file=sys.stderr)
        return denoise(split.noisy_test)

    return method


def unsupervised(**parameters) -> Method:
    def method(split: Split, seed: int) -> np.ndarray:
        denoiser = EEGDenoiser(sfreq=SFREQ, random_state=seed, **parameters)
        return denoiser.fit(split.noisy).transform(split.noisy_test)

    return method


def supervised(
    alpha: float | None = None, way: str = "transform", **parameters
) -> Method:
    def method(split: Split, seed: int) -> np.ndarray:
        denoiser = EEGDenoiser(sfreq=SFREQ, random_state=seed, **parameters)
        if alpha is not None:
            denoiser.sae = MFRSparseAutoencoder(
                n_components=N_ATOMS,
                k=8,
                alpha=alpha,
                max_steps=1000,
                random_state=seed,
            )
        denoiser.fit(split.noisy, split.clean, groups=split.groups)
        return getattr(denoiser, way)(split.noisy_test)

    return method


def convolutional(split: Split, seed: int) -> np.ndarray:
    return _eeg_network.trained(split.noisy, split.clean, seed)(split.noisy_test)


FIRST: dict[str, Method] = {
    "nothing": fixed(baselines.unchanged),
    "zeros": fixed(np.zeros_like),
    "Butterworth, 4 to 45 Hz": fixed(baselines.band(4, 45)),
    "Butterworth, chosen": selected(baselines.bands),
}
OURS: dict[str, Method] = {
    "ours": supervised(),
    "ours, alpha=0": supervised(alpha=0.0),
    "ours, trusted atoms only": supervised(trusted_only=True),
    "ours, no codes": supervised(exclude=range(N_ATOMS)),
}
SINGLE: dict[str, Method] = {
    **FIRST,
    "wavelet threshold": selected(baselines.wavelets),
    "singular spectrum (mne-denoise)": selected(baselines.singular_spectrum),
    "PCA of clean epochs": selected(baselines.principal_components),
    "dictionary learning, OMP": selected(baselines.dictionary),
    "Wiener filter": selected(baselines.wiener),
    "ridge": selected(baselines.ridge),
    "ridge, augmented": selected(baselines.ridge_augmented),
    "convolutional network": convolutional,
    "ours, without clean signals": unsupervised(),
    **OURS,
}


def little_sae() -> MFRSparseAutoencoder:
    """For `apply` with clean signals, whose result no SAE has a part in."""
    return MFRSparseAutoencoder(16, k=4, max_steps=20, random_state=0)


APPLIED: dict[str, Method] = {
    "ours, with clean signals, apply": supervised(way="apply", sae=little_sae())
}


def multi_methods(
    topographies: np.ndarray | None, ch_names: list[str]
) -> dict[str, Method]:
    """Without topographies, only what needs neither them nor frontal channels."""
    learned = {
        "spatial ridge": selected(baselines.spatial_ridge),
        "spatial ridge by frequency": selected(baselines.spatial_ridge_by_frequency),
        "convolutional network": convolutional,
    }
    if topographies is None:
        return {**FIRST, **learned, **APPLIED, **OURS}

    def ica(split: Split, seed: int) -> np.ndarray:
        seen = np.concatenate([split.noisy, split.noisy_test])
        family = baselines.independent_components(seen, ch_names, topographies, seed)
        return selected(family)(split, seed)

    frontal = [name for name in FRONTAL if name in ch_names]

    def peer(clean_up: _eeg_peers.Peer) -> Method:
        return lambda split, seed: clean_up(split.noisy_test, ch_names, frontal, seed)

    def atoms(split: Split, seed: int) -> np.ndarray:
        denoiser = EEGDenoiser(sfreq=SFREQ, random_state=seed).fit(split.noisy)
        patterns = leading_vectors(atom_waveforms(denoiser))[0]
        family = baselines.without_alike(patterns, topographies, denoiser.apply)
        return selected(family)(split, seed)

    return {
        **FIRST,
        "SSP, true topographies": fixed(baselines.projection(topographies)),
        "ICA, true topographies": ica,
        **{name: peer(clean_up) for name, clean_up in _eeg_peers.PEERS.items()},
        "ASR (mne-denoise)": selected(baselines.artifact_subspace),
        **learned,
        "ours, without atoms like the topographies": atoms,
        **APPLIED,
        **OURS,
    }


def measure(split: Split, denoised: np.ndarray) -> dict[str, float]:
    pair = split.clean_test, denoised
    return {
        "RRMSE_t": float(rrmse_t(*pair).mean()),
        "RRMSE_s": float(rrmse_s(*pair).mean()),
        "CC": float(correlation(*pair).mean()),
    }


def compared(
    methods: dict[str, Method], splits: list[Split], only: str
) -> Iterator[Row]:
    """A row for each method, with errors of each split."""
    for name in filter(partial(re.search, only), methods):
        print(name, file=sys.stderr)
        rows = []
        try:
            for seed, split in enumerate(splits):
                began = perf_counter()
                denoised = methods[name](split, seed)
                seconds = perf_counter() - began
                rows.append(measure(split, denoised) | {"seconds": seconds})
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        yield over_seeds(name, rows)


def single(arguments: argparse.Namespace, report: Report) -> None:
    for artefact in arguments.artefacts:
        splits = [
            single_split(
                arguments.data,
                artefact,
                seed,
                not arguments.microvolts,
                arguments.most,
            )
            for seed in range(arguments.seeds)
        ]
        print_sizes(splits)
        report(
            compared(SINGLE, splits, arguments.only),
            {"table": "single", "artefacts": artefact},
            DIGITS,
        )


def multi(arguments: argparse.Namespace, report: Report) -> None:
    artefact = "EOG" if arguments.table == "multi" else "EMG"
    made = [
        multi_split(
            arguments.data,
            seed,
            not arguments.microvolts,
            arguments.most,
            artefact,
        )
        for seed in range(arguments.seeds)
    ]
    splits = [split for split, *_ in made]
    print_sizes(splits)
    methods = multi_methods(*made[0][1:])
    rows = compared(methods, splits, arguments.only)
    report(rows, {"table": arguments.table}, DIGITS, append=True)


def kept(arguments: argparse.Namespace, report: Report) -> None:
    digits = DIGITS | {"P3 later, ms": 0, "CPU seconds": 1}
    report(rows_of_kept(arguments), {"table": "kept"}, digits, append=True)


def rows_of_kept(arguments: argparse.Namespace) -> Iterator[Row]:
    """Brain signal that each way to denoise leaves, person by person."""
    recordings, splits = [], []
    for seed in range(arguments.seeds):
        split, topographies, names = multi_split(
            arguments.data, seed, False, arguments.most
        )
        splits.append(split)
        once = slice(None, None, N_REPEATS)
        pair = split.clean_test[once], split.noisy_test[once]
        recordings.append(_eeg_kept.partly_noisy(*pair, names, seed))
    frontal = [name for name in FRONTAL if name in names]

    @cache
    def learned(seed: int, little: bool = False) -> EEGDenoiser:
        noisy, clean, groups, *_ = splits[seed]
        sae = little_sae() if little else None
        denoiser = EEGDenoiser(sfreq=SFREQ, sae=sae, random_state=seed)
        return denoiser.fit(noisy, clean, groups=groups)

    methods: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "nothing": lambda X, seed: X,
        "zeros": lambda X, seed: np.zeros_like(X),
        "SSP, true topographies": lambda X, seed: baselines.projection(topographies)(X),
        **{
            name: lambda X, seed, clean_up=clean_up: clean_up(X, names, frontal, seed)
            for name, clean_up in _eeg_peers.PEERS.items()
        },
        "ours, with clean signals of others": (
            lambda X, seed: learned(seed, little=True).apply(X)
        ),
        "ours, with clean signals of others, transform": (
            lambda X, seed: learned(seed).transform(X)
        ),
    }
    for name in filter(partial(re.search, arguments.only), methods):
        print(name, file=sys.stderr)
        rows = []
        try:
            for seed, recording in enumerate(recordings):
                began = process_time()
                row = _eeg_kept.measure(
                    lambda X, seed=seed, name=name: methods[name](X, seed),
                    recording,
                    SFREQ,
                )
                # Three times cleaned.
                rows.append(row | {"CPU seconds": (process_time() - began) / 3})
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        yield over_seeds(name, rows)


def real(arguments: argparse.Namespace, report: Report) -> None:
    report(of_whole_recordings(arguments), {"table": "real"}, DIGITS)


def of_whole_recordings(arguments: argparse.Namespace) -> Iterator[Row]:
    """Signal that is removed with ocular artefacts, from clean recordings too."""
    paths = sorted((arguments.data / "eegmat").glob("*.edf"))
    recordings = {path.stem: _data.eegmat(path) for path in paths}
    eyes = {"R02": "closed", "R01": "open", "R03": "open, task", "R04": "open, task"}
    for name, eyes_are in eyes.items():
        path = arguments.data / "eegmmidb" / f"S001{name}.edf"
        recordings[f"S001{name}, eyes {eyes_are}"] = _data.eegmmidb([path])
    ways = {
        "ICA": _eeg_peers.independent_components,
        "ours": _eeg_peers.without_found_atoms,
    }
    for name, raw in recordings.items():
        raw.resample(SFREQ, verbose="error").filter(1.0, 40.0, verbose="error")
        raw.set_eeg_reference("average", verbose="error")
        signals = (1e6 * raw.get_data())[None]
        frontal = [channel for channel in FRONTAL if channel in raw.ch_names]
        front = [raw.ch_names.index(channel) for channel in frontal]
        back = raw.ch_names.index("Oz" if "Oz" in raw.ch_names else "O1")
        peaks = _eeg_kept.blinks(signals[0, front].mean(0), SFREQ)

        def largest(X: np.ndarray, place: int = front[0]) -> float:
            return float(np.quantile(np.abs(X[0, place]), 0.999))

        def of_blinks(X: np.ndarray, places=front, peaks=peaks) -> float | None:
            return _eeg_kept.of_blinks(X[0, places], peaks, SFREQ)

        row: Row = {
            "recording": name,
            "Fp1, µV": largest(signals),
            "blinks": len(peaks),
            "of blinks, µV": of_blinks(signals),
        }
        for way, clean_up in ways.items():
            cleaned = clean_up(signals, raw.ch_names, frontal, 0)
            removed = np.square(signals - cleaned).sum() / np.square(signals).sum()
            row[f"{way}, removed"] = float(removed)
            row[f"{way}, Fp1, µV"] = largest(cleaned)
            row[f"{way}, of blinks, µV"] = of_blinks(cleaned)
            row[f"{way}, alpha"] = _eeg_kept.alpha_kept(
                signals[0, back], cleaned[0, back], peaks, SFREQ
            )
        yield row


def print_sizes(splits: list[Split]) -> None:
    sizes = " / ".join(f"{len(s.noisy)}, {len(s.noisy_test)}" for s in splits)
    print(f"\nmixtures to train on, to test: {sizes}", flush=True)


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
    return baselines.flat(_data.cut(signals, 100, round(100 * hop))).astype(np.float32)


def paper(arguments: argparse.Namespace, report: Report) -> None:
    report(of_unseen_people(arguments), {"table": "paper"}, {"seconds": 0})


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


def decode(arguments: argparse.Namespace, report: Report) -> None:
    report(decoded(arguments), {"table": "decode"})


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


def tiled(raw, seconds: float):
    """A recording of that length, of copies of a shorter one."""
    import mne

    n_times = round(seconds * raw.info["sfreq"])
    signals = raw.get_data()
    signals = np.tile(signals, -(-n_times // signals.shape[1]))[:, :n_times]
    return mne.io.RawArray(signals, raw.info, verbose="error")


def filtered(raw):
    """A filtered copy in memory, from 1 to 40 Hz, with MNE's defaults."""
    return raw.copy().load_data(verbose="error").filter(1.0, 40.0, verbose="error")


def memory_of(work: Callable, path: Path) -> tuple[float, float]:
    """GiB of private memory that work on a recording on disk adds, and seconds."""
    import mne

    raw = mne.io.read_raw_fif(path, verbose="error")
    with PeakMemory() as memory:
        began = perf_counter()
        work(raw)
        seconds = perf_counter() - began
    return (memory.peak - memory.before) / 2**30, seconds


def speed(arguments: argparse.Namespace, report: Report) -> None:
    """Time beside that of mne's filter, and memory."""
    folder = arguments.data / "eegmmidb"
    raw = _data.eegmmidb(sorted(folder.glob("*.edf")))
    raw.set_annotations(None)
    denoisers: dict[str, EEGDenoiser] = {}
    report(
        times(raw, arguments.minutes, denoisers),
        {"table": "speed-time"},
        {"fit, s": 0, "transform, s": 1, "mne's filter, s": 1, "ratio": 1},
    )
    report(
        memories(raw, arguments.hours, denoisers),
        {"table": "speed-memory"},
        {"in memory, GiB": 2, "private memory, GiB": 2, "seconds": 0},
    )


def times(raw, minutes: float, denoisers: dict[str, EEGDenoiser]) -> Iterator[Row]:
    """Median of 3 transforms of so many minutes; keeps the denoisers fitted for it."""
    long = tiled(raw, 60 * minutes)
    for name, y in {"without clean signals": None, "with": filtered(raw)}.items():
        began = perf_counter()
        denoisers[name] = EEGDenoiser(random_state=0).fit(raw, y)
        fitting = perf_counter() - began
        seconds: list[list[float]] = [[], []]
        for _ in range(3):
            for column, work in enumerate((denoisers[name].transform, filtered)):
                began = perf_counter()
                work(long)
                seconds[column].append(perf_counter() - began)
        ours, mnes = np.median(seconds, axis=1)
        yield {
            "fitted": name,
            "fit, s": fitting,
            "transform, s": ours,
            "mne's filter, s": mnes,
            "ratio": ours / mnes,
        }


def memories(raw, hours: float, denoisers: dict[str, EEGDenoiser]) -> Iterator[Row]:
    """Private memory that work on a recording on disk, of so many hours, adds."""
    works = {
        "mne's filter": filtered,
        "fit": EEGDenoiser(random_state=0).fit,
        **{f"transform, {name}": d.transform for name, d in denoisers.items()},
    }
    size = len(raw.ch_names) * hours * 3600 * raw.info["sfreq"] * 8 / 2**30
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "long_raw.fif"
        tiled(raw, 3600 * hours).save(path, fmt="single", verbose="error")
        for name, work in works.items():
            gigabytes, seconds = in_own_process(memory_of, work, path)
            yield {
                "work": name,
                "in memory, GiB": size,
                "private memory, GiB": gigabytes,
                "seconds": seconds,
            }


TABLES = {
    "single": single,
    "multi": multi,
    "muscles": multi,
    "kept": kept,
    "real": real,
    "paper": paper,
    "decode": decode,
    "speed": speed,
}


def main() -> None:
    parser = Command("eeg", __doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of the data"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="regex of names of rows to make")
    parser.add_argument("--artefacts", nargs="+", default=["EOG", "EMG"])
    parser.add_argument(
        "--microvolts",
        action="store_true",
        help="mixtures as they are, not divided by their standard deviation",
    )
    parser.add_argument("--most", type=int, help="clean epochs of a person, at most")
    parser.add_argument("--steps", type=int, default=1000, help="of table paper")
    parser.add_argument("--repeats", type=int, default=20, help="of table decode")
    parser.add_argument("--minutes", type=float, default=10, help="of table speed")
    parser.add_argument("--hours", type=float, default=2, help="of table speed")
    arguments, report = parser.parse()
    TABLES[arguments.table](arguments, report)


if __name__ == "__main__":
    main()
