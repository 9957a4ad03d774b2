"""Tapered, overlapping windows of signals, and the way back."""

from __future__ import annotations

import numpy as np

# Length of windows in seconds.
DEFAULT_WINDOW = 1.0


def samples_in_window(seconds: float | None, sfreq: float | None, n_times: int) -> int:
    """Length of a window, of signals of n_times samples."""
    if sfreq is not None:
        length = round((DEFAULT_WINDOW if seconds is None else seconds) * sfreq)
    elif seconds is None:
        length = n_times // 2
    else:
        raise ValueError(
            f"window={seconds} is in seconds; with arrays it needs sfreq, got None."
        )
    if length < 2:
        raise ValueError(
            f"A window must have 2 samples or more, got {length}: window={seconds}, "
            f"sfreq={sfreq}."
        )
    return length


def taper(length: int) -> np.ndarray:
    """Half a period of a sine, (length,), positive everywhere.

    Applied once when windows are cut and once when they are added, so that windows
    that were changed independently of each other meet without a step.
    """
    return np.sin(np.pi * (np.arange(length) + 0.5) / length)


def count_windows(n_times: int, length: int, hop: int) -> int:
    """Number of windows if each of n_times samples is in as many as any other."""
    return -(-(n_times + length - hop) // hop)


def cut_windows(X: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Cut tapered windows out of signals, mirrored at their ends.

    The first window ends `hop` samples after the beginning, so that samples at the
    edges are in as many windows as those in the middle.

    Parameters
    ----------
    X : ndarray of shape (..., n_times)
        Signals; those shorter than a window are mirrored to and fro.
    length : int
        Samples in a window.
    hop : int
        Samples from one window to the next, at most `length`.

    Returns
    -------
    ndarray of shape (..., n_windows, length)
    """
    n_times = X.shape[-1]
    before = length - hop
    n = count_windows(n_times, length, hop)
    after = (n - 1) * hop + length - before - n_times
    edges = [(0, 0)] * (X.ndim - 1) + [(before, after)]
    padded = np.pad(X, edges, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, length, axis=-1)
    return windows[..., ::hop, :] * taper(length).astype(X.dtype)


def overlap_add(windows: np.ndarray, n_times: int, hop: int) -> np.ndarray:
    """Add windows to signals: the inverse of :func:`cut_windows`.

    Parameters
    ----------
    windows : ndarray of shape (..., n_windows, length)
        As `cut_windows` gives them, or changed.
    n_times : int
        Samples of the signals.
    hop : int
        Samples from one window to the next.

    Returns
    -------
    ndarray of shape (..., n_times)
        Where windows were not changed, the signals that they were cut from, up to
        rounding.
    """
    *shape, n, length = windows.shape
    weight = taper(length).astype(windows.dtype)
    # Each window in pieces of one hop; pieces at the same place do not overlap.
    n_pieces = -(-length // hop)
    excess = [(0, n_pieces * hop - length)]
    pieces = np.pad(windows * weight, [(0, 0)] * (windows.ndim - 1) + excess)
    pieces = pieces.reshape(*shape, n, n_pieces, hop)
    signals = np.zeros((*shape, n + n_pieces - 1, hop), dtype=windows.dtype)
    for place in range(n_pieces):
        signals[..., place : place + n, :] += pieces[..., place, :]
    # Samples are in their full number of windows, so squared tapers add to one hop's.
    signals /= np.pad(weight**2, excess).reshape(n_pieces, hop).sum(0)
    before = length - hop
    return signals.reshape(*shape, -1)[..., before : before + n_times]
