"""Centre and scale of channels, as they are in most windows.

Medians over windows, so that a pop of ten millivolts in a few of them changes neither.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._recordings import Reader

# Channels below this share of the median scale of their type are flat.  A filter leaves
# 1e-10 of a constant, or less.
FLAT = 1e-6
# Larger factors between scales and those of the fit are not due to another person.
OTHER_SIZE = 30.0
# Distance of a centre from that of the fit, in units of `scale_`, up to which it is due
# to chance: so much over the root of the number of windows, or the second in one of so
# many parts. In recordings of three people, filtered or not, it was up to 3.8 in one
# window, .5 in ten, .25 in all. Half a scale hardly changes what is denoised.
BY_CHANCE, LEAST_OFFSET, N_PARTS = 4.0, 0.25, 8
# Variance of the offsets of epochs, relative to that in windows, from which offsets are
# most of what there is to learn.
MANY_OFFSETS = 10.0
# EEG channels from which on their mean says what the reference electrode records; of
# fewer, most may be near the eyes.
COVERING = 12
# Share of their power above which they have something in common.
COMMON = 1e-6
# Channels so many times larger than usual, or smaller, are broken.
BROKEN = 5.0
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


def reference_weights(
    signals: list[np.ndarray], scale: np.ndarray, ch_types: list[str]
) -> np.ndarray:
    """Weights of channels in what all channels have in common, (n_channels,).

    EEG is the difference to a reference electrode, whose own signal is in all channels.

    Parameters
    ----------
    signals : list of ndarray of shape (n_epochs, n_channels, n_times)
        In units of the data.
    scale : ndarray of shape (n_channels,)
    ch_types : list of str

    Returns
    -------
    ndarray of shape (n_channels,)
        Of EEG channels that are not broken 1 / their number, so that the weighted sum
        is their mean. All are 0 if there are few, or if nothing is in common: in
        average reference.
    """
    of_eeg = np.array([kind == "eeg" for kind in ch_types])
    if of_eeg.any():
        usual = np.median(scale[of_eeg])
        of_eeg &= (scale < BROKEN * usual) & (scale > usual / BROKEN)
    weights = of_eeg / max(1, of_eeg.sum())
    power, common = 0.0, 0.0
    for signal in signals:
        centred = signal - signal.mean((0, 2), keepdims=True)
        power += np.square(centred[:, of_eeg]).sum(dtype=float)
        common += np.square(weights @ centred).sum(dtype=float)
    enough = of_eeg.sum() >= COVERING
    return weights * (enough and of_eeg.sum() * common > COMMON * power)


def own_scale(denoiser, scaled: list[np.ndarray]) -> np.ndarray:
    """Scale of channels in average reference, (n_channels,), in units of the data.

    Of scaled signals (n_epochs, n_channels, n_times).
    """
    if not denoiser.reference_weights_.any():
        return denoiser.scale_
    moments = [
        moments_of_windows(without_common(denoiser, part), denoiser.n_times_)
        for part in scaled
    ]
    return denoiser.scale_ * centre_and_scale(moments)[1]


def contained(scale: np.ndarray) -> dict[str, np.ndarray]:
    """Attributes of a denoiser whose atoms contain what all channels have in common."""
    return {"reference_weights_": np.zeros(len(scale)), "own_scale_": scale}


def common_signal(denoiser, scaled: np.ndarray) -> np.ndarray:
    """Mean over EEG channels (..., n_times), in units of the data.

    Of scaled signals, or spectra, (..., n_channels, n_times).
    """
    return common_weights(denoiser).astype(scaled.real.dtype) @ scaled


def common_weights(denoiser) -> np.ndarray:
    """Weights of scaled channels in the mean over EEG channels, (n_channels,)."""
    return denoiser.reference_weights_ * denoiser.scale_


def without_common(denoiser, scaled: np.ndarray) -> np.ndarray:
    """Scaled signals (..., n_channels, n_times) in average reference."""
    if not denoiser.reference_weights_.any():
        return scaled
    common = common_signal(denoiser, scaled)[..., None, :]
    return scaled - common_as_scaled(denoiser)[:, None].astype(scaled.dtype) * common


def common_as_scaled(denoiser) -> np.ndarray:
    """A common signal of 1, in units of the data, as scaled channels, (n_channels,)."""
    return (denoiser.reference_weights_ > 0) / denoiser.scale_


def centre_here(
    denoiser,
    moments: WindowMoments,
    there: np.ndarray | None = None,
    n_averaged: int | None = None,
) -> np.ndarray:
    """Centre of signals: that of the fit, unless their own is too far from it.

    A constant offset that the fit did not have does not count as an artefact. It is
    there from the beginning to the end, which tells it from slow waves, though not in a
    window or two.

    Parameters
    ----------
    denoiser : EEGDenoiser
    moments : WindowMoments
        Of the signals.
    there : ndarray of shape (n_channels,), default=None
        Centre of other signals of the same recording, which these may have.
    n_averaged : int, default=None
        Number of epochs, if the signals are their average. Averages are processed
        linearly: their centre counts only if it is larger than any brain's.

    Returns
    -------
    ndarray of shape (n_channels,)
    """
    own, _ = centre_and_scale([moments])
    known = denoiser.mean_
    if there is not None:
        known = np.where(np.abs(own - there) < np.abs(own - known), there, known)
    if n_averaged is not None:
        far = np.abs(own - known) > OTHER_SIZE * denoiser.scale_
        return own if far.any() else known
    parts = np.array_split(moments[0], min(N_PARTS, len(moments[0])))
    beyond = np.array([np.median(part, axis=0) for part in parts]) - known
    throughout = np.min(np.sign(own - known) * beyond, axis=0)
    by_chance = BY_CHANCE / np.sqrt(len(moments[0]))
    far = np.abs(own - known) > by_chance * denoiser.scale_
    far &= throughout > LEAST_OFFSET * denoiser.scale_
    # Where one channel has an offset, others have some that are too small to be sure.
    return own if far.any() else known


def centre_of(
    denoiser,
    reader: Reader,
    learn_from: Reader | None = None,
    n_averaged: int | None = None,
) -> np.ndarray:
    """Centre of what is read, (n_channels,), by `centre_here`.

    `learn_from` is of other signals of the recording, whose centre these may have.
    """
    there = None if learn_from is None else centre_of(denoiser, learn_from)
    return centre_here(denoiser, reader.moments(denoiser.n_times_), there, n_averaged)


def no_offset_of_brains(denoiser, centre: np.ndarray) -> np.ndarray:
    """Offset from the fit that clean signals cannot have, (n_channels,), or zeros.

    Responses, which are in all epochs, are an offset of these too, if a smaller one.
    """
    offset = centre - denoiser.mean_
    return offset * (np.abs(offset) > BY_CHANCE * denoiser.scale_).any()


def warn_of_offsets_of_epochs(
    moments: list[WindowMoments], name: str = "X", stacklevel: int = 5
) -> None:
    """Warn if the offsets of epochs differ, and hide all else."""
    mean, variance = (np.concatenate(part) for part in zip(*moments, strict=True))
    offset = np.median((mean - np.median(mean, axis=0)) ** 2, axis=0)
    usual = np.median(variance, axis=0)
    if np.median(offset) > MANY_OFFSETS * np.median(usual):
        warnings.warn(
            f"Epochs of {name} have offsets that differ by "
            f"{np.sqrt(np.median(offset / usual)):.2g} standard deviations of what is "
            "in them, and hide it. High-pass filter the recording before you cut it "
            "into epochs, or subtract the mean of each epoch.",
            stacklevel=stacklevel,
        )


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
    denoiser,
    moments: WindowMoments,
    name: str = "X",
    stacklevel: int = 4,
    n_averaged: int | None = None,
) -> None:
    """Warn if the size of channels differs very much from that in the fit.

    An average of so many epochs is smaller by nature.
    """
    _, scale = centre_and_scale([moments])
    factor = scale / denoiser.scale_
    least = 1 / OTHER_SIZE / np.sqrt(n_averaged or 1)
    odd = np.flatnonzero((factor > OTHER_SIZE) | (factor < least))
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
