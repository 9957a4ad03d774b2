"""Atoms of a dictionary beside the nearest atoms of others."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._sae.cosines import named_dictionaries
from .._utils.checks import unit_atoms
from ..agreement import feature_agreement, nearest_atoms
from ._drawing import (
    BLUE,
    SHOWN_SHARE,
    abscissa,
    check_labels,
    check_layout,
    chosen,
    draw_curves,
    draw_image,
    import_mne,
    import_pyplot,
    panels,
)
from ._fitted import split_fitted


class DictionaryDisplay:
    """Atoms of a dictionary beside the nearest atoms of other dictionaries.

    Each column shows an atom, with the highest agreement on the left.  Below it are the
    nearest atoms in the other SAEs and the witnesses, with their cosines.  Atoms are
    drawn as images, curves or scalp maps.

    It is recommended to use :meth:`from_estimator` or :meth:`from_dictionaries` to make
    one. All parameters are stored as attributes.

    Parameters
    ----------
    atoms : ndarray of shape (n_shown,), int
        Indices of the atoms.
    agreement : ndarray of shape (n_shown,)
        Their agreement; NaN if there is nothing to agree with.
    matches : ndarray of shape (n_dictionaries, n_shown, n_features)
        The atoms themselves, and the nearest atom in each other dictionary.
    cosines : ndarray of shape (n_dictionaries, n_shown)
        Their cosines.
    labels : sequence of str
        Names of the dictionaries.
    image_shape : tuple of int, default=None
        Height and width of atoms as images, or height, width and 3 in colour.
    n_channels : int, default=1
        Curves per atom, whose features are ``(n_channels, n_times)``, flattened.
    sfreq : float, default=None
        Samples per second of curves.
    info : mne.Info, default=None
        Channels with positions, for atoms as maps.

    Attributes
    ----------
    images_ : ndarray of shape (n_dictionaries, n_shown)
        Drawn artists: AxesImage for images and maps, lists of Line2D for curves.
    axes_ : ndarray of shape (n_dictionaries, n_shown) of matplotlib Axes
        One for each atom.
    ax_ : matplotlib Axes
        Axes that contain them.
    figure_ : matplotlib Figure
        Figure that contains them.

    See Also
    --------
    FeatureAgreementDisplay : Agreement of all atoms.
    skmfr.eeg.plot_atom : Shows one EEG atom in detail.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import DictionaryDisplay
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=0)
    >>> display = DictionaryDisplay.from_estimator(
    ...     sae.fit(X[:500]), atoms=5, image_shape=(8, 8)
    ... )
    >>> display.axes_.shape
    (5, 5)
    """

    def __init__(
        self,
        *,
        atoms,
        agreement,
        matches,
        cosines,
        labels,
        image_shape=None,
        n_channels=1,
        sfreq=None,
        info=None,
    ):
        self.atoms = atoms
        self.agreement = agreement
        self.matches = matches
        self.cosines = cosines
        self.labels = labels
        self.image_shape = image_shape
        self.n_channels = n_channels
        self.sfreq = sfreq
        self.info = info

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        atoms=8,
        image_shape=None,
        n_channels=1,
        sfreq=None,
        info=None,
        ax=None,
    ):
        """Show the atoms of a fitted estimator.

        Parameters
        ----------
        estimator : MFRSparseAutoencoder, PretrainedSAE, Pipeline or EEGDenoiser
            Fitted estimator, or pipeline that ends with one. For an
            :class:`~skmfr.eeg.EEGDenoiser` that was fitted without clean signals, atoms
            are signals in the unit of the data.
        atoms : int or array-like of int or bool, default=8
            How many atoms of the reference SAE to show, evenly spread over the ranks of
            agreement from the highest to the lowest; or the indices of the atoms, or a
            mask such as `trusted_`.
        image_shape : tuple of int, default=None
            Draw images of this height and width, or height, width and 3 in colour.
        n_channels : int, default=1
            Unless images or maps are drawn, the number of curves per atom, whose
            features are ``(n_channels, n_times)``, flattened.
        sfreq : float, default=None
            Samples per second of curves. None numbers the samples.
        info : mne.Info, default=None
            Draw scalp maps of these channels, which need positions. Atoms with the
            features ``(n_channels, n_times)``, flattened, are shown by their nearest
            topographies.
        ax : matplotlib Axes, default=None
            Axes to draw in, divided into panels. None makes a new figure.

        Returns
        -------
        display : DictionaryDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed, or, for maps, MNE.
        TypeError
            If the estimator has an unsupported type.
        ValueError
            If it is not fitted, or there are no such atoms, or they cannot be drawn in
            this form.
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        from ..eeg import EEGDenoiser
        from ..eeg._fitted import check_atoms_are_signals

        denoiser = None
        if isinstance(estimator, EEGDenoiser):
            check_is_fitted(estimator)
            check_atoms_are_signals(estimator, cls.__name__)
            denoiser, estimator = estimator, estimator.sae_
        _, sae = split_fitted(estimator)
        named = named_dictionaries(sae.dictionaries_, sae.witness_dictionaries_)
        reference = f"SAE {sae.reference_sae_}"
        named = {f"{reference}\n(reference)": named.pop(reference), **named}
        shown = chosen(atoms, "atoms", sae.feature_agreement_)
        matches, cosines = _nearest(shown, list(named.values()))
        if denoiser is not None:
            from ..eeg._artifacts import as_waveforms

            matches = np.stack([as_waveforms(denoiser, row) for row in matches])
            matches = matches.reshape(*cosines.shape, -1)
            n_channels, sfreq = denoiser.n_channels_, denoiser.sfreq_
        return cls(
            atoms=shown,
            agreement=sae.feature_agreement_[shown],
            matches=matches,
            cosines=cosines,
            labels=list(named),
            image_shape=image_shape,
            n_channels=n_channels,
            sfreq=sfreq,
            info=info,
        ).plot(ax)

    @classmethod
    def from_dictionaries(
        cls,
        dictionaries,
        *,
        labels=None,
        atoms=8,
        image_shape=None,
        n_channels=1,
        sfreq=None,
        info=None,
        ax=None,
    ):
        """Show the atoms of a dictionary from any source.

        Parameters
        ----------
        dictionaries : sequence of array-like of shape (n_atoms, n_features)
            The dictionary to show first, then the dictionaries to find its atoms in.
        labels : sequence of str, default=None
            Names of the dictionaries. None means their indices.
        atoms : int or array-like of int or bool, default=8
            How many atoms to show, evenly spread over the ranks of agreement from the
            highest to the lowest; or their indices, or a mask. Agreement is the mean of
            their largest cosines.
        image_shape : tuple of int, default=None
            As in :meth:`from_estimator`.
        n_channels : int, default=1
            As in :meth:`from_estimator`.
        sfreq : float, default=None
            As in :meth:`from_estimator`.
        info : mne.Info, default=None
            As in :meth:`from_estimator`.
        ax : matplotlib Axes, default=None
            Axes to draw in, divided into panels. None makes a new figure.

        Returns
        -------
        display : DictionaryDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed, or, for maps, MNE.
        ValueError
            If there is no dictionary, the numbers of features or labels differ, there
            are no such atoms, or they cannot be drawn in this form.
        """
        import_pyplot(f"{cls.__name__}.from_dictionaries")
        units: list[np.ndarray] = []
        for i, dictionary in enumerate(dictionaries):
            n_features = units[0].shape[1] if units else None
            units.append(unit_atoms(dictionary, f"dictionaries[{i}]", None, n_features))
        if not units:
            raise ValueError("dictionaries is empty.")
        labels = check_labels(labels, len(units))
        agreement = feature_agreement(units[0], units[1:])
        shown = chosen(atoms, "atoms", agreement)
        matches, cosines = _nearest(shown, units)
        return cls(
            atoms=shown,
            agreement=agreement[shown],
            matches=matches,
            cosines=cosines,
            labels=labels,
            image_shape=image_shape,
            n_channels=n_channels,
            sfreq=sfreq,
            info=info,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in, divided into panels. None makes a new figure.

        Returns
        -------
        display : DictionaryDisplay
            This display, with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed, or, for maps, MNE.
        ValueError
            If the atoms cannot be drawn in this form.
        """
        caller = f"{type(self).__name__}.plot"
        draw, scale = self._drawing()
        shape = self.cosines.shape
        wide = self.image_shape is None and self.info is None
        size = (1.2 + (1.8 if wide else 1.1) * shape[1], 0.6 + 1.2 * shape[0])
        options = {"sharex": True, "sharey": True} if wide else {}
        ax, self.axes_ = panels(caller, ax, shape, size, **options)
        self.images_ = np.empty(shape, dtype=object)
        for place, axis in np.ndenumerate(self.axes_):
            self.images_[place] = draw(axis, place)
            self._label(axis, *place)
        if scale is not None:
            ax.figure.colorbar(
                self.images_[0, 0], ax=list(self.axes_.flat), label=scale, aspect=30
            )
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _label(self, axis, row: int, column: int) -> None:
        title = f"cosine {self.cosines[row, column]:.2f}"
        if row == 0:
            agreement = self.agreement[column]
            title = f"atom {self.atoms[column]}"
            if not np.isnan(agreement):
                title += f"\nagreement {agreement:.2f}"
        axis.set_title(title, fontsize=8, pad=3)
        if column == 0:
            axis.set_ylabel(self.labels[row], fontsize=9)

    def _drawing(self):
        """A function that draws the atom at a row and column, and a colour label."""
        if self.info is not None:
            if self.image_shape is not None:
                raise ValueError(
                    "Pass image_shape to draw images, or info to draw scalp maps."
                )
            return self._maps()
        n_features = self.matches.shape[2]
        shape = check_layout(n_features, self.image_shape, self.n_channels, self.sfreq)
        return self._curves() if shape is None else self._pictures(shape)

    def _pictures(self, shape):
        limit = np.quantile(np.abs(self.matches), SHOWN_SHARE) or 1.0

        def draw(axis, place):
            return draw_image(axis, self.matches[place], shape, -limit, limit, "RdBu_r")

        return draw, "Weight in the atom" if len(shape) == 2 else None

    def _curves(self):
        def draw(axis, place):
            if place[0] == len(self.matches) - 1:
                axis.set_xlabel(abscissa(self.n_channels, self.sfreq))
            axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            # Channels overlap, because there is no room to spread them.
            lines = draw_curves(
                axis,
                self.matches[place],
                self.n_channels,
                spacing=0.0,
                sfreq=self.sfreq,
                color=BLUE,
                linewidth=0.8 if self.n_channels == 1 else 0.4,
            )
            axis.set_yticks([])
            return lines

        return draw, None

    def _maps(self):
        topographies = _topographies(self.matches, self.info)
        limit = np.abs(topographies).max()
        mne = import_mne(type(self).__name__)

        def draw(axis, place):
            image, _ = mne.viz.plot_topomap(
                topographies[place],
                self.info,
                axes=axis,
                cmap="RdBu_r",
                vlim=(-limit, limit),
                contours=0,
                sensors=False,
                show=False,
            )
            return image

        return draw, "Weight in the topography"


def _nearest(
    shown: np.ndarray, dictionaries: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of the first dictionary, and the nearest atom of each.

    Returns
    -------
    matches : ndarray of shape (n_dictionaries, n_shown, n_features)
    cosines : ndarray of shape (n_dictionaries, n_shown)
    """
    atoms = dictionaries[0][shown]
    matches, cosines = [atoms], [np.ones(len(shown))]
    for others in dictionaries[1:]:
        cosine, index = nearest_atoms(atoms, others)
        matches.append(others[index])
        cosines.append(cosine)
    return np.stack(matches), np.stack(cosines)


def _topographies(matches: np.ndarray, info) -> np.ndarray:
    """Topographies (n_dictionaries, n_shown, n_channels), of unit norm.

    For atoms over time, the nearest topography. Its sign is arbitrary, and chosen to
    match the topography of the first dictionary.
    """
    from ..eeg._artifacts import leading_vectors
    from ..eeg._figures import has_positions

    n_channels = len(info["chs"])
    if matches.shape[2] % n_channels:
        raise ValueError(
            f"info has {n_channels} channels, but the {matches.shape[2]} features of "
            "an atom are not a multiple of that."
        )
    if not has_positions(info):
        raise ValueError(
            "info has channels without a position. Set a montage: "
            "info.set_montage(...)."
        )
    waveforms = matches.reshape(*matches.shape[:2], n_channels, -1)
    if waveforms.shape[3] == 1:
        return waveforms[..., 0]
    flat = waveforms.reshape(-1, *waveforms.shape[2:])
    spatial = leading_vectors(flat)[0].reshape(waveforms.shape[:3])
    alike = np.sum(spatial * spatial[:1], axis=2, keepdims=True)
    return np.where(alike < 0, -spatial, spatial)
