"""Windows to learn a filter from, and its use, for both ways of `apply`."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from ._recordings import Reader, pieces_to_fit
from ._removal import ArtifactFilter, artifacts_in
from ._scales import as_scaled, centre_of, warn_of_other_sizes
from ._windows import count_windows, cut_windows, taper

# Windows that the removal of artefacts is learned from, at most.
N_WINDOWS = 1000
# Power, as a share of the median, below which a window has lost its signal. It would
# count as brain without an artefact.
LOST = 0.01
# Power, as a share of that with the offset, up to which a window is constant: what is
# left is rounding.
CONSTANT = 1e-5


def windows_to_learn_from(denoiser, reader: Reader) -> np.ndarray:
    """At most `N_WINDOWS` windows of scaled signals, evenly spaced.

    Windows without a signal are left out.

    Returns
    -------
    ndarray of shape (n_windows, n_channels, n_times_)

    Raises
    ------
    ValueError
        If X is constant.
    """
    length, n_channels = denoiser.n_times_, denoiser.n_channels_
    rng = np.random.default_rng(0)
    if reader.name != "X":  # which is checked where it is changed
        warn_of_other_sizes(denoiser, reader.moments(length), reader.name, stacklevel=8)
    centre = centre_of(denoiser, reader)
    parts = [
        part
        for piece in pieces_to_fit(reader, length, N_WINDOWS * length, rng)
        for part in as_scaled(denoiser, reader.read(piece), centre)
    ]

    def cut(part: np.ndarray) -> np.ndarray:
        return cut_windows(part, length, denoiser.hop_).swapaxes(0, 1)

    # All of them overlap and would be several times the signals, so they are cut again.
    power, of_all = np.concatenate([_power(cut(part)) for part in parts], axis=1)
    varies = power > CONSTANT * of_all
    if not varies.any():
        raise ValueError(
            f"{reader.name} is constant: nothing can be learned from it about how to "
            "remove artefacts."
        )
    good = np.flatnonzero(varies & (power > LOST * np.median(power[varies])))
    if len(good) < n_channels:
        warnings.warn(
            f"X has only {len(good)} windows of {n_channels} channels from which "
            "to learn how to remove artefacts, so some brain signal will be removed as "
            "well. Pass the whole recording, or all of its epochs.",
            stacklevel=6,
        )
    chosen = np.zeros(len(power), dtype=bool)
    chosen[good[np.linspace(0, len(good) - 1, N_WINDOWS).astype(int)]] = True
    ends = np.cumsum(
        [count_windows(part.shape[1], length, denoiser.hop_) for part in parts]
    )
    of_parts = np.split(chosen, ends[:-1])
    return np.concatenate(
        [
            cut(part)[wanted]
            for part, wanted in zip(parts, of_parts, strict=True)
            if wanted.any()
        ]
    )


def _power(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of tapered windows over all channels, without offsets and with them.

    An offset is a multiple of the taper in each channel.

    Parameters
    ----------
    windows : ndarray of shape (n_windows, n_channels, length)

    Returns
    -------
    power, of_all : ndarray of shape (n_windows,)
    """
    tapered = taper(windows.shape[2]).astype(windows.dtype)
    offset = windows.mean(2) / tapered.mean()
    of_all = np.einsum("nct,nct->n", windows, windows)
    along = np.einsum("nc,nct,t->n", offset, windows, tapered, optimize=True)
    return of_all - 2 * along + np.square(offset).sum(1) * (tapered @ tapered), of_all


def as_spectra(windows: np.ndarray) -> np.ndarray:
    """(..., length) to (..., n_freqs), complex64."""
    return np.fft.rfft(windows).astype(np.complex64)


def without_artifacts(
    denoiser, learned: ArtifactFilter, everywhere: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that subtracts from scaled signals what a filter finds."""
    length, hop = denoiser.n_times_, denoiser.hop_
    return lambda signals: (
        signals - artifacts_in(signals, learned, length, hop, everywhere)
    )
