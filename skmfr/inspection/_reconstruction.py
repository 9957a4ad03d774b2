"""Samples and their reconstructions."""

from __future__ import annotations

import numpy as np

from .._utils.checks import as_array, as_matrix
from .._utils.pipelines import transformed
from ..metrics import fvu
from ._drawing import (
    ABOVE,
    BLUE,
    ORANGE,
    abscissa,
    check_layout,
    chosen,
    curve_spacing,
    draw_curves,
    draw_image,
    import_pyplot,
    panels,
)
from ._fitted import split_fitted


class ReconstructionDisplay:
    """Samples beside their reconstructions, and the error.

    Images are drawn one below the other; curves are drawn on top of each other.

    It is recommended to use :meth:`from_estimator` or :meth:`from_reconstruction` to
    make one. All parameters are stored as attributes.

    Parameters
    ----------
    samples : ndarray of shape (n_shown,), int
        Indices of the samples.
    before, after : ndarray of shape (n_shown, n_features)
        The samples and their reconstruction.
    sample_fvu : ndarray of shape (n_shown,)
        Squared error of each sample, relative to its squared distance from the mean of
        the data; NaN where that is 0.
    fvu : float
        Fraction of variance unexplained of all the data.
    image_shape : tuple of int, default=None
        Height and width of samples as images, or height, width and 3 in colour.
    n_channels : int, default=1
        Curves per sample, whose features are ``(n_channels, n_times)``, flattened.
    sfreq : float, default=None
        Samples per second of curves.

    Attributes
    ----------
    images_ : ndarray of shape (2, n_shown)
        Drawn artists, with the samples in the first row: AxesImage, or lists of Line2D
        for curves.
    axes_ : ndarray of matplotlib Axes
        Shape (2, n_shown) for images, and (n_shown, 1) for curves.
    ax_ : matplotlib Axes
        Axes that contain them.
    figure_ : matplotlib Figure
        Figure that contains them.

    See Also
    --------
    skmfr.metrics.fvu : Fraction of variance unexplained.
    skmfr.eeg.plot_overlay : Shows a recording before and after denoising.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import ReconstructionDisplay
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=0)
    >>> display = ReconstructionDisplay.from_estimator(
    ...     sae.fit(X[:500]), X, image_shape=(8, 8)
    ... )
    >>> display.axes_.shape
    (2, 5)
    """

    def __init__(
        self,
        *,
        samples,
        before,
        after,
        sample_fvu,
        fvu,
        image_shape=None,
        n_channels=1,
        sfreq=None,
    ):
        self.samples = samples
        self.before = before
        self.after = after
        self.sample_fvu = sample_fvu
        self.fvu = fvu
        self.image_shape = image_shape
        self.n_channels = n_channels
        self.sfreq = sfreq

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        trusted_only=False,
        samples=5,
        image_shape=None,
        n_channels=1,
        sfreq=None,
        ax=None,
    ):
        """Reconstruct data with a fitted estimator.

        Parameters
        ----------
        estimator : MFRSparseAutoencoder, PretrainedSAE or Pipeline
            Fitted estimator, or pipeline that ends with one. A pipeline shows samples
            in the form in which they reach the estimator.
        X : array-like of shape (n_samples, n_features)
            Data.
        trusted_only : bool, default=False
            Whether to leave out the atoms that are not `trusted_`.
        samples : int or array-like of int or bool, default=5
            How many samples to show, evenly spread from the best to the worst
            reconstructed; or the indices of the samples, or a mask.
        image_shape : tuple of int, default=None
            Draw images of this height and width, or height, width and 3 in colour.
        n_channels : int, default=1
            Unless images are drawn, the number of curves per sample, whose features are
            ``(n_channels, n_times)``, flattened.
        sfreq : float, default=None
            Samples per second of curves. None numbers the samples.
        ax : matplotlib Axes, default=None
            Axes to draw in, divided into panels. None makes a new figure.

        Returns
        -------
        display : ReconstructionDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has an unsupported type.
        ValueError
            If it is not fitted, X does not match it, there are no such samples, or they
            cannot be drawn in this form.
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        steps, sae = split_fitted(estimator)
        X = transformed(steps, X)
        return cls.from_reconstruction(
            as_array(X),
            sae.reconstruct(X, trusted_only=trusted_only),
            samples=samples,
            image_shape=image_shape,
            n_channels=n_channels,
            sfreq=sfreq,
            ax=ax,
        )

    @classmethod
    def from_reconstruction(
        cls,
        X,
        X_hat,
        *,
        samples=5,
        image_shape=None,
        n_channels=1,
        sfreq=None,
        ax=None,
    ):
        """Compare data and their reconstruction from any source.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.
        X_hat : array-like of shape (n_samples, n_features)
            Their reconstruction.
        samples : int or array-like of int or bool, default=5
            How many samples to show, evenly spread from the best to the worst
            reconstructed; or the indices of the samples, or a mask.
        image_shape : tuple of int, default=None
            As in :meth:`from_estimator`.
        n_channels : int, default=1
            As in :meth:`from_estimator`.
        sfreq : float, default=None
            As in :meth:`from_estimator`.
        ax : matplotlib Axes, default=None
            Axes to draw in, divided into panels. None makes a new figure.

        Returns
        -------
        display : ReconstructionDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the shapes differ, there are no such samples, or they cannot be drawn in
            this form.
        """
        import_pyplot(f"{cls.__name__}.from_reconstruction")
        total = fvu(X, X_hat)
        X, X_hat = as_matrix(X, "X"), as_matrix(X_hat, "X_hat")
        by_sample = _fvu_of_samples(X, X_hat)
        shown = chosen(samples, "samples", -by_sample)
        return cls(
            samples=shown,
            before=X[shown],
            after=X_hat[shown],
            sample_fvu=by_sample[shown],
            fvu=total,
            image_shape=image_shape,
            n_channels=n_channels,
            sfreq=sfreq,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in, divided into panels. None makes a new figure.

        Returns
        -------
        display : ReconstructionDisplay
            This display, with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the samples cannot be drawn in this form.
        """
        n_features = self.before.shape[1]
        shape = check_layout(n_features, self.image_shape, self.n_channels, self.sfreq)
        self.images_ = np.empty((2, len(self.samples)), dtype=object)
        caller = f"{type(self).__name__}.plot"
        if shape is None:
            ax = self._draw_curves(caller, ax)
        else:
            ax = self._draw_images(caller, ax, shape)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _rows(self) -> dict[str, np.ndarray]:
        return {"before": self.before, f"after (FVU {self.fvu:.3f})": self.after}

    def _titles(self) -> list[str]:
        return [
            f"sample {i}, FVU " + ("undefined" if np.isnan(share) else f"{share:.2f}")
            for i, share in zip(self.samples, self.sample_fvu, strict=True)
        ]

    def _draw_images(self, caller, ax, shape):
        n = len(self.samples)
        ax, self.axes_ = panels(caller, ax, (2, n), (0.6 + 1.5 * n, 4))
        # Both use the scale of the data; values beyond it are clipped.
        vmin, vmax = self.before.min(), self.before.max()
        for row, (label, images) in enumerate(self._rows().items()):
            for column, image in enumerate(images):
                axis = self.axes_[row, column]
                self.images_[row, column] = draw_image(
                    axis, image, shape, vmin, vmax, "gray"
                )
            self.axes_[row, 0].set_ylabel(label)
        for axis, title in zip(self.axes_[0], self._titles(), strict=True):
            axis.set_title(title.replace(", ", "\n"), fontsize=9)
        return ax

    def _draw_curves(self, caller, ax):
        n, n_channels = len(self.samples), self.n_channels
        height = 1.4 if n_channels == 1 else 0.6 + 0.15 * n_channels
        ax, self.axes_ = panels(
            caller, ax, (n, 1), (8, 0.8 + height * n), sharex=True, sharey=True
        )
        spacing = curve_spacing(self.before, n_channels)
        for row, (label, curves) in enumerate(self._rows().items()):
            for column, curve in enumerate(curves):
                lines = draw_curves(
                    self.axes_[column, 0],
                    curve,
                    n_channels,
                    spacing,
                    self.sfreq,
                    color=(ORANGE, BLUE)[row],
                    linewidth=1,
                )
                lines[0].set_label(label)
                self.images_[row, column] = lines
        for axis, title in zip(self.axes_[:, 0], self._titles(), strict=True):
            axis.set_title(title, loc="left", fontsize=9)
        self.axes_[0, 0].legend(**ABOVE, ncols=2)
        self.axes_[-1, 0].set_xlabel(abscissa(n_channels, self.sfreq))
        return ax


def _fvu_of_samples(X: np.ndarray, X_hat: np.ndarray) -> np.ndarray:
    """Squared errors relative to the squared distance from the mean, (n_samples,)."""
    error = np.square(X - X_hat).sum(axis=1)
    distance = np.square(X - X.mean(axis=0)).sum(axis=1)
    undefined = np.full(len(X), np.nan)
    return np.divide(error, distance, out=undefined, where=distance > 0)
