"""Agreement of atoms against their usage and the truth, and their probabilities."""

from __future__ import annotations

import numpy as np

from .._data.checked import checked_data
from .._sae.cosines import at_least
from .._sae.levels import TRUSTED, agreement_level
from .._sae.reappearance import TAU, binned
from .._training.attributes import reappearance_without_warning
from .._utils.checks import as_matrix
from .._utils.pipelines import original_directions, transformed
from ..agreement import feature_agreement, nearest_atoms, random_agreement
from ._drawing import ABOVE, BLUE, ORANGE, import_pyplot, line_style, new_axes
from ._fitted import agreement_with, split_fitted

# Confidence level of the intervals of frequencies.
CONFIDENCE = 0.95


class FeatureAgreementDisplay:
    """Agreement of atoms against their usage or the truth, and what it promises.

    There are three kinds:

    - "usage" draws the agreement of each atom against how often it is active. Colour is
      the probability that the atom returns in an independent fit, if it is known.
    - "calibration" draws the share of atoms that are in the truth against this
      probability, in ten bins, with 95 % intervals. The truth is an independent fit or
      the known features of the data. Probabilities that hold are on the diagonal.
    - "truth" draws the cosine of each atom with the nearest atom of the truth against
      its agreement, with the line of least squares.

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
    usage : ndarray of shape (n_components,) or None
        Share of the samples in which each atom is active, between 0 and 1.
    null : float
        Agreement of random dictionaries.
    threshold : float
        Agreement above which an atom is trusted, unless `trusted` tells.
    agreement_with : str, default="other dictionaries"
        Name of the other dictionaries, for the axis label.
    trusted : ndarray of shape (n_components,), bool, default=None
        Atoms to trust. None means those above the threshold.
    reappearance : ndarray of shape (n_components,), default=None
        Probability of each atom to return.
    truth : ndarray of shape (n_components,), default=None
        Cosine of each atom with the nearest atom of an independent fit, or with the
        nearest feature of the data.

    Attributes
    ----------
    trusted_scatter_, untrusted_scatter_ : matplotlib PathCollection
        Atoms to trust, and the others. Not in "calibration".
    null_line_ : matplotlib Line2D
        The level of random dictionaries. Only in "usage".
    threshold_line_ : matplotlib Line2D or None
        The threshold, if it decides which atoms to trust. Only in "usage".
    bins_scatter_ : matplotlib PathCollection
        Mean probability and frequency of each bin. Only in "calibration".
    intervals_ : matplotlib LineCollection
        Wilson's 95 % intervals of the frequencies, as if atoms returned independently
        of each other. Only in "calibration".
    line_ : matplotlib Line2D or None
        The diagonal in "calibration"; in "truth" the fitted line, if agreement varies.
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
    'Agreement with 2 witnesses (cosine)'

    Calibration, with a fit to other samples as the truth:

    >>> other = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=1)
    >>> display = FeatureAgreementDisplay.from_estimator(
    ...     sae, truth=other.fit(X[500:1000]), kind="calibration"
    ... )
    >>> display.ax_.get_xlabel()
    'Probability to return'
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
        reappearance=None,
        truth=None,
    ):
        self.agreement = agreement
        self.usage = usage
        self.null = null
        self.threshold = threshold
        self.agreement_with = agreement_with
        self.trusted = trusted
        self.reappearance = reappearance
        self.truth = truth

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X=None,
        *,
        truth=None,
        kind="usage",
        ax=None,
        scatter_kwargs=None,
        line_kwargs=None,
    ):
        """Show the atoms of a fitted estimator.

        Parameters
        ----------
        estimator : MFRSparseAutoencoder, PretrainedSAE or Pipeline
            Fitted estimator, or pipeline that ends with one.
        X : array-like of shape (n_samples, n_features), default=None
            Data to measure how often each atom is used, for "usage".
        truth : estimator, or array-like of shape (n_atoms, n_features), default=None
            For "calibration" and "truth": an independent fit, with another seed and on
            other samples; or the known features. The reference of a fit counts. Atoms
            of a pipeline are compared as directions of the data that enter it, if the
            steps before have `inverse_transform`; known features, and atoms of an SAE
            alone, must then be such directions.
        kind : {"usage", "calibration", "truth"}, default="usage"
            Kind of picture.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        scatter_kwargs : dict, default=None
            Keyword arguments for ``Axes.scatter``, which override the defaults.
        line_kwargs : dict, default=None
            Keyword arguments for lines, which override the defaults.

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
            If it is not fitted, X or the truth does not match it, there is no agreement
            because a single SAE was fitted without a witness or imported without its
            agreement, or something that this kind draws is missing.
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        before, sae = split_fitted(estimator)
        null, probability = sae.agreement_null_, reappearance_without_warning(sae)
        if np.isnan(sae.feature_agreement_).any() and not vars(sae).get("_training"):
            raise ValueError(
                f"There is no agreement to show, because this {type(sae).__name__} was "
                "read from files that have none. Measure it with skmfr.agreement."
                "compare, and assign feature_agreement_, reappearance_ and trusted_."
            )
        display = cls(
            agreement=_checked(sae.feature_agreement_),
            usage=None if X is None else _usage(sae, transformed(before, X)),
            null=null,
            threshold=agreement_level(null, TRUSTED),
            agreement_with=agreement_with(sae),
            trusted=sae.trusted_,
            reappearance=None if np.isnan(probability).any() else probability,
            truth=None if truth is None else _cosine_with_truth(before, sae, truth),
        )
        return display.plot(
            ax, kind=kind, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs
        )

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
        others = list(others)  # a generator could be read only once
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

    def plot(self, ax=None, *, kind="usage", scatter_kwargs=None, line_kwargs=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        kind : {"usage", "calibration", "truth"}, default="usage"
            Kind of picture.
        scatter_kwargs : dict, default=None
            Keyword arguments for ``Axes.scatter``, which override the defaults.
        line_kwargs : dict, default=None
            Keyword arguments for lines, which override the defaults.

        Returns
        -------
        display : FeatureAgreementDisplay
            This display, with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such kind, or something that it draws is missing.
        """
        draws = {
            "usage": self._draw_usage,
            "calibration": self._draw_calibration,
            "truth": self._draw_truth,
        }
        if kind not in draws:
            raise ValueError(f"kind must be one of {list(draws)}, got {kind!r}.")
        self._check_given(kind)
        ax = new_axes(f"{type(self).__name__}.plot", ax)
        style = line_style(line_kwargs, color="black", linewidth=1)
        draws[kind](ax, scatter_kwargs or {}, style)
        ax.legend(**ABOVE, ncols=2)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _check_given(self, kind: str) -> None:
        if kind == "usage" and self.usage is None:
            raise ValueError("kind='usage' needs X, got None.")
        if kind != "usage" and self.truth is None:
            raise ValueError(
                f"kind={kind!r} needs truth, an independent fit or the known features, "
                "got None."
            )
        if kind == "calibration" and self.reappearance is None:
            raise ValueError(
                "kind='calibration' needs the probability of atoms to return, which is "
                "not known: fit with n_witnesses=2 or more, or measure it with "
                "skmfr.agreement.compare on three SAEs."
            )

    def _draw_usage(self, ax, scatter_kwargs, style):
        self._scatter_atoms(ax, self.usage, self.agreement, scatter_kwargs)

        def line(height, label, linestyle):
            usual = {"label": f"{label} ({height:.2f})", "linestyle": linestyle}
            return ax.axhline(height, **usual | style)

        self.threshold_line_ = None
        if self.trusted is None:
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

    def _draw_calibration(self, ax, scatter_kwargs, style):
        from scipy.stats import binomtest

        found = at_least(TAU, self.truth)
        probability, share, n_atoms = binned(self.reappearance, found)
        low, high = np.transpose(
            [
                binomtest(round(k), n).proportion_ci(CONFIDENCE, method="wilson")
                for k, n in zip(share * n_atoms, n_atoms.tolist(), strict=True)
            ]
        )
        diagonal = {"label": "calibrated", "linestyle": ":"} | style
        (self.line_,) = ax.plot([0, 1], [0, 1], **diagonal)
        self.intervals_ = ax.vlines(
            probability, low, high, color=BLUE, linewidth=1, label="95 % interval"
        )
        # As large as the share of the atoms in the bin.
        sizes = {"s": 8 + 200 * n_atoms / n_atoms.sum()}
        usual = {"label": "atoms, binned"} | sizes
        if "c" not in scatter_kwargs:
            usual["color"] = BLUE
        self.bins_scatter_ = ax.scatter(probability, share, **usual | scatter_kwargs)
        ax.set(
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            aspect="equal",
            xlabel="Probability to return",
            ylabel=f"Share of atoms in the truth (cosine of {TAU:g})",
        )

    def _draw_truth(self, ax, scatter_kwargs, style):
        self._scatter_atoms(ax, self.agreement, self.truth, scatter_kwargs)
        self.line_ = None
        if np.ptp(self.agreement) > 0:
            slope, height = np.polyfit(self.agreement, self.truth, 1)
            ends = np.array([self.agreement.min(), self.agreement.max()])
            usual = {"label": f"slope {slope:.2f}"}
            (self.line_,) = ax.plot(ends, slope * ends + height, **usual | style)
        ax.set(
            xlabel=f"Agreement with {self.agreement_with} (cosine)",
            ylabel="Cosine with the nearest atom of the truth",
        )

    def _scatter_atoms(self, ax, x, y, scatter_kwargs):
        """Draw trusted atoms as discs and others as crosses."""
        trusted = self.trusted
        if trusted is None:
            trusted = self.agreement > self.threshold
        chosen = not scatter_kwargs.keys().isdisjoint(("c", "color"))
        coloured = self.reappearance is not None and not chosen
        usual = {"s": np.clip(6000 / len(trusted), 3, 24), "rasterized": True}

        def scatter(shown, label, color, **style):
            if coloured:
                colors = {"c": self.reappearance[shown], "cmap": "viridis"}
                style |= colors | {"vmin": 0, "vmax": 1}
            elif not chosen:
                style["color"] = color
            # The legend would show no mark for no atoms.
            style["label"] = f"{label} ({shown.sum()})" if shown.any() else None
            return ax.scatter(x[shown], y[shown], **usual | style | scatter_kwargs)

        self.trusted_scatter_ = scatter(trusted, "trusted", BLUE, marker="o")
        self.untrusted_scatter_ = scatter(
            ~trusted, "not trusted", ORANGE, marker="x", linewidths=1
        )
        if coloured:
            label = "Probability to return"
            ax.figure.colorbar(self.trusted_scatter_, ax=ax, label=label)


def _checked(agreement: np.ndarray) -> np.ndarray:
    if np.isnan(agreement).any():
        raise ValueError(
            "There is no agreement to show, because a single SAE was fitted without a "
            "witness. Set n_witnesses=1 or more."
        )
    return agreement


def _cosine_with_truth(before, sae, truth) -> np.ndarray:
    """Cosine of each atom with the nearest of an estimator or array.

    Both are directions of the data that enter a pipeline, if its steps can be undone:
    those of another pipeline may differ, like axes of principal components, and known
    features are those of the data.
    """
    atoms = original_directions(before, sae.components_)
    if hasattr(truth, "fit"):
        before, other = split_fitted(truth)
        truth = original_directions(before, other.components_)
    return nearest_atoms(atoms, truth)[0]


def _usage(sae, X) -> np.ndarray:
    """Share of samples in which each atom is active, (n_components,)."""
    from .._sae.arrays import coded_blocks, coder_of
    from .._sae.codes import n_active

    X = checked_data(sae, X)
    counts = np.zeros(len(sae.components_))
    for _, codes in coded_blocks(coder_of(sae, X), X):
        counts += n_active(codes, len(counts)).cpu().numpy()
    return counts / len(X)
