"""Centre and scale of channels, as they are in most windows.

Medians over windows, so that a pop of ten millivolts in a few of them changes neither.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

# Channels below this share of the median scale of their type are flat.  A filter leaves
# 1e-10 of a constant, or less.
FLAT = 1e-6
# Larger factors between scales and those of the fit are not due to another person.
OTHER_SIZE = 30.0
# Channels that a message lists.
N_LISTED = 5

WindowMoments = tuple[np.ndarray, np.ndarray]


def moments_of_windows(signals: np.ndarray, length: int) -> WindowMoments:
    """Mean and variance of each channel in windows side by side.

    Parameters
    ----------
    signals : ndarray of shape (n_epochs, n_channels, n_times)
    length : int
        Samples in a window; all there are, if these are fewer.

    Returns
    -------
    mean, variance : ndarray of shape (n_windows, n_channels)
    """
    n_epochs, n_channels, n_times = signals.shape
    length = min(length, n_times)
    n_windows = n_times // length
    windows = signals[:, :, : n_windows * length]
    windows = windows.reshape(n_epochs, n_channels, n_windows, length)
    mean, variance = windows.mean(3, dtype=float), windows.var(3, dtype=float)
    return tuple(
        part.swapaxes(1, 2).reshape(-1, n_channels) for part in (mean, variance)
    )


def centre_and_scale(moments: list[WindowMoments]) -> tuple[np.ndarray, np.ndarray]:
    """Medians over windows of the mean and of the root mean square about it.

    Parameters
    ----------
    moments : list of what `moments_of_windows` gives

    Returns
    -------
    centre, scale : ndarray of shape (n_channels,)
    """
    mean, variance = (np.concatenate(part) for part in zip(*moments, strict=True))
    centre = np.median(mean, axis=0)
    return centre, np.sqrt(np.median(variance + (mean - centre) ** 2, axis=0))


def as_scaled(denoiser, signals: np.ndarray, mean: Any = None) -> np.ndarray:
    """Signals (..., n_channels, n_times) in units of the fit, float32."""
    mean = denoiser.mean_ if mean is None else mean
    centred = signals - mean[:, None]
    return (centred / denoiser.scale_[:, None]).astype(np.float32)


def check_none_flat(
    centre: np.ndarray, scale: np.ndarray, names: list, kinds: list[str]
) -> None:
    """Raise if channels hardly vary, of themselves or beside others of their kind."""
    usual = np.empty_like(scale)
    for kind in set(kinds):
        same = np.array([other == kind for other in kinds])
        usual[same] = np.median(scale[same])
    least = np.maximum(FLAT * usual, np.finfo(np.float32).eps * np.abs(centre))
    flat = np.flatnonzero(scale <= least)
    if len(flat):
        sizes = ", ".join(f"{scale[i]:.2g}" for i in flat[:N_LISTED])
        raise ValueError(
            f"Channels of X are flat: {[names[i] for i in flat]}. Their standard "
            f"deviation is {sizes} in most windows, the median over channels "
            f"{np.median(scale):.2g}. Mark them as bad, or leave them out."
        )


def warn_of_other_sizes(
    denoiser, moments: list[WindowMoments], name: str = "X", stacklevel: int = 4
) -> None:
    """Warn if the size of channels differs very much from that in the fit."""
    _, scale = centre_and_scale(moments)
    factor = scale / denoiser.scale_
    odd = np.flatnonzero((factor > OTHER_SIZE) | (factor < 1 / OTHER_SIZE))
    if len(odd) == 0:
        return
    names = denoiser.ch_names_ or list(range(denoiser.n_channels_))
    listed = ", ".join(
        f"{names[i]!r} {factor[i]:.2g} times ({scale[i]:.2g} here, "
        f"{denoiser.scale_[i]:.2g} there)"
        for i in odd[:N_LISTED]
    )
    more = f", and {len(odd) - N_LISTED} more" if len(odd) > N_LISTED else ""
    warnings.warn(
        f"{len(odd)} of {len(scale)} channels of {name} have a very different standard "
        f"deviation from the fit: {listed}{more}. The output is unreliable, because "
        "each channel affects the others. Check the unit; mark dead channels as bad "
        "and interpolate them.",
        stacklevel=stacklevel,
    )
