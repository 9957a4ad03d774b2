"""Windows to learn a filter from, and its use, for both ways of `apply`."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from ._fitted import as_scaled
from ._recordings import Reader, pieces_to_fit
from ._removal import ArtefactFilter, artefacts_in
from ._windows import cut_windows

# Windows that the removal of artefacts is learned from, at most.
N_WINDOWS = 1000


def windows_to_learn_from(denoiser, reader: Reader) -> np.ndarray:
    """At most `N_WINDOWS` windows of scaled signals, evenly spaced.

    Returns
    -------
    ndarray of shape (n_windows, n_channels, n_times_)
    """
    length, n_channels = denoiser.n_times_, denoiser.n_channels_
    rng = np.random.default_rng(0)
    parts = []
    for piece in pieces_to_fit(reader, length, N_WINDOWS * length, rng):
        signals = as_scaled(denoiser, reader.read(piece))
        windows = cut_windows(signals, length, denoiser.hop_).swapaxes(1, 2)
        parts.append(windows.reshape(-1, n_channels, length))
    together = np.concatenate(parts)
    if len(together) < n_channels:
        warnings.warn(
            f"X has only {len(together)} windows of {n_channels} channels from which "
            "to learn how to remove artefacts, so some brain signal will be removed as "
            "well. Pass the whole recording, or all of its epochs.",
            stacklevel=6,
        )
    chosen = np.unique(np.linspace(0, len(together) - 1, N_WINDOWS).astype(int))
    return together[chosen]


def as_spectra(windows: np.ndarray) -> np.ndarray:
    """(..., length) to (..., n_freqs), complex64."""
    return np.fft.rfft(windows).astype(np.complex64)


def without_artefacts(
    denoiser, learned: ArtefactFilter, everywhere: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that subtracts from scaled signals what a filter finds."""
    length, hop = denoiser.n_times_, denoiser.hop_
    return lambda signals: (
        signals - artefacts_in(signals, learned, length, hop, everywhere)
    )
