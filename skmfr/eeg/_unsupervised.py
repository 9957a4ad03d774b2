"""Denoising without clean signals: atoms are parts of the signals."""

from __future__ import annotations

import warnings
from functools import reduce

import numpy as np
from sklearn.decomposition import PCA

from ._applying import as_spectra, windows_to_learn_from, without_artifacts
from ._fitted import LOUDEST, TINY, fitted_sae, new_sae, without_excluded
from ._recordings import Reader
from ._removal import (
    ArtifactFilter,
    covariances,
    learn_filter,
    learn_fixed_filter,
    share_removed,
    usual_size,
    without_found,
)
from ._scales import (
    common_as_scaled,
    common_signal,
    common_weights,
    without_common,
)
from ._windows import cut_windows, overlap_add, taper

# Maximum numbers of principal components that an SAE learns from, and of its atoms.
N_DIMENSIONS = 512
N_ATOMS = 256
# Windows side by side for each principal component.  Components of white noise explain
# one part in so many more of the windows they come from than of others.
WINDOWS_PER_DIMENSION = 12
# Atoms for each principal component, and for each atom that is active at once.
ATOMS_PER_DIMENSION = 2
ATOMS_PER_ACTIVE = 16
# Windows side by side below which there is little to learn from.
FEW_WINDOWS = 60
# Share of the power of atoms to remove that a filter learned from quiet windows takes
# out at least, if there are such windows.  Of blinks it took three quarters or more, of
# muscles half or more, of heartbeats that leave no quiet window a third or less.
MUCH_OF_ATOMS = 0.4
# The same for one atom, where the others do leave windows quiet.  Of atoms of the
# mains, it took .12 or less, except for rare ones; of one of muscles .24 or more.
LEAST_OF_AN_ATOM = 0.15
# Share of the power of all atoms below which these are remnants of the others, at the
# same place: a filter that is always on would take much of the brain there.
LITTLE = 0.05


