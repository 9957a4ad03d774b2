"""How near denoised signals are to clean ones, and what of the brain is left of them.

The first measures are those of EEGdenoiseNet.
"""

import warnings

import numpy as np


def rrmse_t(clean: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """Relative root mean squared error in time.

    ``rms(denoised - clean) / rms(clean)``, over channels and samples of an epoch
    (Zhang et al. 2021, doi:10.1088/1741-2552/ac2bf8).

    Parameters
    ----------
    clean : ndarray of shape (n_epochs, ..., n_times)
        True signals.
    denoised : ndarray of the same shape
        Estimates of them, in the same unit.

    Returns
    -------
    ndarray of shape (n_epochs,)
        0 is perfect, 1 is as good as nothing but zeros.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.eeg import rrmse_t
    >>> clean = np.sin(np.arange(100.0)).reshape(1, 1, 100)
    >>> rrmse_t(clean, 0.5 * clean)
    array([0.5])
    """
    clean, denoised = _checked(clean, denoised)
    return _rms(denoised - clean) / _rms(clean)


def rrmse_s(clean: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """Relative root mean squared error of the power spectrum, \\|FFT\\|².

    Parameters
    ----------
    clean : ndarray of shape (n_epochs, ..., n_times)
        True signals.
    denoised : ndarray of the same shape
        Estimates of them, in the same unit.

    Returns
    -------
    ndarray of shape (n_epochs,)
        0 is perfect.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.eeg import rrmse_s
    >>> clean = np.sin(np.arange(100.0)).reshape(1, 1, 100)
    >>> rrmse_s(clean, 0.5 * clean)  # a quarter of the power
    array([0.75])
    """
    clean, denoised = _checked(clean, denoised)
    power, estimate = (np.abs(np.fft.rfft(X)) ** 2 for X in (clean, denoised))
    return _rms(estimate - power) / _rms(power)


def correlation(clean: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation in time, mean over the channels of an epoch.

    Parameters
    ----------
    clean : ndarray of shape (n_epochs, ..., n_times)
        True signals.
    denoised : ndarray of the same shape
        Estimates of them.

    Returns
    -------
    ndarray of shape (n_epochs,)
        1 is perfect; 0 for a channel that does not vary.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.eeg import correlation
    >>> clean = np.sin(np.arange(100.0)).reshape(1, 1, 100)
    >>> correlation(clean, 2 * clean + 1).round(6)
    array([1.])
    """
    clean, denoised = _checked(clean, denoised)
    clean, denoised = (X - X.mean(-1, keepdims=True) for X in (clean, denoised))
    size = np.linalg.norm(clean, axis=-1) * np.linalg.norm(denoised, axis=-1)
    product = np.sum(clean * denoised, axis=-1)
    by_channel = np.divide(product, size, out=np.zeros_like(product), where=size > 0)
    return by_channel.reshape(len(clean), -1).mean(1)


def power_kept(
    before: np.ndarray, after: np.ndarray, sfreq: float, low: float, high: float
) -> np.ndarray:
    """Share of the power of a band that is left of each channel.

    Of rhythms of the brain, in signals without artefacts or where none is large, it
    should be 1: alpha (8 to 13 Hz) at Oz, theta (4 to 8 Hz) at Fz.

    Parameters
    ----------
    before : ndarray of shape (n_epochs, n_channels, n_times)
        Signals.
    after : ndarray of the same shape
        The same, denoised.
    sfreq : float
        Sampling rate in Hz.
    low : float
        First frequency of the band, in Hz.
    high : float
        Last frequency of the band, in Hz.

    Returns
    -------
    ndarray of shape (n_channels,)
        Power after, over power before, both summed over epochs.

    Raises
    ------
    ValueError
        If the shapes differ, or epochs have no frequency in the band.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.eeg import power_kept
    >>> alpha = np.sin(2 * np.pi * 10 * np.arange(200) / 100).reshape(1, 1, 200)
    >>> power_kept(alpha, 0.5 * alpha, 100, 8, 13)
    array([0.25])
    """
    before, after = _checked(before, after, "before", "after")
    freqs = np.fft.rfftfreq(before.shape[-1], 1 / sfreq)
    band = (freqs >= low) & (freqs <= high)
    if not band.any():
        raise ValueError(
            f"Epochs of {before.shape[-1]} samples at {sfreq:g} Hz have no frequency "
            f"from {low:g} to {high:g} Hz."
        )
    taper = np.hanning(before.shape[-1])
    one, other = (
        np.square(np.abs(np.fft.rfft((X - X.mean(-1, keepdims=True)) * taper)))
        for X in (before, after)
    )
    return other[..., band].sum((0, 2)) / one[..., band].sum((0, 2))


def peak_kept(
    before: np.ndarray, after: np.ndarray, sfreq: float
) -> tuple[float, float]:
    """How the largest deflection of an evoked response came through denoising.

    Parameters
    ----------
    before : ndarray of shape (n_times,)
        Average of epochs of a channel, without artefacts.
    after : ndarray of shape (n_times,)
        The same, denoised.
    sfreq : float
        Sampling rate in Hz.

    Returns
    -------
    amplitude : float
        Amplitude after, over amplitude before, of the peaks that have the sign of the
        one before: 1 if nothing was lost.
    delay : float
        Seconds from the peak before to the peak after.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.eeg import peak_kept
    >>> p3 = -np.exp(-(((np.arange(100) - 30) / 8) ** 2))
    >>> peak_kept(p3, 0.5 * np.roll(p3, 2), 100)
    (0.5, 0.02)
    """
    before, after = _checked(before, after, "before", "after")
    first = int(np.abs(before).argmax())
    sign = np.sign(before[first])
    second = int((sign * after).argmax())
    return float(after[second] / before[first]), (second - first) / sfreq


def mean_rrmse_t(clean: np.ndarray, denoised: np.ndarray) -> float:
    """Mean of :func:`rrmse_t` over the epochs in which there is a clean signal."""
    empty = ~clean.any(axis=(1, 2))
    if empty.all():
        raise ValueError(
            f"y is zero everywhere in all {len(clean)} epochs, so a relative error is "
            "undefined."
        )
    if empty.any():
        warnings.warn(
            f"Epochs {np.flatnonzero(empty).tolist()} of y are zero everywhere, so "
            "their relative error is undefined; the score covers the other "
            f"{np.sum(~empty)}.",
            stacklevel=3,
        )
    return float(np.mean(rrmse_t(clean[~empty], denoised[~empty])))


def _rms(X: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(X.reshape(len(X), -1) ** 2, axis=1))


def _checked(
    one: np.ndarray, other: np.ndarray, name: str = "clean", other_name="denoised"
) -> list[np.ndarray]:
    """Both as float64, since integers wrap round and squares of teslas underflow."""
    if np.shape(one) != np.shape(other):
        raise ValueError(
            f"{other_name} has shape {np.shape(other)}, but {name} has "
            f"{np.shape(one)}; they must be equal."
        )
    return [np.asarray(X, dtype=float) for X in (one, other)]
