"""Time and memory of the denoiser, for ``benchmarks.eeg``."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks._results import Row
from benchmarks.memory import PeakMemory, in_own_process
from skmfr.eeg import EEGDenoiser


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
