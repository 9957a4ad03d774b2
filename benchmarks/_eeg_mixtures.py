"""Mixtures of clean EEG and artefacts, for ``benchmarks.eeg``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import _data
from benchmarks._eeg_baselines import SFREQ
from skmfr.datasets import make_noisy_eeg

# Number of mixtures of each clean epoch, in training and in test.
N_REPEATS = 2
# Share of the people, and of the runs of ocular artefacts, that is held out.
HELD_OUT = 0.2
N_FOLDS = 4
# Channels that muscles are near, their spread around these, and their reach, in metres.
MUSCLES = ["T7", "T8", "F7", "F8", "Fp1", "Fp2"]
AROUND_SITE, REACH = 0.015, 0.03


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
        # Both directions of the eyes share their runs; run 0 is the in-ear recording.
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
    emg = np.load(folder / "semisim" / "emg_epochs.npz")
    waves = emg["X"].reshape(-1, int(SFREQ))
    sites = places_of(MUSCLES)
    places = sites[rng.integers(len(sites), size=len(waves))]
    places = places + AROUND_SITE * rng.standard_normal(places.shape)
    topographies = muscular_topographies(places, ch_names)
    signals = (waves[:, None] * topographies[:, :, None]).astype(np.float32)
    return Pool(signals, np.repeat(emg["subject"], len(waves) // len(emg["X"])))


def places_of(ch_names: list[str]) -> np.ndarray:
    """Positions of channels in metres: right, front, up; (n_channels, 3)."""
    positions = _data.template_positions().get_positions()["ch_pos"]
    return np.array([positions[name] for name in ch_names])


def muscular_topographies(places: np.ndarray, ch_names: list[str]) -> np.ndarray:
    """Of muscles at these places (n, 3), in average reference: (n, n_channels)."""
    squared = np.square(places_of(ch_names) - places[:, None]).sum(2)
    topographies = np.exp(-squared / (2 * REACH**2))
    return topographies - topographies.mean(1, keepdims=True)
