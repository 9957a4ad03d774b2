"""Methods of a denoiser that mne.preprocessing.ICA has too, under the same names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._channels import indices_of
from ._containers import as_epochs, is_epochs, is_evoked, is_raw
from ._files import save_denoiser
from ._finding import found_by_channels, found_by_power
from ._fitted import check_atoms_are_signals, check_shape, checked_atoms
from ._recordings import (
    Reader,
    check_recording,
    in_baseline,
    warn_of_other_recording,
)
from ._sources import atom_names, sources_of
from ._supervised import removal_of_known
from ._unsupervised import removal

# Atoms in a grid, and, as in MNE, those whose properties are shown if none is named.
N_GRID, N_PROPERTIES = 20, 5


class LikeICA:
    """Methods for atoms, named as those of ICA for its components."""

    # Attributes of the denoiser.
    exclude: Any
    sae_: Any
    ch_names_: Any
    n_channels_: int
    _mapped: Callable

    def apply(self, X, exclude=None, *, include=None, learn_from=None):
        """Remove the artefacts that atoms stand for, and leave all else as it is.

        Atoms determine the topographies of artefacts and their windows. The covariance
        of X determines a filter for these topographies that passes as little as
        possible of anything else. The filter's output is subtracted in windows in which
        it is stronger than the brain alone would be.

        A denoiser that was fitted with clean signals removes the artefacts of the fit.
        The excess of noisy signals over clean ones replaces atoms, and clean signals
        tell how strong the output is from the brain alone.

        Parameters
        ----------
        X : mne.io.Raw, mne.Epochs, mne.Evoked, or array of shape (n_epochs, \
n_channels, n_times)
            A whole recording, or all epochs of one: the filter is learned from X.
        exclude : array-like of int or bool, default=None
            Atoms to remove, as indices or as a mask. Repeated indices count once. None
            means the parameter `exclude`. Not for a denoiser that was fitted with clean
            signals.
        include : array-like of int or bool, default=None
            Atoms to keep: all others are removed, and those in `exclude`. The five
            largest topographies of the removed atoms are removed.
        learn_from : mne.io.Raw, mne.Epochs, or array, default=None
            Data from which to learn the filter instead of X. Averages need it, and
            short pieces of a recording gain from it.

        Returns
        -------
        X_without : same type as X
            A copy without these artefacts.

        Raises
        ------
        ValueError
            As in :meth:`transform`, if X is an average and there is nothing to learn
            from, or if the denoiser was fitted with clean signals and atoms are named,
            which are spectra there, or it has one channel.

        Warns
        -----
        UserWarning
            As in :meth:`transform`, or if X is too short to learn from.

        Notes
        -----
        What is taken out of an average is taken out of all of its windows, as windows
        with an artefact and without are in it; with clean signals, in the share in
        which it is taken out of what the filter is learned from. It is better to clean
        epochs, and to average them then.

        Blinks leave windows quiet, heartbeats do not, and a call learns filters that
        are on in loud windows, and one that is always on for what these hardly change.
        Strong heartbeats make windows loud: remove them in another call.
        """
        check_is_fitted(self)
        remove = self._removing(exclude, include)
        if is_evoked(X) and learn_from is None:
            raise ValueError(
                "X is an average, from which no covariance can be learned; pass the "
                "recording or the epochs that it is of as learn_from, or apply to them "
                "and average then."
            )
        if learn_from is not None:
            if is_raw(learn_from) or is_epochs(learn_from):
                check_recording(learn_from, self)
                warn_of_other_recording(learn_from, self, "learn_from")
            learn_from = Reader(learn_from, self.ch_names_, "learn_from")
            check_shape(self, learn_from)

        def prepared(source: Reader):
            return remove(learn_from or source, everywhere=is_evoked(X))

        if not is_evoked(X):
            return self._mapped(X, prepared, learn_from)
        cleaned = self._mapped(
            as_epochs(X), prepared, learn_from, n_averaged=max(1, X.nave)
        )
        data = cleaned.get_data(copy=False)[0]
        if (there := in_baseline(X)) is not None:
            rows = indices_of(X, self.ch_names_)
            data[rows] -= data[rows][:, there].mean(1, keepdims=True)
        cleaned = X.copy()
        cleaned.data[:] = data
        return cleaned

    def _removing(self, exclude, include) -> Callable:
        """How artefacts are removed, by what is learned from a reader."""
        if not hasattr(self, "filters_"):
            if self.n_channels_ == 1:
                raise ValueError(
                    "apply needs several channels, whose differences tell artefacts "
                    "from the brain; this denoiser was fitted to one. Fit it with "
                    "clean signals, and use transform."
                )
            return partial(removal, self, self._to_remove(exclude, include))
        if exclude is not None or include is not None:
            check_atoms_are_signals(self, "apply with exclude or include")
        if not hasattr(self, "artifact_covariance_"):
            raise ValueError(
                "apply needs a denoiser of several channels, fitted by this version: "
                "this one knows no topographies of artefacts. Use transform."
            )
        return partial(removal_of_known, self)

    def _to_remove(self, exclude, include) -> np.ndarray:
        atoms = checked_atoms(self, self.exclude if exclude is None else exclude)
        if include is None:
            return atoms
        kept = checked_atoms(self, include, "include")
        kept = np.setdiff1d(kept, atoms)
        return np.setdiff1d(np.arange(len(self.sae_.components_)), kept)

    def get_sources(self, X):
        """Return the codes of the atoms over time.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            Recording in which the atoms are active.

        Returns
        -------
        mne.io.Raw or mne.Epochs
            A channel of type misc for each atom: ``atom000``, ``atom001``, ... Samples,
            events and annotations are those of X, so that epochs can be cut from it.
            Each sample is the mean of the codes of the windows over it, weighted as
            windows are when they are added up; 0 where no window is. Atoms in `exclude`
            are marked as bad.

        Raises
        ------
        ValueError
            As in :func:`score_atoms`.
        """
        return sources_of(self, X)

    def find_bads_eog(self, X, ch_name=None, threshold=0.35):
        """Find atoms of blinks and of movements of the eyes.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            Recording in which the atoms are active.
        ch_name : str or list of str, default=None
            Channels that record the eyes. None means all of type EOG. Where there are
            none, name frontal EEG channels.
        threshold : float, default=0.35
            Absolute correlation from which an atom may be one. It has to be slow,
            narrow and loud, too: see :func:`find_artifacts`.

        Returns
        -------
        indices : list of int
            Atoms, the most probable first, for `exclude`.
        scores : ndarray of shape (n_atoms,), or list of such
            Absolute correlations, for several channels a list.

        Raises
        ------
        ValueError
            If there is no channel of type EOG and none is named, or as in
            :func:`score_atoms`.

        Warns
        -----
        UserWarning
            If no atom is found although something stands out in a channel; it says what
            the most correlated atom lacks.
        """
        return found_by_channels(self, X, "eog", ch_name, threshold)

    def find_bads_ecg(self, X, ch_name=None, threshold=0.35):
        """Find atoms of heartbeats.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            Recording in which the atoms are active.
        ch_name : str or list of str, default=None
            Channels that record the heart. None means all of type ECG.
        threshold : float, default=0.35
            Absolute correlation from which an atom is one.

        Returns
        -------
        indices : list of int
            Atoms, the most probable first, for `exclude`.
        scores : ndarray of shape (n_atoms,), or list of such
            Absolute correlations, for several channels a list.

        Raises
        ------
        ValueError
            If there is no channel of type ECG and none is named, or as in
            :func:`score_atoms`.
        """
        return found_by_channels(self, X, "ecg", ch_name, threshold)

    def find_bads_muscle(self, X, threshold=0.5):
        """Find atoms of muscles.

        Slow waves are so much larger that atoms of a whole recording have no part above
        30 Hz.  Fit to what is faster than 10 Hz, in windows of 0.2 s.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            Recording in which the atoms are active.
        threshold : float, default=0.5
            Share of the power of an atom above 30 Hz from which it may be one. It has
            to be narrow and loud, too: see :func:`find_artifacts`.

        Returns
        -------
        indices : list of int
            Atoms, the most probable first, for `exclude`.
        scores : ndarray of shape (n_atoms,)
            Shares of power above 30 Hz, without what is within 1 Hz of the mains.

        Raises
        ------
        ValueError
            As in :func:`score_atoms`.

        Examples
        --------
        Activity of a muscle near T7, which is there half of the time. It is found in
        fast signals, and taken out of the recording as it was:

        >>> import mne
        >>> import numpy as np
        >>> from skmfr import MFRSparseAutoencoder
        >>> from skmfr.eeg import EEGDenoiser
        >>> rng = np.random.default_rng(0)
        >>> waves = rng.standard_normal((4, 6000)).cumsum(1)
        >>> there = np.repeat(np.tile([0, 1], 15), 200)
        >>> emg = np.outer([1, 0.2, 0.1, 0], 9 * there * rng.standard_normal(6000))
        >>> info = mne.create_info(["T7", "Fp1", "C3", "Pz"], 200, "eeg")
        >>> raw = mne.io.RawArray(1e-6 * (waves + emg), info, verbose="error")
        >>> fast = raw.copy().filter(10, None, verbose="error")
        >>> sae = MFRSparseAutoencoder(
        ...     n_components=16, k=4, n_saes=1, transform_algorithm="omp",
        ...     max_steps=50, random_state=0,
        ... )
        >>> denoiser = EEGDenoiser(window=0.2, sae=sae).fit(fast)
        >>> muscles, _ = denoiser.find_bads_muscle(fast)
        >>> clean = denoiser.apply(fast, exclude=muscles)
        >>> artefacts = fast.get_data() - clean.get_data()
        >>> cleaned = raw.copy().apply_function(
        ...     lambda data: data - artefacts, channel_wise=False, verbose="error"
        ... )
        >>> left = 1e6 * cleaned.get_data() - waves
        >>> bool(np.linalg.norm(left) < 0.5 * np.linalg.norm(emg))
        True
        """
        return found_by_power(self, X, threshold)

    def plot_sources(self, X, picks=None, *, show=True, **browser):
        """Browse codes over time.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            Recording in which the atoms are active.
        picks : array-like of int or bool, default=None
            Atoms to show. None means all.
        show : bool, default=True
            Whether to show the figure.
        **browser : dict
            Passed to ``plot`` of :class:`mne.io.Raw` or :class:`mne.Epochs`.

        Returns
        -------
        matplotlib.figure.Figure or mne_qt_browser.figure.MNEQtBrowser
            The browser of MNE.

        Raises
        ------
        ValueError
            If there is no such atom, or as in :func:`score_atoms`.
        """
        names = np.array(atom_names(self))
        atoms = np.arange(len(names)) if picks is None else self._picked_atoms(picks)
        if len(atoms) == 0:
            raise ValueError("picks is empty: there are no atoms to show.")
        sources = sources_of(self, X, atoms)
        scale = float(np.abs(sources.get_data()).max()) or 1.0
        options: dict[str, Any] = {"scalings": {"misc": scale / 2}} | browser
        return sources.plot(picks=names[atoms].tolist(), show=show, **options)

    def plot_components(self, X, picks=None, *, show=True):
        """Show the topographies of atoms in a grid.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            Recording in which the atoms are active; unless it has a position for each
            electrode, and channels of one type, bars replace the maps.
        picks : array-like of int or bool, default=None
            Atoms to show. None means the 20 with the largest share of the codes of X.
        show : bool, default=True
            Whether to show the figure.

        Returns
        -------
        matplotlib.figure.Figure
            Above each atom its share of the power of all that atoms contribute; red
            are those in `exclude`.

        Raises
        ------
        ValueError
            If there is no such atom, or as in :func:`score_atoms`.
        """
        from ._figures import draw_components

        atoms = None if picks is None else self._picked_atoms(picks)
        return _shown(draw_components(self, X, atoms, N_GRID), show)

    def plot_properties(self, X, picks=None, *, show=True):
        """Show topography, time course, spectrum and strongest windows of atoms.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            Recording in which the atoms are active.
        picks : array-like of int or bool, default=None
            Atoms to show. None means those in `exclude`, and if there are none the
            first five.
        show : bool, default=True
            Whether to show the figures.

        Returns
        -------
        list of matplotlib.figure.Figure
            One for each atom, as :func:`plot_atom` draws it.

        Raises
        ------
        ValueError
            If there is no such atom, or as in :func:`score_atoms`.
        """
        from ._figures import draw_atoms

        check_is_fitted(self)
        if picks is None:
            picks = checked_atoms(self, self.exclude)
            if not len(picks):
                picks = np.arange(min(N_PROPERTIES, len(self.sae_.components_)))
        figures = draw_atoms(self, X, self._picked_atoms(picks))
        return _shown(figures, show)

    def plot_overlay(
        self, X, exclude=None, picks=None, *, start=None, duration=10.0, show=True
    ):
        """Show X before and after :meth:`apply`, one over the other.

        Parameters
        ----------
        X : mne.io.Raw or mne.Epochs
            A whole recording, or all epochs of one.
        exclude : array-like of int or bool, default=None
            Atoms to remove. None means the parameter `exclude`.
        picks : str, int, slice, list of str or list of int, default=None
            Channels to compare, as everywhere in MNE. None means those of the fit.
        start : float, default=None
            First second to show. None means where most was changed.
        duration : float, default=10.0
            Seconds to show.
        show : bool, default=True
            Whether to show the figure.

        Returns
        -------
        matplotlib.figure.Figure
            As :func:`skmfr.eeg.plot_overlay` draws it.

        Raises
        ------
        ValueError
            As in :meth:`apply` and :func:`skmfr.eeg.plot_overlay`.
        """
        from ._figures import plot_overlay

        figure = plot_overlay(
            X,
            self.apply(X, exclude),
            picks=self.ch_names_ if picks is None else picks,
            start=start,
            duration=duration,
        )
        return _shown(figure, show)

    def save(self, path):
        """Write the fitted denoiser to one file, without a pickle.

        Parameters
        ----------
        path : path-like
            File to write. One that is there stays as it is until the new one is whole.

        Raises
        ------
        NotFittedError
            If it is not fitted.
        OSError
            If the file cannot be written.
        ImportError
            If the package safetensors is not installed.

        See Also
        --------
        skmfr.eeg.read_eeg_denoiser : Read it.

        Notes
        -----
        The file is a zip archive of ``sae.safetensors``, which is a file of
        :func:`skmfr.io.save`, and ``denoiser.safetensors``.
        """
        save_denoiser(self, path)

    def _picked_atoms(self, picks) -> np.ndarray:
        check_is_fitted(self)
        return checked_atoms(self, picks, "picks")


def _shown(figures, show: bool):
    """The figures, after they were shown as MNE shows its own."""
    if show:
        from mne.viz.utils import plt_show

        plt_show()
    return figures
