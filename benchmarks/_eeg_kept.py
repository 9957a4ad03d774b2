"""Brain signal that is left after artefacts are removed, for ``benchmarks.eeg``.

Epochs are (n_epochs, n_channels, n_times), in microvolts, throughout.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.signal import butter, find_peaks, sosfiltfilt

from skmfr.eeg import peak_kept, power_kept, rrmse_t

# Share of the epochs that have an artefact.
NOISY = 0.3
# The P3 that is added: amplitude at Pz in microvolts, latency and width in seconds.
P3, LATENCY, WIDTH = 10.0, 0.35, 0.05
# Amplitude of the P3 relative to Pz; 0 in other channels.
TOPOGRAPHY = {"Pz": 1.0, "P3": 0.8, "P4": 0.8, "Cz": 0.7, "O1": 0.4, "O2": 0.4}
# Bands in Hz, and the channels in which they are looked at.
ALPHA, OCCIPITAL = (8.0, 13.0), ("O1", "O2")
THETA, FRONTAL = (4.0, 8.0), ("Fz",)
# A blink: microvolts below 10 Hz in a frontal channel, and seconds on either side of
# its peak that are averaged; fewer of them make no average.
BLINK, AROUND, FEW_BLINKS = 100.0, 0.4, 5


class Recording(NamedTuple):
    """Epochs of one person, some with an artefact."""

    clean: np.ndarray
    noisy: np.ndarray
    has_artefact: np.ndarray
    """(n_epochs,), bool"""
    ch_names: list[str]


def partly_noisy(
    clean: np.ndarray, noisy: np.ndarray, ch_names: list[str], seed: int
) -> Recording:
    """A recording in which some epochs are as noisy as these, and others clean."""
    draw = np.random.default_rng(seed)
    has_artefact = draw.random(len(clean)) < NOISY
    mixed = np.where(has_artefact[:, None, None], noisy, clean)
    return Recording(clean, mixed, has_artefact, ch_names)


def p3(ch_names: list[str], n_times: int, sfreq: float) -> np.ndarray:
    """A P3 in average reference, (n_channels, n_times)."""
    topography = np.array([TOPOGRAPHY.get(name, 0.0) for name in ch_names])
    topography -= topography.mean()
    topography /= topography[ch_names.index("Pz")]
    times = np.arange(n_times) / sfreq
    course = np.exp(-0.5 * ((times - LATENCY) / WIDTH) ** 2)
    return (P3 * topography[:, None] * course).astype(np.float32)


def measure(
    clean_up: Callable[[np.ndarray], np.ndarray], recording: Recording, sfreq: float
) -> dict[str, float]:
    """Brain signal that is left in a recording after a function has cleaned it.

    "error, no artefact": RRMSE_t of epochs without an artefact; with one: "error,
    artefact"; "error, all clean": of the recording without any artefact.  "alpha kept"
    at O1 and O2, "theta kept" at Fz: power after and before, in epochs without one.
    "P3 kept" at Pz and "P3 later, ms": of a P3 that is added to all epochs, the
    difference to the average without.
    """
    clean, noisy, has_artefact, ch_names = recording
    cleaned = clean_up(noisy)
    there = ~has_artefact

    def kept(channels: tuple[str, ...], band: tuple[float, float]) -> float:
        places = [ch_names.index(name) for name in channels]
        pair = (X[there][:, places] for X in (clean, cleaned))
        return float(power_kept(*pair, sfreq, *band).mean())

    response = p3(ch_names, noisy.shape[2], sfreq)
    evoked = (clean_up(noisy + response) - cleaned).mean(0)
    place = ch_names.index("Pz")
    amplitude, delay = peak_kept(response[place], evoked[place], sfreq)
    return {
        "error, artefact": float(rrmse_t(clean, cleaned)[has_artefact].mean()),
        "error, no artefact": float(rrmse_t(clean, cleaned)[there].mean()),
        "error, all clean": float(rrmse_t(clean, clean_up(clean)).mean()),
        "alpha kept": kept(OCCIPITAL, ALPHA),
        "theta kept": kept(FRONTAL, THETA),
        "P3 kept": amplitude,
        "P3 later, ms": 1e3 * delay,
    }


def blinks(channel: np.ndarray, sfreq: float) -> np.ndarray:
    """Samples of the peaks of blinks in a frontal channel (n_times,)."""
    sos = butter(4, 10.0, output="sos", fs=sfreq)
    slow = sosfiltfilt(sos, channel.astype(float))
    peaks, _ = find_peaks(slow, height=BLINK, distance=round(sfreq / 2))
    margin = round(AROUND * sfreq)
    return peaks[(peaks >= margin) & (peaks < len(channel) - margin)]


def of_blinks(signals: np.ndarray, peaks: np.ndarray, sfreq: float) -> float | None:
    """Peak to peak of the average over blinks, and over channels (n_channels, n_times).

    Other activity averages out.
    """
    if len(peaks) < FEW_BLINKS:
        return None
    margin = round(AROUND * sfreq)
    average = np.mean([signals[:, p - margin : p + margin] for p in peaks], axis=0)
    return float(np.ptp(average, axis=1).mean())


def alpha_kept(
    before: np.ndarray, after: np.ndarray, peaks: np.ndarray, sfreq: float
) -> float:
    """Share of alpha power left in seconds of a channel (n_times,) without a blink.

    A second that begins or ends less than `AROUND` from the peak of one is not counted.
    """
    length, margin = round(sfreq), round(AROUND * sfreq)
    n = len(before) // length
    touched = [(peaks + side) // length for side in (-margin, 0, margin)]
    free = np.setdiff1d(np.arange(n), touched)
    pair = (x[: n * length].reshape(n, 1, length)[free] for x in (before, after))
    # Tapered, for slow waves would leak into the band.
    taper = np.hanning(length)
    return float(power_kept(*(taper * x for x in pair), sfreq, *ALPHA)[0])
