"""Heartbeats and muscles that are added to clean recordings, for ``benchmarks.eeg``."""

import argparse
import re
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np

from benchmarks._data import eegmat
from benchmarks._eeg_baselines import MICRO, SFREQ, info_of
from benchmarks._eeg_mixtures import muscular_topographies, places_of
from benchmarks._results import Row
from skmfr.eeg import EEGDenoiser

# Microvolts of heartbeats at their 0.99 quantile in the channel where they are largest.
HEARTBEAT = 30.0
# Muscle artefacts: standard deviation in microvolts where they are largest, seconds of
# a stretch, share of the stretches with an artefact at each site, and the sites.
MUSCLE, STRETCH, SHARE, SITES = 20.0, 2, 0.2, ["T7", "T8"]
# Muscles are found above this frequency (Hz) and in windows of this length (seconds).
FAST, SHORT = 10.0, 0.2


class Added(NamedTuple):
    """A clean recording, and the same with an artefact; microvolts."""

    clean: np.ndarray
    """(n_channels, n_times)"""
    noisy: np.ndarray
    there: np.ndarray
    """(n_times,), bool: where the artefact is"""
    ecg: np.ndarray
    """(n_times,), volts"""
    ch_names: list[str]


def at_rest(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """EEG in average reference, ECG, and names of the EEG channels."""
    import mne

    raw = eegmat(path).resample(SFREQ, verbose="error")
    raw.set_eeg_reference("average", verbose="error")
    ecg = mne.io.read_raw_edf(path, preload=True, verbose="error").pick(["ECG ECG"])
    ecg.resample(SFREQ, verbose="error").filter(1.0, 40.0, picks="all", verbose="error")
    return raw.get_data() / MICRO, ecg.get_data()[0], raw.ch_names


def with_heartbeats(path: Path) -> Added:
    """The ECG of the recording, falling from right to left and from front to back."""
    clean, ecg, ch_names = at_rest(path)
    right, front, _ = places_of(ch_names).T
    topography = right + front
    topography -= topography.mean()
    topography *= HEARTBEAT / np.abs(topography).max()
    beats = np.outer(topography, ecg / np.quantile(np.abs(ecg), 0.99))
    there = np.ones(clean.shape[1], dtype=bool)
    return Added(clean, clean + beats, there, ecg, ch_names)


def with_muscles(path: Path, folder: Path) -> Added:
    """EMG of limbs near both ears, each in some stretches.

    Parameters
    ----------
    path : Path
        Recording.
    folder : Path
        Where ``emg_epochs.npz`` is.
    """
    clean, ecg, ch_names = at_rest(path)
    draw = np.random.default_rng(0)
    waves = np.load(folder / "emg_epochs.npz")["X"]
    length = round(STRETCH * SFREQ)
    n_stretches = clean.shape[1] // length
    topographies = muscular_topographies(places_of(SITES), ch_names)
    noisy, there = clean.copy(), np.zeros(clean.shape[1], dtype=bool)
    for topography in topographies:
        for stretch in np.flatnonzero(draw.random(n_stretches) < SHARE):
            wave = waves[draw.integers(len(waves))][:length]
            part = slice(stretch * length, (stretch + 1) * length)
            noisy[:, part] += np.outer(MUSCLE * topography, wave / wave.std())
            there[part] = True
    return Added(clean, noisy, there, ecg, ch_names)


def as_raw(added: Added):
    """A recording of MNE with the artefact, and the ECG as a channel."""
    import mne

    raw = mne.io.RawArray(MICRO * added.noisy, info_of(added.ch_names), verbose="error")
    info = mne.create_info(["ECG"], SFREQ, "ecg")
    ecg = mne.io.RawArray(added.ecg[None], info, verbose="error")
    return raw.add_channels([ecg], force_update_info=True)


def fast(raw):
    """A copy of a recording without slow waves."""
    return raw.copy().filter(FAST, None, picks="eeg", verbose="error")


def ours(raw, kind: str, seed: int = 0) -> tuple[np.ndarray, int]:
    """Artefacts of the atoms that are found, microvolts, and how many these are."""
    denoiser = EEGDenoiser(SHORT if kind == "muscle" else None, random_state=seed)
    found = getattr(denoiser.fit(raw), f"find_bads_{kind}")(raw)[0]
    cleaned = denoiser.apply(raw, exclude=found)
    return (raw.get_data("eeg") - cleaned.get_data("eeg")) / MICRO, len(found)


def independent_components(raw, kind: str) -> tuple[np.ndarray, int]:
    """The same of MNE's ICA."""
    cleaned, found = without_components(raw, kind)
    return (raw.get_data("eeg") - cleaned.get_data("eeg")) / MICRO, len(found)


def without_components(recording, kind: str, seed: int = 0, **given):
    """A copy without what MNE's ICA finds of a kind, and what these components are."""
    import mne

    ica = mne.preprocessing.ICA(random_state=seed, verbose="error")
    ica.fit(recording, verbose="error")
    found, _ = getattr(ica, f"find_bads_{kind}")(recording, verbose="error", **given)
    return ica.apply(recording.copy(), exclude=found, verbose="error"), found


def rows_of_added(arguments: argparse.Namespace) -> Iterator[Row]:
    """Error of each recording at rest, relative to the clean signals."""
    add_muscles = partial(with_muscles, folder=arguments.data / "semisim")
    kinds: dict[str, tuple[str, Callable, str, Callable]] = {
        # Recordings of one minute have too few beats.
        "heartbeats": ("ecg", with_heartbeats, "*_1.edf", copy),
        "muscles": ("muscle", add_muscles, "*.edf", fast),
    }
    for name, (kind, make, files, seen_by_ours) in kinds.items():
        ways = {
            "ours": (ours, seen_by_ours),
            "ICA": (independent_components, copy),
            "ICA of fast signals": (independent_components, fast),
        }
        for path in sorted((arguments.data / "eegmat").glob(files)):
            row: Row = {"added": f"{name}, {path.stem}"}
            if not re.search(arguments.only, str(row["added"])):
                continue
            made = make(path)
            elsewhere = made._replace(there=~made.there)
            unchanged = made._replace(noisy=made.clean, there=made.there | True)
            row["nothing"] = error(made, made.noisy)
            for way, (artifacts_in, seen) in ways.items():
                began = process_time()
                artefacts, n_found = artifacts_in(seen(as_raw(made)), kind)
                row[f"{way}, CPU seconds"] = process_time() - began
                row[way] = error(made, made.noisy - artefacts)
                row[f"{way}, found"] = n_found
                row[f"{way}, elsewhere"] = error(elsewhere, made.noisy - artefacts)
                artefacts, _ = artifacts_in(seen(as_raw(unchanged)), kind)
                wrong = error(unchanged, made.clean - artefacts)
                row[f"{way}, nothing added"] = wrong
            yield row


def error(made: Added, cleaned: np.ndarray) -> float | None:
    """Size of what is wrong where the artefact is, relative to the clean signals."""
    wrong, clean = cleaned - made.clean, made.clean
    power = [np.square(part[:, made.there]).sum() for part in (wrong, clean)]
    return float(np.sqrt(power[0] / power[1])) if made.there.any() else None
