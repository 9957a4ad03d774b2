"""Channels that record artefacts, and how atoms go with them."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.signal import butter, detrend, sosfiltfilt

from ._recordings import Reader
from ._spans import Span, windows_of_spans
from ._windows import cut_windows

# Order of a filter that runs there and back.  Like MNE's, it halves half the frequency
# (Hz) from which on it passes: that of the data, but at most this one.
ORDER, PASSED_HZ = 2, 1.0


def high_passed(references: Reader, spans: list[Span]) -> np.ndarray:
    """Channels without the drifts that data do not have, each span for itself.

    MNE filters only channels of data.  If these were not high-pass filtered, they drift
    as the references do, which therefore stay as they are.

    Parameters
    ----------
    references : Reader
        Of n_references channels of a recording, few, as they are read at once.
    spans : list of (start, stop)

    Returns
    -------
    ndarray of shape (n_references, n_times)
        With mean 0 in all spans together, and 0 between them.
    """
    sfreq = references.X.info["sfreq"]
    halved = min(references.X.info["highpass"], PASSED_HZ) / 2
    filtered = np.zeros(references.shape[1:])
    if halved:
        sos = butter(ORDER, halved, "highpass", fs=sfreq, output="sos")
        # Mirrored, with the sign changed, for seconds: drifts go on at the ends.
        beyond = round(sfreq / halved)
    for start, stop in spans:
        signals = references.read(slice(start, stop))[0]
        if halved and stop - start > beyond:
            signals = sosfiltfilt(sos, signals, axis=1, padlen=beyond)
        elif halved:  # a short span shows no more than a line of a drift
            signals = detrend(signals, axis=1)
        filtered[:, start:stop] = signals
    mean = filtered.sum(1, keepdims=True) / sum(stop - start for start, stop in spans)
    for start, stop in spans:
        filtered[:, start:stop] -= mean
    return filtered


def kurtosis(signals: np.ndarray, length: int) -> np.ndarray:
    """Excess kurtosis in stretches of the last axis, on average; 0 where constant.

    Of a whole recording, a part that is louder than the others would stand out.
    """
    total = np.zeros(signals.shape[:-1])
    n_stretches = max(1, signals.shape[-1] // length)
    for part in np.array_split(signals, n_stretches, axis=-1):
        squares = np.square(part - part.mean(-1, keepdims=True))
        variance = squares.mean(-1)
        beyond = np.square(squares).mean(-1) - 3 * variance**2
        total += np.divide(
            beyond, variance**2, out=np.zeros_like(beyond), where=variance > 0
        )
    return total / n_stretches


def correlations(
    denoiser,
    references: np.ndarray,
    spans: list[Span],
    codes: sparse.csr_array,
    temporal: np.ndarray,
) -> np.ndarray:
    """Absolute correlation of reference channels with atoms where these are active.

    Parameters
    ----------
    denoiser : EEGDenoiser
    references : ndarray of shape (n_references, n_times)
        From :func:`high_passed`.
    spans : list of (start, stop)
    codes : csr_array of shape (n_windows, n_atoms)
        Of the windows in the spans.
    temporal : ndarray of shape (n_atoms, n_times_)
        Time courses of the atoms.

    Returns
    -------
    ndarray of shape (n_atoms, n_references)
        0 for atoms that are nowhere active.
    """
    active = (codes != 0).astype(float)
    product, total, square = np.zeros((3, codes.shape[1], len(references)))
    for piece, own, windows in windows_of_spans(denoiser, spans):
        cut = cut_windows(references[:, piece], denoiser.n_times_, denoiser.hop_)
        cut = cut[:, own]
        for i, reference in enumerate(cut):
            product[:, i] += codes[windows].multiply(reference @ temporal.T).sum(0)
        total += active[windows].T @ cut.sum(2).T
        square += active[windows].T @ (cut**2).sum(2).T
    n = np.maximum(active.sum(0), 1)[:, None] * denoiser.n_times_
    own_total = (codes.sum(0) * temporal.sum(1))[:, None]
    own_square = (codes.power(2).sum(0) * (temporal**2).sum(1))[:, None]
    covariance = product - total * own_total / n
    variances = (square - total**2 / n) * (own_square - own_total**2 / n)
    size = np.sqrt(np.maximum(variances, 0))
    return np.divide(np.abs(covariance), size, out=np.zeros_like(size), where=size > 0)
