"""The scikit-learn face of EEG denoising; takes and gives MNE's objects."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from .._estimator import MFRSparseAutoencoder
from .._utils.documentation import DocumentationLinkMixin
from ..metrics import fvu
from ._filters import (
    N_NEIGHBOURS,
    apply_filters,
    describe,
    solve_filters,
    spatial_filters,
)
from ._fitted import (
    as_scaled,
    check_atoms_are_signals,
    check_length,
    checked_atoms,
    codes_of_windows,
    flat_windows,
)
from ._quality import rrmse_t
from ._recordings import (
    Reader,
    channels_to_fit,
    check_recording,
    chunks,
    is_epochs,
    is_raw,
    pieces_to_fit,
)
from ._windows import count_windows, cut_windows, overlap_add

# Seconds.
DEFAULT_WINDOW = 1.0
# Numbers in the windows of a fit, 512 MB in float32; of more data some are drawn.
FIT_NUMBERS = 2**27
# Channels of windows that the second dictionary is learned from, at most.
FIT_ROWS = 50_000
N_FOLDS = 5
# Principal components of windows that an SAE learns from, at most.
N_DIMENSIONS = 512
# Epochs are weighted by one over their clean power, but no more than those at this
# quantile of it.
LEAST_POWER = 0.05


class EEGDenoiser(DocumentationLinkMixin, TransformerMixin, BaseEstimator):
    """Denoise EEG with sparse codes of its windows.

    Signals are scaled channel by channel and cut into overlapping windows; windows are
    coded, reconstructed from their codes, and added up again.

    Without `y`, a :class:`~skmfr.MFRSparseAutoencoder` learns atoms of the windows, all
    channels together. :meth:`transform` reconstructs signals from them, which leaves
    out what no atom explains; :meth:`apply` removes chosen atoms, as is done with the
    components of ICA, and leaves all else as it is.

    With `y`, the clean signals, power spectra of the noisy windows are coded, and a
    second dictionary, learned by ridge regression, turns the codes into the filters
    that best bring the clean signals out of the noisy ones.

    Read more in the :doc:`user guide </user_guide/eeg>`.

    Parameters
    ----------
    window : float, default=None
        Length of a window in seconds. None means 1 s; half an epoch for arrays of
        which `sfreq` is not known.

    overlap : float, default=0.75
        Share of a window that the next one overlaps, at least 0.5, below 1.

    sae : MFRSparseAutoencoder, default=None
        Codes the windows. None means, without clean signals, 256 atoms, `k=16` and
        matching pursuit; with clean signals 128 atoms of spectra and `k=8`.

    exclude : array-like of int, default=()
        Atoms that :meth:`transform` and :meth:`apply` leave out.

    trusted_only : bool, default=False
        Whether :meth:`transform` leaves out the atoms that are not `trusted_`.

    picks : list of str, default=None
        Names of the channels to denoise. None means all EEG channels that are not
        marked as bad. Objects of MNE only.

    sfreq : float, default=None
        Sampling rate in Hz of arrays. Objects of MNE know theirs.

    verbose : bool, default=False
        Whether to show a progress bar for recordings.

    random_state : int, RandomState instance or None, default=None
        Determines the training of the default `sae`, and what is drawn of data too
        large for the memory.

    Attributes
    ----------
    sae_ : MFRSparseAutoencoder
        The fitted SAE: of principal components of windows, or, with clean signals, of
        log-power spectra.

    atoms_ : ndarray of shape (n_atoms, n_channels, n_times)
        Without clean signals: atoms as signals of unit norm, in units of `scale_`, and
        tapered as the windows are.

    pca_ : sklearn.decomposition.PCA
        Without clean signals: the largest principal components of windows, up to 512,
        so that the SAE is not slower for many channels.

    ch_names_ : list of str or None
        Channels in the order of the fit; None for arrays.

    sfreq_ : float or None
        Sampling rate in Hz; None for arrays if `sfreq` is None.

    n_channels_ : int
        Number of channels.

    n_times_ : int
        Samples in a window.

    hop_ : int
        Samples from one window to the next.

    mean_ : ndarray of shape (n_channels,)
        Mean of each channel, in units of the data (volts for MNE).

    clean_mean_ : ndarray of shape (n_channels,)
        Mean of each channel of the clean signals, `mean_` if there are none.

    scale_ : ndarray of shape (n_channels,)
        Standard deviation of each channel, in units of the data.

    spatial_filters_ : ndarray of shape (n_freqs, n_channels, n_channels)
        With clean signals of several channels: matrices that take noisy channels to
        clean ones, for each frequency of ``np.fft.rfftfreq(n_times_, 1 / sfreq_)``.

    filters_ : ndarray of shape (n_freqs, n_inputs, n_codes)
        With clean signals: the second dictionary. Gains on the noisy spectrum, and for
        several channels on the spatially filtered one, that codes combine: 1, the
        standardised features, and the codes of the SAE, in this order.

    feature_mean_ : ndarray of shape (n_features,)
        With clean signals: mean of the features that `sae_` codes.

    feature_scale_ : ndarray of shape (n_features,)
        With clean signals: their standard deviation.

    penalty_ : float
        With clean signals: the ridge that cross-validation chose.

    See Also
    --------
    mne.preprocessing.ICA : Remove independent components.

    Notes
    -----
    Spans annotated as ``BAD`` and channels marked as bad are left out of the fit. Bad
    channels, channels of other types, and annotations go through :meth:`transform` as
    they are; spans annotated as bad are denoised like others.

    Recordings that are not loaded are read piece by piece. The fit takes as much as
    fits into half a gigabyte, drawn at random.

    Epochs are denoised one by one, so the baseline is no longer exactly zero; apply
    it again if needed.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.eeg import EEGDenoiser
    >>> rng = np.random.default_rng(0)
    >>> clean = np.sin(np.arange(64) / 2 + rng.uniform(0, 6, (100, 1, 1)))
    >>> noisy = clean + rng.standard_normal((100, 1, 64))
    >>> denoiser = EEGDenoiser(sfreq=32, random_state=0).fit(noisy[:80], clean[:80])
    >>> denoised = denoiser.transform(noisy[80:])
    >>> denoised.shape
    (20, 1, 64)
    >>> bool(denoiser.score(noisy[80:], clean[80:]) > -0.5)
    True
    """

    _parameter_constraints: dict = {
        "window": [Interval(Real, 0, None, closed="neither"), None],
        "overlap": [Interval(Real, 0.5, 1, closed="left")],
        "sae": [MFRSparseAutoencoder, None],
        "exclude": ["array-like"],
        "trusted_only": ["boolean"],
        "picks": [list, None],
        "sfreq": [Interval(Real, 0, None, closed="neither"), None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        window=None,
        *,
        overlap=0.75,
        sae=None,
        exclude=(),
        trusted_only=False,
        picks=None,
        sfreq=None,
        verbose=False,
        random_state=None,
    ):
        self.window = window
        self.overlap = overlap
        self.sae = sae
        self.exclude = exclude
        self.trusted_only = trusted_only
        self.picks = picks
        self.sfreq = sfreq
        self.verbose = verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, groups=None):
        """Learn atoms of windows, or how to get clean signals from noisy ones.

        Parameters
        ----------
        X : mne.io.Raw, mne.Epochs, or array of shape (n_epochs, n_channels, n_times)
            Signals, in volts if they are MNE's.
        y : same type and shape as X, default=None
            Clean signals, sample by sample those in X.
        groups : array-like of shape (n_epochs,), default=None
            Epochs of one group (a person, say) are left out together in the
            cross-validation that chooses the ridge of the second dictionary. None
            leaves out epochs that follow one another.

        Returns
        -------
        self : object
            Fitted denoiser.

        Raises
        ------
        ValueError
            If X is shorter than a window, has a flat channel or values that are not
            finite, or y is no clean version of X, such as labels.
        """
        noisy = self._opened(X)
        clean = None if y is None else self._opened_clean(X, y)
        self._set_windows(noisy)
        rng = np.random.default_rng(
            check_random_state(self.random_state).randint(2**31)
        )
        n_overlapping = ceil(self.n_times_ / self.hop_)
        n_times_most = FIT_NUMBERS // (n_overlapping * self.n_channels_)
        pieces = pieces_to_fit(noisy, self.n_times_, n_times_most, rng)
        signals = [noisy.read(piece) for piece in pieces]
        self.mean_ = self.clean_mean_ = channel_means(signals)
        self.scale_ = self._scale(signals)
        signals = [as_scaled(self, signal) for signal in signals]
        if clean is None:
            self._fit_windows(signals)
        else:
            targets = [clean.read(piece) for piece in pieces]
            self.clean_mean_ = channel_means(targets)
            targets = [as_scaled(self, target, self.clean_mean_) for target in targets]
            folds = self._folds(groups, [len(signal) for signal in signals], X)
            self._fit_filters(signals, targets, folds, rng)
        return self

    def _opened(self, X) -> Reader:
        """X as it will be read, and which of its channels."""
        self.ch_names_: Any = None
        self.sfreq_ = self.sfreq
        if is_raw(X) or is_epochs(X):
            self.ch_names_ = channels_to_fit(X, self.picks)
            self.sfreq_ = float(X.info["sfreq"])
        reader = Reader(X, self.ch_names_, "X")
        self.n_channels_ = reader.shape[1]
        return reader

    def _opened_clean(self, X, y) -> Reader:
        if not (is_raw(y) or is_epochs(y)) and np.ndim(y) < 3:
            raise ValueError(
                f"y must be the clean signals, like X, got an array of shape "
                f"{np.shape(y)}. If these are the labels of a pipeline that "
                "classifies, fit the denoiser before, and put it there as "
                "sklearn.frozen.FrozenEstimator(EEGDenoiser().fit(X))."
            )
        if is_raw(X) != is_raw(y) or is_epochs(X) != is_epochs(y):
            raise ValueError(
                f"y must be of the same type as X, got {type(y).__name__} for "
                f"{type(X).__name__}."
            )
        if self.ch_names_ is not None:
            check_recording(y, self.ch_names_, self.sfreq_)
        clean = Reader(y, self.ch_names_, "y")
        noisy = Reader(X, self.ch_names_, "X")
        if clean.shape != noisy.shape:
            raise ValueError(
                f"y must have the shape of X, (n_epochs, n_channels, n_times) = "
                f"{noisy.shape}, got {clean.shape}."
            )
        return clean

    def _set_windows(self, noisy: Reader) -> None:
        """Length of windows and their distance, in samples."""
        if self.sfreq_ is not None:
            seconds = DEFAULT_WINDOW if self.window is None else self.window
            self.n_times_ = round(seconds * self.sfreq_)
        elif self.window is None:
            self.n_times_ = noisy.shape[2] // 2
        else:
            raise ValueError(
                f"window={self.window} is in seconds; with arrays it needs sfreq, "
                "got None."
            )
        if self.n_times_ < 2:
            raise ValueError(
                f"A window must have 2 samples or more, got {self.n_times_}: "
                f"window={self.window}, sfreq={self.sfreq_}."
            )
        self.hop_ = max(1, round(self.n_times_ * (1 - self.overlap)))
        check_length(self, noisy)

    def _scale(self, signals: list[np.ndarray]) -> np.ndarray:
        """Standard deviation of each channel."""
        centred = [np.square(signal - self.mean_[:, None]) for signal in signals]
        scale = np.sqrt(channel_means(centred))
        flat = np.flatnonzero(scale <= np.finfo(np.float32).eps * np.abs(self.mean_))
        if len(flat):
            names = self.ch_names_ or list(range(self.n_channels_))
            raise ValueError(
                f"Channels of X are flat: {[names[i] for i in flat]}. Leave them "
                "out, or mark them as bad."
            )
        return scale

    def _folds(self, groups, lengths: list[int], X) -> list[np.ndarray]:
        """Number of the fold of each epoch that is fitted, piece by piece."""
        n = sum(lengths)
        if groups is None:
            numbers = np.arange(n) * N_FOLDS // n
        else:
            if is_raw(X) or len(groups) != n:
                raise ValueError(
                    f"groups must have an entry for each epoch of X, got "
                    f"{len(groups)} for {'a recording' if is_raw(X) else n}."
                )
            numbers = np.unique(groups, return_inverse=True)[1] % N_FOLDS
        return np.split(numbers, np.cumsum(lengths)[:-1])

    def _new_sae(self, **usual):
        if self.sae is not None:
            return clone(self.sae).set_params(sparse_output=False)
        return MFRSparseAutoencoder(**usual, random_state=self.random_state)

    def _fit_windows(self, signals: list[np.ndarray]) -> None:
        """Atoms of windows of all channels."""
        windows = np.concatenate([flat_windows(self, signal) for signal in signals])
        n_dimensions = min(N_DIMENSIONS, *windows.shape)
        self.pca_ = PCA(n_dimensions, random_state=self.random_state).fit(windows)
        sae = self._new_sae(
            n_components=256, k=16, transform_algorithm="omp", max_steps=1000
        )
        self.sae_ = sae.fit(self.pca_.transform(windows))
        atoms = self.sae_.components_ @ self.pca_.components_
        self.atoms_ = atoms.reshape(-1, self.n_channels_, self.n_times_)

    def _from_flat_windows(self, windows: np.ndarray, shape) -> np.ndarray:
        n_epochs, n_channels, n_times = shape
        windows = windows.reshape(n_epochs, -1, n_channels, self.n_times_)
        return overlap_add(windows.swapaxes(1, 2), n_times, self.hop_)

    def _fit_filters(self, noisy, clean, folds, rng) -> None:
        """Spatial filters, codes of spectra, and the second dictionary."""
        noisy, clean, folds = remixed(noisy, clean, folds, self._rows_of, rng)
        spectra = [self._spectra(signal) for signal in noisy]
        targets = [self._spectra(signal) for signal in clean]
        weights = [
            np.broadcast_to(weight[:, None, None], spectrum.shape[:3])
            for weight, spectrum in zip(relative_weights(clean), spectra, strict=True)
        ]
        numbers = [
            np.broadcast_to(fold[:, None, None], spectrum.shape[:3])
            for fold, spectrum in zip(folds, spectra, strict=True)
        ]
        n_freqs = spectra[0].shape[3]

        if self.n_channels_ > 1:
            as_windows = (-1, self.n_channels_, n_freqs)
            self.spatial_filters_ = spatial_filters(
                np.concatenate([part.reshape(as_windows) for part in spectra]),
                np.concatenate([part.reshape(as_windows) for part in targets]),
                np.concatenate([part[:, :, 0].ravel() for part in weights]),
            )
        rows = rng.permutation(sum(weight.size for weight in weights))[:FIT_ROWS]

        def chosen(parts: list) -> np.ndarray:
            width = parts[0].shape[3:]
            return np.concatenate([part.reshape(-1, *width) for part in parts])[rows]

        filtered = [self._spatially_filtered(part) for part in spectra]
        features = chosen(
            [describe(*pair) for pair in zip(spectra, filtered, strict=True)]
        )
        self.feature_mean_, scale = features.mean(0), features.std(0)
        self.feature_scale_ = np.where(scale > 0, scale, 1).astype(np.float32)
        features = (features - self.feature_mean_) / self.feature_scale_
        self.sae_ = self._new_sae(n_components=128, k=8, max_steps=1000).fit(features)
        inputs = [chosen(spectra)]
        if self.n_channels_ > 1:
            inputs.append(chosen(filtered))
        self.filters_, self.penalty_ = solve_filters(
            self._codes_of_features(features),
            inputs,
            chosen(targets),
            chosen(weights),
            chosen(numbers),
        )

    def _rows_of(self, signals: np.ndarray) -> int:
        n_windows = count_windows(signals.shape[2], self.n_times_, self.hop_)
        return len(signals) * n_windows * self.n_channels_

    def _spectra(self, signals: np.ndarray) -> np.ndarray:
        """Of windows, (n_epochs, n_windows, n_channels, n_freqs), complex."""
        windows = cut_windows(signals, self.n_times_, self.hop_)
        return np.fft.rfft(windows).astype(np.complex64).swapaxes(1, 2)

    def _spatially_filtered(self, spectra: np.ndarray) -> np.ndarray | None:
        if self.n_channels_ == 1:
            return None
        return np.einsum(
            "fij,ewjf->ewif", self.spatial_filters_, spectra, optimize=True
        )

    def _codes_of_features(self, features: np.ndarray) -> np.ndarray:
        """What combines the filters: 1, features, and codes of the SAE."""
        codes = self._kept(self.sae_.transform(features))
        one = np.ones((len(features), 1), dtype=features.dtype)
        return np.hstack([one, features, codes])

    def _kept(self, codes):
        """Codes, changed in place, without those of atoms that are left out."""
        codes[:, checked_atoms(self, self.exclude)] = 0
        if self.trusted_only:
            codes[:, ~self.sae_.trusted_] = 0
        return codes

    def transform(self, X):
        """Denoise signals.

        Parameters
        ----------
        X : mne.io.Raw, mne.Epochs, or array of shape (n_epochs, n_channels, n_times)
            Signals of the channels of the fit, in any order if they have names.

        Returns
        -------
        X_denoised : same type as X
            A copy in which the channels of the fit are denoised.

        Raises
        ------
        ValueError
            If channels are missing or marked as bad, the sampling rate is not that of
            the fit, or X is shorter than a window or has values that are not finite.
        """
        check_is_fitted(self)
        return self._mapped(X, self._denoise)

    def apply(self, X, exclude=None):
        """Remove atoms from signals, and leave all else as it is.

        Parameters
        ----------
        X : mne.io.Raw, mne.Epochs, or array of shape (n_epochs, n_channels, n_times)
            Signals of the channels of the fit, in any order if they have names.
        exclude : array-like of int, default=None
            Atoms to remove. None means the parameter `exclude`.

        Returns
        -------
        X_without : same type as X
            A copy from which what these atoms contribute is subtracted.

        Raises
        ------
        ValueError
            As in :meth:`transform`, or if the denoiser was fitted with clean signals,
            where atoms are not parts of the signals.
        """
        check_is_fitted(self)
        check_atoms_are_signals(self, "apply")
        atoms = checked_atoms(self, self.exclude if exclude is None else exclude)

        def without(signals: np.ndarray) -> np.ndarray:
            codes = codes_of_windows(self, signals)[:, atoms]
            removed = np.tensordot(codes, self.atoms_[atoms], 1)
            return signals - self._from_flat_windows(removed, signals.shape)

        return self._mapped(X, without)

    def _denoise(self, signals: np.ndarray) -> np.ndarray:
        """Scaled signals (n_epochs, n_channels, n_times), denoised."""
        if not hasattr(self, "filters_"):
            codes = self._kept(codes_of_windows(self, signals))
            windows = self.pca_.inverse_transform(self.sae_.inverse_transform(codes))
            return self._from_flat_windows(windows, signals.shape)
        spectra = self._spectra(signals)
        filtered = self._spatially_filtered(spectra)
        features = describe(spectra, filtered)
        features = features.reshape(-1, features.shape[-1])
        features = (features - self.feature_mean_) / self.feature_scale_
        n_freqs = spectra.shape[3]
        inputs = [
            part.reshape(-1, n_freqs)
            for part in (spectra, filtered)
            if part is not None
        ]
        clean = apply_filters(self._codes_of_features(features), inputs, self.filters_)
        windows = np.fft.irfft(clean.reshape(spectra.shape), self.n_times_)
        return overlap_add(windows.swapaxes(1, 2), signals.shape[2], self.hop_)

    def _mapped(self, X: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
        """A copy of X whose channels of the fit went through a function."""
        if is_raw(X) or is_epochs(X):
            check_recording(X, self.ch_names_, self.sfreq_)
        source = Reader(X, self.ch_names_, "X")
        if source.shape[1] != self.n_channels_:
            raise ValueError(
                f"X has {source.shape[1]} channels; the denoiser was fitted on "
                f"{self.n_channels_}."
            )
        check_length(self, source)

        def changed(signals: np.ndarray) -> np.ndarray:
            # The difference, so that what is not changed keeps all of its digits.
            scaled = as_scaled(self, signals)
            difference = (change(scaled) - scaled) * self.scale_[:, None]
            difference += (self.clean_mean_ - self.mean_)[:, None]
            return (signals + difference).astype(signals.dtype)

        if is_raw(X):
            target = X.copy().load_data(verbose="error")
            rows = [target.ch_names.index(name) for name in self.ch_names_]
            margin = self.n_times_ + N_NEIGHBOURS * self.hop_
            parts = list(chunks(X.n_times, self.hop_, margin, self.sfreq_))
            for first, last, start, stop in tqdm(parts, disable=not self.verbose):
                part = changed(source.read(slice(first, last)))[0]
                target[rows, start:stop] = part[:, start - first : stop - first]
            return target
        if is_epochs(X):
            target = X.copy().load_data()
            values = target.get_data(copy=False)
            rows = [target.ch_names.index(name) for name in self.ch_names_]
        else:
            target = values = np.empty_like(source.X)
            rows = list(range(self.n_channels_))
        n_together = max(1, 2**22 // (self.n_channels_ * source.shape[2]))
        for start in range(0, len(values), n_together):
            part = slice(start, start + n_together)
            values[part, rows] = changed(source.read(part))
        return target

    def score(self, X, y=None):
        """How well signals are denoised; more is better.

        Parameters
        ----------
        X : mne.io.Raw, mne.Epochs, or array of shape (n_epochs, n_channels, n_times)
            Signals.
        y : same type and shape as X, default=None
            Clean signals.

        Returns
        -------
        score : float
            With clean signals, minus the mean of :func:`rrmse_t` over epochs: 0 is
            perfect, -1 as good as zeros. Without, 1 - FVU: the share of the variance
            of the scaled signals that the atoms explain.

        Raises
        ------
        ValueError
            As in :meth:`transform`.
        """
        check_is_fitted(self)
        reference = Reader(X, self.ch_names_, "X")
        if y is not None:
            reference = self._opened_clean(X, y)
        denoised = Reader(self.transform(X), self.ch_names_, "X").read(slice(None))
        target = reference.read(slice(None))
        if y is not None:
            return -float(np.mean(rrmse_t(target, denoised)))
        as_samples = [
            as_scaled(self, signals).swapaxes(1, 2).reshape(-1, self.n_channels_)
            for signals in (target, denoised)
        ]
        return 1.0 - fvu(*as_samples)

    def __sklearn_is_fitted__(self) -> bool:
        # A fit that fails has left what it found out before.
        return hasattr(self, "atoms_") or hasattr(self, "filters_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def channel_means(signals: list[np.ndarray]) -> np.ndarray:
    """Mean over epochs and times, (n_channels,), of arrays (n_epochs, ..., n_times)."""
    n = sum(signal.shape[0] * signal.shape[2] for signal in signals)
    return sum(signal.sum((0, 2), dtype=float) for signal in signals) / n


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
