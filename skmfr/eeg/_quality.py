"""How near denoised signals are to clean ones: the measures of EEGdenoiseNet."""

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
    _check_shapes(clean, denoised)
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
    _check_shapes(clean, denoised)
    power, estimate = (np.abs(np.fft.rfft(X)) ** 2 for X in (clean, denoised))
    return _rms(estimate - power) / _rms(power)


def correlation(clean: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """Pearson's correlation in time, mean over the channels of an epoch.

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
    _check_shapes(clean, denoised)
    clean, denoised = (X - X.mean(-1, keepdims=True) for X in (clean, denoised))
    size = np.linalg.norm(clean, axis=-1) * np.linalg.norm(denoised, axis=-1)
    product = np.sum(clean * denoised, axis=-1)
    by_channel = np.divide(product, size, out=np.zeros_like(product), where=size > 0)
    return by_channel.reshape(len(clean), -1).mean(1)


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


def _check_shapes(clean: np.ndarray, denoised: np.ndarray) -> None:
    if clean.shape != denoised.shape:
        raise ValueError(
            f"denoised has shape {denoised.shape}, but clean has {clean.shape}; they "
            "must be equal."
        )
