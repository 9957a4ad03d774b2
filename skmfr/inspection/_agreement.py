"""Agreement of atoms against their usage."""

from __future__ import annotations

import numpy as np

from .._data.checked import checked_data
from .._sae.levels import TRUSTED, agreement_level
from .._utils.checks import as_matrix
from ..agreement import feature_agreement, random_agreement
from ._drawing import ABOVE, BLUE, ORANGE, import_pyplot, new_axes
from ._fitted import agreement_with, split_fitted, transformed


class FeatureAgreementDisplay:
    """Agreement of atoms against their usage.

    Atoms of an estimator are marked as it trusts them: 5 % of the trusted atoms are
    expected not to return in an independent fit. For dictionaries, atoms above a
    threshold are marked. Random dictionaries would be at the null level. Atoms that are
    never active have a usage of 0.

    It is recommended to use :meth:`from_estimator` or :meth:`from_dictionaries` to make
    one. All parameters are stored as attributes.

    Read more in the user guide: :doc:`how much to trust an atom
    </user_guide/agreement>`.

    Parameters
    ----------
    agreement : ndarray of shape (n_components,)
        Agreement of each atom with other dictionaries, between -1 and 1.
    usage : ndarray of shape (n_components,)
        Share of the samples in which each atom is active, between 0 and 1.
    null : float
        Agreement of random dictionaries.
    threshold : float
        Agreement above which an atom is trusted, unless `trusted` tells.
    agreement_with : str, default="other dictionaries"
        Name of the other dictionaries, for the axis label.
    trusted : ndarray of shape (n_components,), bool, default=None
        Atoms to trust. None means those above the threshold.

    Attributes
    ----------
    trusted_scatter_, untrusted_scatter_ : matplotlib PathCollection
        Atoms to trust, and the others.
    null_line_ : matplotlib Line2D
        The level of random dictionaries.
    threshold_line_ : matplotlib Line2D or None
        The threshold, if it decides which atoms to trust.
    ax_ : matplotlib Axes
        Axes with the atoms.
    figure_ : matplotlib Figure
        Figure that contains them.

    See Also
    --------
    DictionaryDisplay : Pictures of the atoms.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import FeatureAgreementDisplay
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=0)
    >>> display = FeatureAgreementDisplay.from_estimator(sae.fit(X[:500]), X)
    >>> display.ax_.get_ylabel()
    'Agreement with 1 witness (cosine)'
    """

    def __init__(
        self,
        *,
        agreement,
        usage,
        null,
        threshold,
        agreement_with="other dictionaries",
        trusted=None,
    ):
        self.agreement = agreement
        self.usage = usage
        self.null = null
        self.threshold = threshold
        self.agreement_with = agreement_with
        self.trusted = trusted

    @classmethod
    def from_estimator(
        cls, estimator, X, *, ax=None, scatter_kwargs=None, line_kwargs=None
    ):
        """Show the atoms of a fitted estimator.

        Parameters
        ----------
        estimator : MFRSparseAutoencoder or Pipeline
            Fitted estimator, or pipeline that ends with one.
        X : array-like of shape (n_samples, n_features)
            Data to measure how often each atom is used.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        scatter_kwargs : dict, default=None
            Keyword arguments for ``Axes.scatter``, which override the defaults.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.axhline``, which override the defaults.

        Returns
        -------
        display : FeatureAgreementDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has an unsupported type.
        ValueError
            If it is not fitted, X does not match it, or there is no agreement because
            a single SAE was fitted without a witness.
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        before, sae = split_fitted(estimator)
        null = sae.agreement_null_
        display = cls(
            agreement=_checked(sae.feature_agreement_),
            usage=_usage(sae, transformed(before, X)),
            null=null,
            threshold=agreement_level(null, TRUSTED),
            agreement_with=agreement_with(sae),
            trusted=sae.trusted_,
        )
        return display.plot(ax, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs)

    @classmethod
    def from_dictionaries(
        cls, atoms, others, codes, *, ax=None, scatter_kwargs=None, line_kwargs=None
    ):
        """Show the atoms of a dictionary from any source.

        Parameters
        ----------
        atoms : array-like of shape (n_components, n_features)
            Atoms to show.
        others : sequence of array-like of shape (n_components, n_features)
            Dictionaries to find them in, at least 1.
        codes : {array-like, sparse matrix} of shape (n_samples, n_components)
            Codes of some data, to measure how often each atom is used.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        scatter_kwargs : dict, default=None
            Keyword arguments for ``Axes.scatter``, which override the defaults.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.axhline``, which override the defaults.

        Returns
        -------
        display : FeatureAgreementDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no other dictionary, or the shapes do not match.
        """
        import_pyplot(f"{cls.__name__}.from_dictionaries")
        agreement = _checked(feature_agreement(atoms, others))
        codes = as_matrix(codes, "codes", accept_sparse="csr")
        if codes.shape[1] != len(agreement):
            raise ValueError(
                f"codes has {codes.shape[1]} columns, but there are {len(agreement)} "
                "atoms."
            )
        null = float(np.mean([random_agreement(*np.shape(D)[::-1]) for D in others]))
        display = cls(
            agreement=agreement,
            usage=np.asarray((codes != 0).sum(axis=0)).ravel() / codes.shape[0],
            null=null,
            threshold=agreement_level(null, TRUSTED),
        )
        return display.plot(ax, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs)

    def plot(self, ax=None, *, scatter_kwargs=None, line_kwargs=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        scatter_kwargs : dict, default=None
            Keyword arguments for ``Axes.scatter``, which override the defaults.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.axhline``, which override the defaults.

        Returns
        -------
        display : FeatureAgreementDisplay
            This display, with the drawn artists.
        """
        ax = new_axes(f"{type(self).__name__}.plot", ax)
        by_threshold = self.trusted is None
        trusted = self.agreement > self.threshold if by_threshold else self.trusted
        usual = {"s": np.clip(6000 / len(trusted), 3, 24), "rasterized": True}

        def scatter(shown, label, **style):
            style = usual | style | (scatter_kwargs or {})
            label = f"{label} ({shown.sum()})"
            return ax.scatter(
                self.usage[shown], self.agreement[shown], label=label, **style
            )

        def line(height, label, style):
            style = {"color": "black", "linewidth": 1, "linestyle": style}
            label = f"{label} ({height:.2f})"
            return ax.axhline(height, label=label, **style | (line_kwargs or {}))

        self.trusted_scatter_ = scatter(trusted, "trusted", marker="o", color=BLUE)
        self.untrusted_scatter_ = scatter(
            ~trusted, "not trusted", marker="x", color=ORANGE, linewidths=1
        )
        self.threshold_line_ = None
        if by_threshold:
            self.threshold_line_ = line(self.threshold, "trusted above", "-")
        self.null_line_ = line(self.null, "random dictionaries", "--")

        # Usage may span decades and include 0, which has no logarithm.
        used = self.usage[self.usage > 0]
        smallest = 10 ** np.floor(np.log10(used.min())) if len(used) else 1.0
        ax.set_xscale("symlog", linthresh=smallest)
        ax.xaxis.get_major_locator().set_params(numticks=8)
        ax.set_xlim(left=-0.25 * smallest)
        ax.set_ylim(top=1.02)
        ax.set(
            xlabel="Usage: share of samples in which the atom is active",
            ylabel=f"Agreement with {self.agreement_with} (cosine)",
        )
        ax.legend(**ABOVE, ncols=2)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _checked(agreement: np.ndarray) -> np.ndarray:
    if np.isnan(agreement).any():
        raise ValueError(
            "There is no agreement to show, because a single SAE was fitted without a "
            "witness. Set n_witnesses=1 or more."
        )
    return agreement


def _usage(sae, X) -> np.ndarray:
    """Share of samples in which each atom is active, (n_components,)."""
    from .._sae.arrays import coded_blocks, coder_of

    X = checked_data(sae, X)
    n_active = np.zeros(len(sae.components_))
    for _, codes in coded_blocks(coder_of(sae, X), X):
        active = codes.indices[codes.values != 0].cpu().numpy()
        n_active += np.bincount(active, minlength=len(n_active))
    return n_active / len(X)
