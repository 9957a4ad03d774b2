"""The scikit-learn interface of EEG denoising, for MNE's objects and arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils.validation import check_is_fitted

from .._estimator import MFRSparseAutoencoder
from .._utils.checks import Interval
from .._utils.documentation import DocumentationLinkMixin
from .._utils.fitted import unchanged_on_error
from .._utils.pickles import VersionedPickleMixin
from ..metrics import fvu
from ._channels import check_parameters, checked_names, picked
from ._containers import is_epochs, is_raw
from ._filters import N_NEIGHBOURS
from ._fitted import check_shape
from ._learning import learn
from ._like_ica import LikeICA
from ._pairs import opened_clean
from ._quality import mean_rrmse_t
from ._recordings import (
    Reader,
    check_recording,
    how_recorded,
    mapped,
    warn_of_no_high_pass,
    warn_of_other_recording,
)
from ._rejection import checked_left_out
from ._scales import (
    as_scaled,
    centre_of,
    contained,
    no_offset_of_brains,
    warn_of_offsets_of_epochs,
    warn_of_other_sizes,
    without_common,
)
from ._supervised import filtered_signals
from ._unsupervised import explained, warn_of_what_stays
from ._windows import samples_in_window

Change = Callable[[np.ndarray], np.ndarray]


class EEGDenoiser(
    VersionedPickleMixin,
    DocumentationLinkMixin,
    LikeICA,
    TransformerMixin,
    BaseEstimator,
):
    """Denoise EEG with sparse codes of its windows.

    Signals are scaled channel by channel and cut into overlapping windows; windows are
    coded, reconstructed from their codes, and added up again.

    Without `y`, a :class:`~skmfr.MFRSparseAutoencoder` learns atoms of the windows, all
    channels together. :meth:`transform` reconstructs signals from them, which leaves
    out what no atom explains; :meth:`apply` removes the artefacts that chosen atoms
    stand for, as is done with components of ICA, and leaves all else as it is.

    With `y`, the clean signals, the power spectra of the noisy windows are coded. A
    second dictionary, learned by ridge regression, turns the codes into the filters
    that best recover the clean signals from the noisy ones. :meth:`transform` applies
    them, epoch by epoch. :meth:`apply` learns from a whole recording of several
    channels instead, and removes artefacts of few topographies, as those of eyes.

    Read more in the :doc:`user guide </user_guide/eeg>`.

    Parameters
    ----------
    window : float, default=None
        Length of a window in seconds. None means 1 s; half an epoch for arrays
        without `sfreq`.

    overlap : float, default=0.75
        Share of a window that the next one overlaps, at least 0.5, below 1.

    sae : MFRSparseAutoencoder, default=None
        Codes the windows. None means, without clean signals, matching pursuit and as
        many atoms as the windows allow: 1 for 6 of them, 8 to 256. At most 2 to 16
        atoms are active in a window. With clean signals: 128 atoms of spectra, `k=8`.

    exclude : array-like of int or bool, default=()
        Atoms that :meth:`transform` and :meth:`apply` leave out, as indices or as a
        mask. Repeated indices count once.

    trusted_only : bool, default=False
        Whether :meth:`transform` leaves out the atoms that are not `trusted_`.

    picks : str, int, slice, list of str or list of int, default=None
        Channels to denoise, as everywhere in MNE: names, types, or indices. Channels
        that are marked as bad are denoised if their names or indices are given. None
        means all EEG channels that are not marked as bad. Objects of MNE only.

    sfreq : float, default=None
        Sampling rate in Hz of arrays. Objects of MNE know theirs.

    ch_names : list of str, default=None
        Names of the channels of arrays, with which a denoiser that was fitted on arrays
        denoises objects of MNE. These know theirs.

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
        Without clean signals: the largest principal components of windows, one for 12
        windows side by side, 4 to 512: more would learn the noise by heart.

    ch_names_ : list of str or None
        Channels in the order of the fit; of arrays, the parameter `ch_names`.

    sfreq_ : float or None
        Sampling rate in Hz; None for arrays if `sfreq` is None.

    recording_ : dict or None
        Filters, reference and projections of the data of the fit. :meth:`transform`
        warns if its data differ. Also the channels that were marked as bad, which may
        be bad there too. None for arrays.

    n_channels_ : int
        Number of channels.

    n_times_ : int
        Samples in a window.

    hop_ : int
        Samples from one window to the next.

    mean_ : ndarray of shape (n_channels,)
        Centre of each channel: the median of the means of windows, in units of the data
        (volts for MNE).

    clean_mean_ : ndarray of shape (n_channels,)
        That of the clean signals, `mean_` if there are none.

    scale_ : ndarray of shape (n_channels,)
        Standard deviation of each channel in most windows, in units of the data: the
        median of the root mean square about `mean_`.

    reference_weights_ : ndarray of shape (n_channels,)
        Weights of channels in the mean over EEG channels, which atoms do not contain.
        Channels of arrays count as EEG. All are 0 with clean signals, in average
        reference, and if fewer than 12 channels have a usual size.

    own_scale_ : ndarray of shape (n_channels,)
        `scale_` without this mean.

    spatial_filters_ : ndarray of shape (n_freqs, n_channels, n_channels)
        With clean signals of several channels: matrices that take noisy channels to
        clean ones, for each frequency of ``np.fft.rfftfreq(n_times_, 1 / sfreq_)``.

    artifact_covariance_ : ndarray of shape (n_channels, n_channels)
        With clean signals of several channels: covariance of what noisy signals have
        beyond clean ones, over all frequencies of a window, in units of `scale_`.

    clean_covariances_ : ndarray of shape (n_freqs, n_channels, n_channels)
        With clean signals of several channels: their covariance for each frequency.

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

    least_correction_ : float
        With clean signals: largest correction that is left out. The size of a
        correction is the power that the filters remove from a window, relative to
        the power that they keep. The bound is the 0.9 quantile of the sizes in clean
        windows, or half of the 0.05 quantile in noisy ones if that is less.

    See Also
    --------
    mne.preprocessing.ICA : Remove independent components.

    Notes
    -----
    Spans annotated as ``BAD``, in X or in the clean signals, and channels marked as bad
    are left out of the fit. Bad channels, channels of other types, and annotations go
    through :meth:`transform` as they are. Spans annotated as bad are denoised like
    others, unless there are values in them that are not finite: then they stay as they
    are. No window crosses the place where recordings were joined.

    Recordings that are not loaded are read piece by piece. The fit takes as much as
    fits into half a gigabyte, drawn at random.

    Epochs are denoised one by one. If they have a baseline, it is subtracted again.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.eeg import EEGDenoiser
    >>> rng = np.random.default_rng(0)
    >>> clean = np.sin(np.arange(64) / 2 + rng.uniform(0, 6, (100, 1, 1)))
    >>> noisy = clean + rng.standard_normal((100, 1, 64))
    >>> sae = MFRSparseAutoencoder(16, k=4, max_steps=50, random_state=0)
    >>> denoiser = EEGDenoiser(sfreq=32, sae=sae, random_state=0)
    >>> denoised = denoiser.fit(noisy[:80], clean[:80]).transform(noisy[80:])
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
        "picks": ["array-like", str, Integral, slice, None],
        "sfreq": [Interval(Real, 0, None, closed="neither"), None],
        "ch_names": ["array-like", None],
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
        ch_names=None,
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
        self.ch_names = ch_names
        self.verbose = verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X,
        y=None,
        groups=None,
        *,
        decim=None,
        reject=None,
        reject_by_annotation=True,
    ):
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
        decim : int, default=None
            Learn atoms from every `decim`-th window. None means from all.
        reject : dict of float, default=None
            Peak-to-peak amplitude by type of channel, such as ``{"eeg": 500e-6}``: of
            recordings, pieces of 2 s in which a channel exceeds it are left out.
        reject_by_annotation : bool, default=True
            Whether spans of recordings that are annotated as ``BAD`` are left out.

        Returns
        -------
        self : object
            Fitted denoiser.

        Raises
        ------
        ValueError
            If X is shorter than a window, has a flat channel or values that are not
            finite, or y is not a clean version of X, such as labels or other epochs. A
            fit that fails leaves the denoiser as it was.

        Warns
        -----
        UserWarning
            Without clean signals, if X has not been high-pass filtered, is short, or
            no atom is trusted. With them, if these were recorded otherwise, or are in
            another unit.
        """
        left_out = checked_left_out(decim, reject, reject_by_annotation, y)
        with unchanged_on_error(self):
            self._forget()
            noisy = self._opened(X)
            if y is None and self.recording_ is not None:
                warn_of_no_high_pass(X)
            clean = None if y is None else opened_clean(self, noisy, y)
            self._set_windows(noisy)
            learn(self, noisy, clean, groups, left_out)
        return self

    def _forget(self) -> None:
        """Leave nothing of an earlier fit, which may have been the other way."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def _opened(self, X) -> Reader:
        """X as it will be read, and which of its channels."""
        self.ch_names_: Any = None
        self.recording_: Any = None
        self.sfreq_ = self.sfreq
        if is_raw(X) or is_epochs(X):
            self.ch_names_ = picked(X, self.picks)
            check_parameters(X, self.ch_names_, self.ch_names, self.sfreq)
            self.recording_ = how_recorded(X, self.ch_names_)
            self.sfreq_ = float(X.info["sfreq"])
        elif self.picks is not None:
            raise ValueError(
                f"picks={self.picks!r} selects channels of MNE objects, but X is a "
                f"{type(X).__name__}: select the channels from the array."
            )
        elif self.ch_names is not None:
            self.ch_names_ = checked_names(self.ch_names, X)
        reader = Reader(X, self.ch_names_, "X")
        self.n_channels_ = reader.shape[1]
        return reader

    def _set_windows(self, noisy: Reader) -> None:
        """Length of windows and their distance, in samples."""
        self.n_times_ = samples_in_window(self.window, self.sfreq_, noisy.shape[2])
        self.hop_ = max(1, round(self.n_times_ * (1 - self.overlap)))
        check_shape(self, noisy)

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

        Warns
        -----
        UserWarning
            If filters or the reference differ from those of the fit; if channels are
            30 times as large as there, or as small: dead, or in another unit; or if
            atoms are left out whose part of the mean over channels stays.
        """
        check_is_fitted(self)
        if not hasattr(self, "filters_"):
            warn_of_what_stays(self)
            return self._mapped(X, lambda source: partial(explained, self))
        return self._mapped(
            X, lambda source: partial(filtered_signals, self), keep_offset=False
        )

    def _mapped(
        self,
        X: Any,
        prepared: Callable[[Reader], Change],
        learn_from: Reader | None = None,
        *,
        n_averaged: int | None = None,
        keep_offset: bool = True,
    ) -> Any:
        """A copy of X whose channels of the fit went through a function.

        `prepared` takes a reader of X and gives the function, of scaled signals. X may
        have the centre of `learn_from`, other signals of the recording. It is an
        average if `n_averaged` epochs are given. Without `keep_offset`, a constant
        offset that no brain has is taken out.
        """
        # Some parameters count after the fit too, and may have changed.
        self._validate_params()
        if is_raw(X) or is_epochs(X):
            check_recording(X, self)
            warn_of_other_recording(X, self)
        source = Reader(X, self.ch_names_, "X")
        check_shape(self, source)
        change = prepared(source)
        moments = source.moments(self.n_times_)
        centre = centre_of(self, source, learn_from, n_averaged)
        left_out = 0.0 if keep_offset else no_offset_of_brains(self, centre)[:, None]

        def changed(signals: np.ndarray) -> np.ndarray:
            # The difference, so that what is not changed keeps all of its digits.
            scaled = as_scaled(self, signals, centre)
            difference = (change(scaled) - scaled) * self.scale_[:, None]
            return (signals + (difference - left_out)).astype(signals.dtype)

        margin = self.n_times_ + N_NEIGHBOURS * self.hop_
        warn_of_other_sizes(self, moments, n_averaged=n_averaged)
        if source.shape[0] > 1:
            warn_of_offsets_of_epochs([moments], stacklevel=4)
        return mapped(source, changed, self.hop_, margin, verbose=self.verbose)

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
            perfect, -1 as good as zeros. Epochs whose clean signal is zero everywhere
            have none; they are left out, with a warning. Without, 1 - FVU: the share
            of the variance of the scaled signals that the atoms explain, without the
            mean over channels of `reference_weights_`. Spans
            annotated as ``BAD`` do not count.

        Raises
        ------
        ValueError
            As in :meth:`transform`, or if all clean signals are zero.
        """
        check_is_fitted(self)
        denoised = Reader(self.transform(X), self.ch_names_, "X")
        noisy = Reader(X, self.ch_names_, "X")
        clean = None if y is None else opened_clean(self, noisy, y)
        spans = noisy.good_spans()
        if clean is not None:
            return -mean_rrmse_t(clean.read_spans(spans), denoised.read_spans(spans))
        centre = centre_of(self, noisy)
        as_samples = [
            without_common(self, as_scaled(self, reader.read_spans(spans), centre))
            .swapaxes(1, 2)
            .reshape(-1, self.n_channels_)
            for reader in (noisy, denoised)
        ]
        return 1.0 - fvu(*as_samples)

    def __setstate__(self, state: dict) -> None:
        if "scale_" in state:  # as atoms of earlier builds do
            state = contained(state["scale_"]) | state
        super().__setstate__(state)

    def set_params(self, **params):
        """Set parameters of the denoiser, and, as ``sae__NAME``, of its `sae`.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        self : object
            The denoiser.

        Raises
        ------
        ValueError
            If there is no such parameter, or no `sae` to set one of.
        """
        nested = [name for name in params if name.startswith("sae__")]
        if nested and params.get("sae", self.sae) is None:
            raise ValueError(
                f"{nested} are parameters of sae, but sae is None; pass an SAE first, "
                "such as EEGDenoiser(sae=MFRSparseAutoencoder(128, k=8))."
            )
        return super().set_params(**params)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
