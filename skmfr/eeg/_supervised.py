"""Denoising learned from clean signals: codes of spectra combine filters."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.ndimage import uniform_filter1d
from sklearn.utils import column_or_1d

from ._applying import as_spectra, windows_to_learn_from, without_artifacts
from ._filters import (
    apply_filters,
    solve_filters,
    spatial_filters,
    spectral_features,
)
from ._fitted import LOUDEST, TINY, fitted_sae, new_sae, without_excluded
from ._recordings import Reader
from ._removal import (
    N_TOPOGRAPHIES,
    covariances,
    found_in_clean,
    gain_on_average,
    learn_filter,
)
from ._windows import count_windows, cut_windows, overlap_add, taper

# Channels of windows that the second dictionary is learned from, at most.
FIT_ROWS = 50_000
# Epochs are weighted by one over their clean power, but no more than those at this
# quantile of it.
LEAST_POWER = 0.05
N_FOLDS = 5
# Windows, counted once for each channel, from which the usual size of corrections is
# learned, and quantiles of the sizes in clean and in noisy signals. A correction is
# left out if it is smaller than the first, or than half of the second if that is less.
# Neighbouring windows share the mean of their sizes.
CORRECTION_ROWS = 10_000
MOST_CLEAN, LEAST_NOISY = 0.9, 0.05
N_WINDOWS = 3
# Power of artefacts, relative to clean signals, that is rounding.
NO_ARTIFACTS = 1e-8
# Share of the artefacts' power below which `apply` warns that it leaves the rest.
MOST_OF_ARTIFACTS = 0.95


def folds_of_epochs(
    groups, n_epochs: int, pieces: list[slice], is_recording: bool
) -> list[np.ndarray]:
    """Number of the fold of each epoch that is fitted, piece by piece.

    Pieces of a recording are epochs.
    """
    if is_recording:
        n_epochs, pieces = len(pieces), [slice(i, i + 1) for i in range(len(pieces))]
    if groups is None:
        numbers = np.arange(n_epochs) * N_FOLDS // n_epochs
    else:
        groups = checked_groups(groups, None if is_recording else n_epochs)
        values, numbers = np.unique(groups, return_inverse=True)
        if len(values) == 1:
            raise ValueError(
                f"groups must have at least two values, got only {values.tolist()}: "
                "cross-validation holds out some groups and learns from the others. "
                "With groups=None it holds out consecutive epochs."
            )
        numbers = numbers % N_FOLDS
    return [numbers[piece] for piece in pieces]


def checked_groups(groups, n_epochs: int | None) -> np.ndarray:
    """Group of each epoch, (n_epochs,); a recording has no epochs."""
    groups = column_or_1d(groups)
    if len(groups) != n_epochs:
        raise ValueError(
            f"groups must have an entry for each epoch of X, got {len(groups)} for "
            f"{'a recording' if n_epochs is None else n_epochs}."
        )
    # NaN is unlike itself.
    unknown = [i for i, each in enumerate(groups) if each is None or each != each]
    if unknown:
        raise ValueError(
            f"groups must name the group of each epoch, but it is "
            f"{groups[unknown[0]]!r} for {len(unknown)} of them, first epoch "
            f"{unknown[0]}."
        )
    return groups


def cut_in_folds(
    noisy: np.ndarray, clean: np.ndarray, length: int
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Cut one epoch, or what is read at once of a recording, so that there are folds.

    Parameters
    ----------
    noisy, clean : ndarray of shape (1, n_channels, n_times)
    length : int
        Samples in a window, which each piece has at least.

    Returns
    -------
    folds, noisy, clean : list of ndarray
        For each piece.
    """
    n_pieces = min(N_FOLDS, noisy.shape[2] // length)
    if n_pieces == 1:
        warnings.warn(
            f"X has one epoch of {noisy.shape[2]} samples, less than two windows of "
            f"{length}: cross-validation has nothing to leave out, and the smallest "
            "ridge is taken. Pass more epochs, or lower the parameter window.",
            stacklevel=5,
        )
    # Of one length, as epochs are.
    n_times = noisy.shape[2] // n_pieces * n_pieces
    one, other = (
        np.split(part[:, :, :n_times], n_pieces, axis=2) for part in (noisy, clean)
    )
    return [np.array([i]) for i in range(n_pieces)], one, other


def fit_filters(
    denoiser,
    noisy: list[np.ndarray],
    clean: list[np.ndarray],
    folds: list[np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Spatial filters, codes of spectra, and the second dictionary.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Gets the attributes that it has with clean signals.
    noisy, clean : list of ndarray of shape (n_epochs, n_channels, n_times)
        Scaled signals.
    folds : list of ndarray of shape (n_epochs,)
    rng : Generator
    """

    def rows_of(signals: np.ndarray) -> int:
        n_windows = count_windows(signals.shape[2], denoiser.n_times_, denoiser.hop_)
        return len(signals) * n_windows * denoiser.n_channels_

    pairs = noisy, clean
    noisy, clean, folds = remixed(noisy, clean, folds, rows_of, rng)
    spectra = [_spectra(denoiser, signals) for signals in noisy]
    targets = [_spectra(denoiser, signals) for signals in clean]
    weights = bounded(_for_rows(relative_weights(clean), spectra), spectra)
    several = denoiser.n_channels_ > 1
    if several:
        _fit_spatial(denoiser, spectra, targets, weights)
    rows = rng.permutation(sum(weight.size for weight in weights))[:FIT_ROWS]

    def chosen(parts: list) -> np.ndarray:
        width = parts[0].shape[3:]
        return np.concatenate([part.reshape(-1, *width) for part in parts])[rows]

    filtered = [_spatially_filtered(denoiser, part) for part in spectra]
    features = chosen(
        [spectral_features(*pair) for pair in zip(spectra, filtered, strict=True)]
    )
    denoiser.feature_mean_, scale = features.mean(0), features.std(0)
    denoiser.feature_scale_ = np.where(scale > 0, scale, 1).astype(np.float32)
    features = (features - denoiser.feature_mean_) / denoiser.feature_scale_
    sae = new_sae(denoiser, n_components=128, k=8, max_steps=1000)
    denoiser.sae_ = fitted_sae(sae, features)
    denoiser.filters_, denoiser.penalty_ = solve_filters(
        _combining(denoiser, features),
        [chosen(spectra), chosen(filtered)] if several else [chosen(spectra)],
        chosen(targets),
        chosen(weights),
        chosen(_for_rows(folds, spectra)),
    )
    decim = -(-sum(map(rows_of, pairs[0])) // CORRECTION_ROWS)
    denoiser.least_correction_ = _least_correction(denoiser, *pairs, decim)


def _fit_spatial(
    denoiser,
    noisy: list[np.ndarray],
    clean: list[np.ndarray],
    weights: list[np.ndarray],
) -> None:
    """Spatial filters, and covariances of clean windows and of artefacts.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Gets them as attributes.
    noisy, clean : list of ndarray of shape (n_epochs, n_windows, n_channels, n_freqs)
        Spectra.
    weights : list of ndarray of shape (n_epochs, n_windows, n_channels)
        Equal for all channels of a window.
    """
    noisy_windows, clean_windows = (
        np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])
        for parts in (noisy, clean)
    )
    weight = np.concatenate([part[:, :, 0].ravel() for part in weights])
    denoiser.spatial_filters_ = spatial_filters(noisy_windows, clean_windows, weight)
    denoiser.clean_covariances_ = covariances(clean_windows, weight)
    artifacts = noisy_windows - clean_windows
    denoiser.artifact_covariance_ = covariances(artifacts, weight).sum(0)


def _least_correction(
    denoiser, noisy: list[np.ndarray], clean: list[np.ndarray], decim: int
) -> float:
    """Size below which corrections are left out, learned from every decim-th epoch."""
    of_noisy, of_clean = (
        np.concatenate(
            [
                corrections(*_estimated(denoiser, signals[::decim])).ravel()
                for signals in part
            ]
        )
        for part in (noisy, clean)
    )
    return float(
        min(np.quantile(of_clean, MOST_CLEAN), np.quantile(of_noisy, LEAST_NOISY) / 2)
    )


def filtered_signals(denoiser, signals: np.ndarray) -> np.ndarray:
    """Scaled signals (n_epochs, n_channels, n_times), denoised by the filters.

    Windows that need no larger a correction than clean ones stay as they are: they are
    not moved to the mean of clean signals either.
    """
    spectra, clean = _estimated(denoiser, signals)
    least = denoiser.least_correction_
    needed = np.maximum(corrections(spectra, clean), max(least, TINY))
    share = 1 - (least / needed) ** 2
    share = share.astype(clean.real.dtype)[:, :, None, None]
    change = np.fft.irfft(clean - spectra, denoiser.n_times_)
    moved = (denoiser.clean_mean_ - denoiser.mean_) / denoiser.scale_
    change += np.outer(moved, taper(denoiser.n_times_))
    change = (share * change).swapaxes(1, 2)
    return signals + overlap_add(change, signals.shape[2], denoiser.hop_)


def removal_of_known(denoiser, reader: Reader, everywhere: bool = False):
    """Make a function that removes the artefacts of the fit from scaled signals.

    The filter is learned from windows of a reader; how much of its output is the
    brain's, clean signals of the fit say.
    """
    sizes = np.linalg.eigvalsh(denoiser.artifact_covariance_)[::-1]
    if sizes.sum() <= NO_ARTIFACTS * np.trace(denoiser.clean_covariances_.sum(0)):
        warnings.warn(
            "Noisy and clean signals of the fit are the same: it knows no artefacts, "
            "and apply removes none.",
            stacklevel=5,
        )
        return lambda signals: signals
    share = sizes[:N_TOPOGRAPHIES].sum() / max(sizes.sum(), TINY)
    if share < MOST_OF_ARTIFACTS:
        warnings.warn(
            f"{N_TOPOGRAPHIES} topographies, as many as apply removes, have "
            f"{share:.0%} of the power of the artefacts in the fit, so much of them "
            "will stay. Use transform, as muscles have more topographies than eyes.",
            stacklevel=5,
        )
    windows = as_spectra(windows_to_learn_from(denoiser, reader))
    learned = learn_filter(windows, denoiser.artifact_covariance_)
    in_clean = found_in_clean(learned, denoiser.clean_covariances_)
    learned = learned._replace(in_clean=in_clean)
    if everywhere:
        learned = learned._replace(on_average=gain_on_average(learned, windows))
    return without_artifacts(denoiser, learned, everywhere)


def corrections(spectra: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Power of what is taken out of windows, relative to what stays.

    Parameters
    ----------
    spectra, clean : ndarray of shape (n_epochs, n_windows, n_channels, n_freqs)
        Complex.

    Returns
    -------
    ndarray of shape (n_epochs, n_windows)
        Of averages over neighbouring windows.
    """
    taken, kept = (
        uniform_filter1d(
            np.square(np.abs(part)).sum((2, 3), dtype=float),
            N_WINDOWS,
            axis=1,
            mode="nearest",
        )
        for part in (spectra - clean, clean)
    )
    return taken / np.maximum(kept, TINY)


def _estimated(denoiser, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectra of windows, and clean ones as the filters estimate them."""
    spectra = _spectra(denoiser, signals)
    filtered = _spatially_filtered(denoiser, spectra)
    features = spectral_features(spectra, filtered)
    features = features.reshape(-1, features.shape[-1])
    features = (features - denoiser.feature_mean_) / denoiser.feature_scale_
    n_freqs = spectra.shape[3]
    inputs = [
        part.reshape(-1, n_freqs) for part in (spectra, filtered) if part is not None
    ]
    clean = apply_filters(_combining(denoiser, features), inputs, denoiser.filters_)
    return spectra, clean.reshape(spectra.shape)


def _spectra(denoiser, signals: np.ndarray) -> np.ndarray:
    """Of windows, (n_epochs, n_windows, n_channels, n_freqs), complex."""
    windows = cut_windows(signals, denoiser.n_times_, denoiser.hop_)
    return as_spectra(windows).swapaxes(1, 2)


def _spatially_filtered(denoiser, spectra: np.ndarray) -> np.ndarray | None:
    if denoiser.n_channels_ == 1:
        return None
    return np.einsum(
        "fij,ewjf->ewif", denoiser.spatial_filters_, spectra, optimize=True
    )


def _combining(denoiser, features: np.ndarray) -> np.ndarray:
    """Weights of the filters: 1, features, and codes of the SAE."""
    codes = without_excluded(denoiser, denoiser.sae_.transform(features))
    one = np.ones((len(features), 1), dtype=features.dtype)
    return np.hstack([one, features, codes])


def _for_rows(by_epoch: list[np.ndarray], spectra: list[np.ndarray]) -> list:
    """Numbers of epochs, for each channel of each window of them."""
    return [
        np.broadcast_to(numbers[:, None, None], spectrum.shape[:3])
        for numbers, spectrum in zip(by_epoch, spectra, strict=True)
    ]


def relative_weights(clean: list[np.ndarray]) -> list[np.ndarray]:
    """One over the power of each epoch, so that errors count relative to it.

    Parameters
    ----------
    clean : list of ndarray of shape (n_epochs, n_channels, n_times)

    Returns
    -------
    list of ndarray of shape (n_epochs,), float32
        Of mean 1.
    """
    power = [np.square(signals).mean((1, 2)) for signals in clean]
    together = np.concatenate(power)
    least = max(np.quantile(together, LEAST_POWER), 1e-6 * together.mean())
    least += np.finfo(np.float32).tiny
    mean = np.mean(1 / np.maximum(together, least))
    return [(1 / (np.maximum(p, least) * mean)).astype(np.float32) for p in power]


def bounded(weights: list[np.ndarray], spectra: list[np.ndarray]) -> list:
    """Weights with which no window counts for all others.

    Windows whose norm, weighted, is more than `LOUDEST` times the median count the less
    the larger they are: one pop of an electrode would else decide on all filters.

    Parameters
    ----------
    weights : list of ndarray of shape (n_epochs, n_windows, n_channels)
    spectra : list of ndarray of shape (n_epochs, n_windows, n_channels, n_freqs)

    Returns
    -------
    list of ndarray of shape (n_epochs, n_windows, n_channels)
    """
    power = [
        (weight * np.square(np.abs(part)).mean(3)).mean(2, keepdims=True)
        for weight, part in zip(weights, spectra, strict=True)
    ]
    most = LOUDEST**2 * np.median(np.concatenate([part.ravel() for part in power]))
    return [
        weight * np.minimum(1, most / np.maximum(part, TINY)) ** 2
        for weight, part in zip(weights, power, strict=True)
    ]


def remixed(noisy, clean, folds, rows_of, rng):
    """Add mixtures of clean epochs with the noise of others, while there is room.

    The noise of an epoch is what it has beyond the clean one. Its size relative to the
    clean one, and the size of the mixture, are those of epochs in the data. Noise goes
    round inside a fold, so that no fold knows that of another.

    Parameters
    ----------
    noisy, clean : list of ndarray of shape (n_epochs, n_channels, n_times)
    folds : list of ndarray of shape (n_epochs,)
    rows_of : callable(ndarray) -> int
        How much room some epochs take, of `FIT_ROWS`.
    rng : Generator

    Returns
    -------
    noisy, clean, folds
        The same, and more.
    """
    if any(signals.shape[1:] != clean[0].shape[1:] for signals in clean):
        return noisy, clean, folds  # spans of recordings
    all_noisy, all_clean, all_folds = map(np.concatenate, (noisy, clean, folds))

    def size(signals: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(signals).mean((1, 2), keepdims=True))

    noise = all_noisy - all_clean
    noise_size, clean_size = size(noise), size(all_clean)
    for _ in range(FIT_ROWS // rows_of(all_noisy) - 1):
        donors, ratios = np.arange(len(noise)), np.arange(len(noise))
        for fold in np.unique(all_folds):
            members = np.flatnonzero(all_folds == fold)
            donors[members] = rng.permutation(members)
            ratios[members] = rng.permutation(members)
        tiny = np.finfo(np.float32).tiny
        wanted = clean_size * noise_size[ratios] / (clean_size[ratios] + tiny)
        mixed = all_clean + noise[donors] * wanted / (noise_size[donors] + tiny)
        gain = size(all_noisy) / (size(mixed) + tiny)
        noisy = [*noisy, gain * mixed]
        clean = [*clean, gain * all_clean]
        folds = [*folds, all_folds]
    return noisy, clean, folds
