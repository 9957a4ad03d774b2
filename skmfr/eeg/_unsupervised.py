"""Denoising without clean signals: atoms are parts of the signals."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from ._fitted import LOUDEST, TINY, new_sae, without_excluded
from ._windows import cut_windows, overlap_add

# Principal components of windows that an SAE learns from, at most.
N_DIMENSIONS = 512


def fit_windows(denoiser, signals: list[np.ndarray]) -> None:
    """Atoms of windows of all channels.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Gets the attributes that it has without clean signals.
    signals : list of ndarray of shape (n_epochs, n_channels, n_times)
        Scaled.
    """
    windows = np.concatenate([_flat_windows(denoiser, signal) for signal in signals])
    size = np.linalg.norm(windows, axis=1, keepdims=True)
    windows *= np.minimum(1, LOUDEST * np.median(size) / np.maximum(size, TINY))
    n_dimensions = min(N_DIMENSIONS, *windows.shape)
    pca = PCA(n_dimensions, random_state=denoiser.random_state).fit(windows)
    sae = new_sae(
        denoiser, n_components=256, k=16, transform_algorithm="omp", max_steps=1000
    )
    denoiser.pca_ = pca
    denoiser.sae_ = sae.fit(pca.transform(windows))
    atoms = denoiser.sae_.components_ @ pca.components_
    denoiser.atoms_ = atoms.reshape(-1, denoiser.n_channels_, denoiser.n_times_)


def codes_of_windows(denoiser, signals: np.ndarray) -> np.ndarray:
    """Codes of scaled signals, (n_epochs * n_windows, n_atoms)."""
    windows = denoiser.pca_.transform(_flat_windows(denoiser, signals))
    return denoiser.sae_.transform(windows)


def explained(denoiser, signals: np.ndarray) -> np.ndarray:
    """What the atoms that are not left out make of scaled signals."""
    codes = without_excluded(denoiser, codes_of_windows(denoiser, signals))
    windows = denoiser.pca_.inverse_transform(denoiser.sae_.inverse_transform(codes))
    return _joined(denoiser, windows, signals.shape)


def contributed(denoiser, signals: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """What some atoms contribute to scaled signals, of the same shape."""
    codes = codes_of_windows(denoiser, signals)[:, atoms]
    windows = np.tensordot(codes, denoiser.atoms_[atoms], 1)
    return _joined(denoiser, windows, signals.shape)


def _flat_windows(denoiser, signals: np.ndarray) -> np.ndarray:
    """Windows of all channels, (n_epochs * n_windows, n_channels * n_times_)."""
    windows = cut_windows(signals, denoiser.n_times_, denoiser.hop_)
    return windows.swapaxes(1, 2).reshape(-1, denoiser.n_channels_ * denoiser.n_times_)


def _joined(denoiser, windows: np.ndarray, shape) -> np.ndarray:
    """Signals of the shape, of windows of them in whatever shape."""
    n_epochs, n_channels, n_times = shape
    windows = windows.reshape(n_epochs, -1, n_channels, denoiser.n_times_)
    return overlap_add(windows.swapaxes(1, 2), n_times, denoiser.hop_)