def sizes_for(n_windows: int, n_numbers: int) -> tuple[int, int, int]:
    """How much may be learned from so many windows.

    Parameters
    ----------
    n_windows : int
        Windows side by side that fill the signals.
    n_numbers : int
        Numbers in a window.

    Returns
    -------
    n_dimensions, n_atoms, k : int
        Principal components, atoms, and atoms that are active at once.
    """
    n_dimensions = min(
        N_DIMENSIONS, n_numbers, max(4, n_windows // WINDOWS_PER_DIMENSION)
    )
    n_atoms = min(N_ATOMS, ATOMS_PER_DIMENSION * n_dimensions)
    return n_dimensions, n_atoms, min(n_dimensions, max(2, n_atoms // ATOMS_PER_ACTIVE))


def fit_windows(denoiser, signals: list[np.ndarray], decim: int = 1) -> None:
    """Atoms of windows of all channels.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Gets the attributes that it has without clean signals.
    signals : list of ndarray of shape (n_epochs, n_channels, n_times)
        Scaled.
    decim : int
        Atoms are learned from every `decim`-th window.
    """
    windows = np.concatenate([_flat_windows(denoiser, signal) for signal in signals])
    n_all = len(windows)
    windows = windows[::decim]
    if len(windows) < 2 <= n_all:
        raise ValueError(
            f"decim={decim} leaves {len(windows)} of {n_all} windows of X to learn "
            "from: lower it."
        )
    size = np.linalg.norm(windows, axis=1, keepdims=True)
    windows *= np.minimum(1, LOUDEST * np.median(size) / np.maximum(size, TINY))
    n_times = sum(len(signal) * signal.shape[2] for signal in signals)
    n_windows = min(n_times // denoiser.n_times_, len(windows))
    n_dimensions, n_atoms, k = sizes_for(n_windows, windows.shape[1])
    if n_windows < FEW_WINDOWS:
        warnings.warn(
            f"X has {n_windows} windows of {denoiser.n_times_} samples, from which "
            f"{n_dimensions} principal components are learned; atoms need at least "
            f"{FEW_WINDOWS} windows. Pass a longer recording, or lower the parameter "
            "window.",
            stacklevel=5,
        )
    n_dimensions = min(n_dimensions, len(windows))
    # Two rounds, as spectra of EEG fall steeply, and the rest is noise.
    pca = PCA(n_dimensions, iterated_power=2, random_state=denoiser.random_state)
    pca.set_output(transform="default").fit(windows)
    # Products are rounded as in a denoiser read from a file, which has this order.
    pca.components_ = np.ascontiguousarray(pca.components_)
    sae = new_sae(
        denoiser, n_components=n_atoms, k=k, transform_algorithm="omp", max_steps=400
    )
    denoiser.pca_ = pca
    denoiser.sae_ = fitted_sae(sae, pca.transform(windows))
    if not denoiser.sae_.trusted_.any():
        warnings.warn(
            f"None of {len(denoiser.sae_.trusted_)} atoms is trusted: it is not sure "
            "enough that another fit finds them again. Fit a longer recording, pass an "
            "sae with more witnesses (n_witnesses), or read the atoms as pieces of "
            "this recording only.",
            stacklevel=5,
        )
    denoiser.atoms_ = as_signals(denoiser.sae_.components_, pca, denoiser.n_channels_)


def as_signals(directions: np.ndarray, pca: PCA, n_channels: int) -> np.ndarray:
    """Directions of principal components of windows, (n, n_channels, n_times)."""
    return (directions @ pca.components_).reshape(len(directions), n_channels, -1)


def codes_of_windows(denoiser, signals: np.ndarray) -> np.ndarray:
    """Codes of scaled signals, (n_epochs * n_windows, n_atoms)."""
    windows = denoiser.pca_.transform(_flat_windows(denoiser, signals))
    return denoiser.sae_.transform(windows)


def warn_of_what_stays(denoiser) -> None:
    """Warn if atoms are left out, and what they contribute to the reference is not."""
    leaves_out = denoiser.trusted_only or len(np.atleast_1d(denoiser.exclude))
    if leaves_out and denoiser.reference_weights_.any():
        warnings.warn(
            "transform leaves out atoms, but not their part of the mean over channels, "
            "which no atom contains. Use apply to remove artefacts, or set an average "
            "reference before the fit.",
            stacklevel=3,
        )


def explained(denoiser, signals: np.ndarray) -> np.ndarray:
    """Reconstruct scaled signals from the atoms that are not left out.

    The mean over EEG channels is in no atom, and stays.
    """
    codes = without_excluded(denoiser, codes_of_windows(denoiser, signals))
    windows = denoiser.pca_.inverse_transform(denoiser.sae_.inverse_transform(codes))
    common = signals - without_common(denoiser, signals)
    return common + _joined(denoiser, windows, signals.shape)


def removal(denoiser, atoms: np.ndarray, reader: Reader, everywhere: bool = False):
    """Make a function that removes the artefacts of atoms from scaled signals.

    It is learned from windows of a reader. With `everywhere`, it also removes artefacts
    from windows in which they are not loud.
    """
    if len(atoms) == 0:
        return lambda signals: signals
    recorded = windows_to_learn_from(denoiser, reader)
    windows = without_common(denoiser, recorded)
    codes = denoiser.sae_.transform(
        denoiser.pca_.transform(windows.reshape(len(windows), -1))
    )
    atoms = atoms[codes[:, atoms].any(0)]
    found = filters_for(windows, denoiser.atoms_[atoms], codes[:, atoms])
    steps = [
        without_artifacts(denoiser, learned, everywhere)
        for learned in filters_as_recorded(denoiser, found, recorded)
    ]
    return lambda signals: reduce(lambda left, step: step(left), steps, signals)


def filters_as_recorded(
    denoiser, found: list[ArtifactFilter], windows: np.ndarray
) -> list[ArtifactFilter]:
    """Filters for signals as recorded, each for what those before it leave."""
    if not denoiser.reference_weights_.any():
        return found
    served: list[ArtifactFilter] = []
    length = windows.shape[2]
    for learned in found:
        if served:
            rest = without_found(as_spectra(windows), served[-1])
            windows = np.fft.irfft(rest, length).astype(windows.dtype)
        served.append(as_recorded(denoiser, learned, windows))
    return served


def as_recorded(
    denoiser, learned: ArtifactFilter, windows: np.ndarray
) -> ArtifactFilter:
    """A filter that was learned in average reference, for signals as recorded.

    It sees the same. The contribution of artefacts to the reference is regressed on
    what it finds, over the windows (n_windows, n_channels, n_times) that it is for.
    """
    weights = common_weights(denoiser)
    common = common_as_scaled(denoiser)
    seen = (learned.filters @ common)[:, :, None] * weights
    filters = learned.filters - seen
    spectra = as_spectra(windows)
    found = np.einsum("fri,wif->rwf", filters, spectra, optimize=True)
    found *= learned.band[:, None]
    mean = common_signal(denoiser, spectra)
    if not learned.brain.any():  # always on, where frequencies count alike
        size = usual_size(np.square(np.abs(mean)).T)
        found, mean = found / size, mean / size
    found, mean = found.reshape(len(found), -1), mean.ravel()
    share = np.linalg.lstsq(
        np.concatenate([found.real, found.imag], axis=1).T,
        np.concatenate([mean.real, mean.imag]),
    )[0]
    topographies = learned.topographies + common[:, None] * share
    return learned._replace(filters=filters, topographies=topographies)


def filters_for(
    windows: np.ndarray, atoms: np.ndarray, codes: np.ndarray
) -> list[ArtifactFilter]:
    """Filters for what leaves windows quiet, then for what is in all of them.

    Parameters
    ----------
    windows : ndarray of shape (n_windows, n_channels, n_times)
        Of a recording.
    atoms : ndarray of shape (n_atoms, n_channels, n_times)
        To remove.
    codes : ndarray of shape (n_windows, n_atoms)

    Returns
    -------
    list of ArtifactFilter
        At most two, none if there are no atoms. The second is for what the first
        leaves.
    """
    if len(atoms) == 0:
        return []

    def covariance(some: np.ndarray) -> np.ndarray:
        contributed = np.tensordot(codes[:, some], atoms[some], 1)
        return covariances(as_spectra(contributed)).sum(0)

    spectra, of_atoms = as_spectra(windows), as_spectra(atoms)
    everything = np.ones(len(atoms), dtype=bool)
    learned = learn_filter(spectra, covariance(everything))
    removed = share_removed(learned, spectra, of_atoms, codes)
    power = np.square(np.abs(of_atoms)).sum((1, 2)) * np.square(codes).sum(0)
    steady = removed < LEAST_OF_AN_ATOM
    if np.sum(power[steady]) < LITTLE * np.sum(power):
        steady[:] = False
    if np.sum((removed * power)[~steady]) < MUCH_OF_ATOMS * np.sum(power[~steady]):
        steady = everything
    if not steady.any():
        return [learned]
    length = windows.shape[2]
    if steady.all():
        return [_fixed_filter(windows, covariance(steady))]
    learned = learn_filter(spectra, covariance(~steady))
    rest = np.fft.irfft(without_found(spectra, learned), length).astype(windows.dtype)
    return [learned, _fixed_filter(rest, covariance(steady))]


def _fixed_filter(windows: np.ndarray, of_artifacts: np.ndarray) -> ArtifactFilter:
    """Learn a filter for what is in all windows, (n_windows, n_channels, n_times)."""
    length = windows.shape[2]
    # An offset, however small, would fill directions that are empty in average
    # reference.
    tapered = taper(length).astype(windows.dtype)
    offset = windows.mean((0, 2)) / tapered.mean()
    spectra = as_spectra(windows - offset[:, None] * tapered)
    return learn_fixed_filter(spectra, of_artifacts, length)


def _flat_windows(denoiser, signals: np.ndarray) -> np.ndarray:
    """Windows of all channels in average reference, (n, n_channels * n_times_)."""
    signals = without_common(denoiser, signals)
    windows = cut_windows(signals, denoiser.n_times_, denoiser.hop_)
    return windows.swapaxes(1, 2).reshape(-1, denoiser.n_channels_ * denoiser.n_times_)


def _joined(denoiser, windows: np.ndarray, shape) -> np.ndarray:
    """Signals of the shape, of windows of them in whatever shape."""
    n_epochs, n_channels, n_times = shape
    windows = windows.reshape(n_epochs, -1, n_channels, denoiser.n_times_)
    return overlap_add(windows.swapaxes(1, 2), n_times, denoiser.hop_)
