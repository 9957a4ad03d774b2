"""Helpers of both ways of denoising."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.base import clone

from .._estimator import MFRSparseAutoencoder
from ._recordings import Reader

# Norm of a window, relative to the median, from which it counts less in a fit, so that
# one pop is not most of the variance.  Blinks are not as large.
LOUDEST = 10.0
TINY = np.finfo(np.float32).tiny


def check_shape(denoiser, reader: Reader) -> None:
    """Whether signals have the channels of the fit, and fill a window."""
    if reader.shape[1] != denoiser.n_channels_:
        raise ValueError(
            f"{reader.name} has {reader.shape[1]} channels; the denoiser was fitted on "
            f"{denoiser.n_channels_}."
        )
    if reader.shape[2] < denoiser.n_times_:
        raise ValueError(
            f"{reader.name} has {reader.shape[2]} samples, which is shorter than a "
            f"window of {denoiser.n_times_} samples; lower the parameter window."
        )


def check_atoms_are_signals(denoiser, what: str) -> None:
    """Whether the denoiser was fitted without clean signals, as `what` needs it."""
    if hasattr(denoiser, "filters_"):
        raise ValueError(
            f"{what} needs a denoiser that was fitted without y: with clean signals, "
            "atoms are spectra and not parts of the signal. Use transform, or apply "
            "without naming atoms."
        )


def checked_atoms(denoiser, numbers, name: str = "exclude") -> np.ndarray:
    """Numbers of atoms (n,), each once, that a parameter of this name gives."""
    atoms, n_atoms = np.asarray(numbers), len(denoiser.sae_.components_)
    if atoms.size == 0:
        return np.zeros(0, dtype=int)
    if atoms.dtype == bool and atoms.shape == (n_atoms,):
        return np.flatnonzero(atoms)
    if atoms.dtype.kind not in "iu" or atoms.ndim != 1:
        raise ValueError(
            f"{name} must be atom indices or a mask of {n_atoms} values, got "
            f"{numbers!r}."
        )
    if atoms.min() < 0 or atoms.max() >= n_atoms:
        raise ValueError(
            f"{name} must be atom indices from 0 to {n_atoms - 1}, got {numbers!r}."
        )
    return atoms[np.sort(np.unique(atoms, return_index=True)[1])]


def without_excluded(denoiser, codes: np.ndarray) -> np.ndarray:
    """Codes, changed in place, without those of atoms that are left out."""
    codes[:, checked_atoms(denoiser, denoiser.exclude)] = 0
    if denoiser.trusted_only:
        if not denoiser.sae_.trusted_.any():
            warnings.warn(
                f"None of {codes.shape[1]} atoms is trusted, so trusted_only=True sets "
                "all codes to 0. Fit a longer recording, or set trusted_only=False.",
                stacklevel=5,
            )
        codes[:, ~denoiser.sae_.trusted_] = 0
    return codes


def fitted_sae(sae: MFRSparseAutoencoder, X: np.ndarray) -> MFRSparseAutoencoder:
    """Fit an SAE to windows; its warning about large rows is about windows here."""
    from .._training.outliers import OutlyingRows  # with torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutlyingRows)
        sae.fit(X)
    if sae.n_outliers_:
        warnings.warn(
            f"{sae.n_outliers_} of {len(X)} windows hold most of X's variance, as "
            "blinks, movements and pops of electrodes do. Training counts them less. "
            "Annotate movements and pops as BAD; leave blinks unmarked, so that the "
            "fit finds their atoms.",
            stacklevel=6,
        )
    return sae


def new_sae(denoiser, **usual) -> MFRSparseAutoencoder:
    """The SAE that a denoiser is to fit, with these parameters if it has none."""
    if denoiser.sae is not None:
        sae = clone(denoiser.sae).set_params(sparse_output=False)
    else:
        sae = MFRSparseAutoencoder(**usual, random_state=denoiser.random_state)
    # Codes are arrays, whatever scikit-learn is told to give.
    return sae.set_output(transform="default")
