"""Recordings as they are: what is removed of them, for ``benchmarks.eeg``."""

import argparse
import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks import _data, _eeg_kept, _eeg_peers
from benchmarks._eeg_baselines import SFREQ
from benchmarks._eeg_methods import FRONTAL
from benchmarks._results import Row


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
    for name in filter(partial(re.search, arguments.only), recordings):
        raw = recordings[name]
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
