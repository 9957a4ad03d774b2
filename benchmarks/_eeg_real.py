"""Recordings as they are: what is removed of them, for ``benchmarks.eeg``."""

import argparse
import re
from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np

from benchmarks import _data, _eeg_kept, _eeg_peers
from benchmarks._eeg_baselines import SFREQ
from benchmarks._eeg_methods import FRONTAL
from benchmarks._methods import in_columns
from benchmarks._results import Row

WAYS: dict[str, _eeg_peers.Peer] = {
    "ICA": _eeg_peers.independent_components,
    "ours": _eeg_peers.without_found_atoms,
}


def of_whole_recordings(arguments: argparse.Namespace) -> Iterator[Row]:
    """Signal that is removed with ocular artefacts, from clean recordings too."""
    paths = sorted((arguments.data / "eegmat").glob("*.edf"))
    recordings = {path.stem: _data.eegmat(path) for path in paths}
    eyes = {"R02": "closed", "R01": "open", "R03": "open, task", "R04": "open, task"}
    for name, eyes_are in eyes.items():
        path = arguments.data / "eegmmidb" / f"S001{name}.edf"
        recordings[f"S001{name}, eyes {eyes_are}"] = _data.eegmmidb([path])
    for name in filter(partial(re.search, arguments.only), recordings):
        yield {"recording": name} | cleaned_up(recordings[name], arguments.seeds)


def of_other_references(arguments: argparse.Namespace) -> Iterator[Row]:
    """The same of recordings with blinks, in other references than the average."""
    for run, reference in product(("R01", "R03", "R04"), ("as recorded", "Cz", "Oz")):
        name = f"S001{run}, {reference}"
        if re.search(arguments.only, name):
            raw = _data.eegmmidb([arguments.data / "eegmmidb" / f"S001{run}.edf"])
            channels = [] if reference == "as recorded" else [reference]
            yield {"recording": name} | cleaned_up(raw, arguments.seeds, channels)


def cleaned_up(raw, n_seeds: int, reference: str | list[str] = "average") -> Row:
    """Blinks and alpha in a recording of MNE, and after each way, by seed."""
    raw.resample(SFREQ, verbose="error").filter(1.0, 40.0, verbose="error")
    raw.set_eeg_reference(reference, verbose="error")
    if reference != "average":
        raw.drop_channels(reference)  # which are flat
    signals = (1e6 * raw.get_data())[None]
    frontal = [channel for channel in FRONTAL if channel in raw.ch_names]
    front = [raw.ch_names.index(channel) for channel in frontal]
    back = raw.ch_names.index("Oz" if "Oz" in raw.ch_names else "O1")
    peaks = _eeg_kept.blinks(signals[0, front].mean(0), SFREQ)

    def sizes(X: np.ndarray) -> dict[str, float | None]:
        return {
            "Fp1, µV": float(np.quantile(np.abs(X[0, front[0]]), 0.999)),
            "of blinks, µV": _eeg_kept.of_blinks(X[0, front], peaks, SFREQ),
        }

    def measured(clean_up: _eeg_peers.Peer, seed: int) -> dict[str, float | None]:
        cleaned = clean_up(signals, raw.ch_names, frontal, seed)
        removed = np.square(signals - cleaned).sum() / np.square(signals).sum()
        pair = signals[0, back], cleaned[0, back]
        alpha = _eeg_kept.alpha_kept(*pair, peaks, SFREQ)
        return {"removed": float(removed), **sizes(cleaned), "alpha": alpha}

    row: Row = {"blinks": len(peaks)} | sizes(signals)
    for way, clean_up in WAYS.items():
        cells = in_columns([measured(clean_up, seed) for seed in range(n_seeds)])
        row |= {f"{way}, {column}": cell for column, cell in cells.items()}
    return row
