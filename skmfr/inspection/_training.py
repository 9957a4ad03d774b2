"""Training curves, step by step."""

from __future__ import annotations

import numpy as np

from ._drawing import ABOVE, BLUE, import_pyplot, line_style, panels
from ._fitted import split_fitted

# Curves to show.
PANELS = {
    "fvu": "FVU of each batch",
    "agreement": "Agreement (cosine)",
    "dead": "Dead atoms (%)",
    "n_reinits": "Reinitialisations",
}


class TrainingHistory:
    """A `callback` that records all steps of a fit in the estimator's `history_`.

    The records are a list with one dict per step, which ``pandas.DataFrame(
    sae.history_)`` converts to a table. Each dict has "step" and the keys that
    :class:`~skmfr.MFRSparseAutoencoder` passes to its `callback`. The estimator stores
    the records. The callback itself does not change, so clones of an estimator, and
    successive fits, share nothing.

    See Also
    --------
    TrainingCurveDisplay : Draws the records.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import TrainingHistory
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(
    ...     n_components=64, max_steps=100, callback=TrainingHistory(), random_state=0
    ... ).fit(X[:500])
    >>> len(sae.history_)
    100
    >>> sae.history_[-1]["step"], sae.history_[-1]["dead"]
    (100, 0.0)
    """

    def __call__(self, step, info):
        """Return the step and its info as a record for `history_`.

        Parameters
        ----------
        step : int
            Number of steps done.
        info : dict
            Values that the estimator reports.

        Returns
        -------
        record : dict
            All of these. A callback that does more than record can return this as well.
        """
        return {"step": step, **info}

    def __repr__(self):
        return f"{type(self).__name__}()"


class TrainingCurveDisplay:
    """Curves of training: FVU, agreement, dead atoms, reinitialisations.

    A grey background marks the steps in which the mutual penalty is on.

    It is recommended to use :meth:`from_estimator` or :meth:`from_history` to make one.
    All parameters are stored as attributes.

    Parameters
    ----------
    step : ndarray of shape (n_steps,)
        Number of gradient steps done.
    fvu : ndarray of shape (n_steps,)
        Fraction of variance unexplained of the batch, averaged over the SAEs.
    agreement : ndarray of shape (n_steps,), default=None
        Mean best cosine of one SAE's atoms in a witness, or another SAE.
    dead : ndarray of shape (n_steps,), default=None
        Share of dead atoms.
    n_reinits : ndarray of shape (n_steps,), default=None
        Number of reinitialisations of SAEs so far.
    alpha : ndarray of shape (n_steps,), default=None
        Weight of the mutual penalty.

    Attributes
    ----------
    lines_ : dict of matplotlib Line2D
        "fvu", and those of "agreement", "dead" (in per cent) and "n_reinits" that are
        known.
    axes_ : ndarray of matplotlib Axes
        One for each line.
    ax_ : matplotlib Axes
        Axes that contain them.
    figure_ : matplotlib Figure
        Figure that contains them.

    See Also
    --------
    TrainingHistory : Records the steps of a fit.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import TrainingCurveDisplay, TrainingHistory
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(
    ...     n_components=64, max_steps=100, callback=TrainingHistory(), random_state=0
    ... )
    >>> display = TrainingCurveDisplay.from_estimator(sae.fit(X[:500]))
    >>> list(display.lines_)
    ['fvu', 'agreement', 'dead', 'n_reinits']
    """

    def __init__(
        self, *, step, fvu, agreement=None, dead=None, n_reinits=None, alpha=None
    ):
        self.step = step
        self.fvu = fvu
        self.agreement = agreement
        self.dead = dead
        self.n_reinits = n_reinits
        self.alpha = alpha

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, line_kwargs=None):
        """Show the training of a fitted estimator.

        Parameters
        ----------
        estimator : MFRSparseAutoencoder or Pipeline
            Fitted estimator, or pipeline that ends with one. If its `callback` was a
            :class:`TrainingHistory`, all of `history_` is shown; otherwise only
            `loss_curve_`, the FVU.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.plot``, which override the defaults.

        Returns
        -------
        display : TrainingCurveDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has an unsupported type.
        ValueError
            If it is not fitted, or was trained by another package; or if `history_` has
            neither "step" in each record nor one record per step.
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        _, sae = split_fitted(estimator)
        if not len(sae.loss_curve_):
            raise ValueError(
                "estimator has no training history to show: it was imported from "
                "another package, or saved with training_state=False."
            )
        if sae.history_ and _tell_fvu(sae.history_):
            display = cls(step=_steps_of(sae), **_columns(sae.history_))
        else:
            display = cls(step=np.arange(sae.n_steps_) + 1, fvu=sae.loss_curve_)
        return display.plot(ax, line_kwargs=line_kwargs)

    @classmethod
    def from_history(cls, history, *, ax=None, line_kwargs=None):
        """Show recorded steps.

        Parameters
        ----------
        history : list of dict
            Values that `callback` received: `history_` of an estimator. Each call of
            `fit` counts "step" from 1, and counts as ended at its last record. Records
            without "step" count as one per step.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.plot``, which override the defaults.

        Returns
        -------
        display : TrainingCurveDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no record, or one without "fvu".
        """
        import_pyplot(f"{cls.__name__}.from_history")
        if not len(history):
            raise ValueError(
                "history is empty. Fit an estimator with callback=TrainingHistory(), "
                "and pass its history_."
            )
        display = cls(step=_steps(history), **_columns(history))
        return display.plot(ax, line_kwargs=line_kwargs)

    def plot(self, ax=None, *, line_kwargs=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in, divided into panels. None makes a new figure.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.plot``, which override the defaults.

        Returns
        -------
        display : TrainingCurveDisplay
            This display, with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` is not part of a grid of subplots.
        """
        curves = {
            name: np.asarray(getattr(self, name), dtype=float)
            for name in PANELS
            if getattr(self, name) is not None
        }
        # All NaN if there are no other dictionaries to agree with.
        curves = {name: y for name, y in curves.items() if not np.isnan(y).all()}
        if "dead" in curves:
            curves["dead"] = 100 * curves["dead"]
        ax, axes = panels(
            f"{type(self).__name__}.plot",
            ax,
            (len(curves), 1),
            (6.4, 1.2 + 1.6 * len(curves)),
            sharex=True,
        )
        self.lines_, self.axes_ = {}, axes[:, 0]
        style = line_style(line_kwargs, color=BLUE, linewidth=1)
        for axis, (name, y) in zip(self.axes_, curves.items(), strict=True):
            (self.lines_[name],) = axis.plot(self.step, y, **style)
            axis.set_title(PANELS[name], loc="left", fontsize=9)
            if name in ("dead", "n_reinits"):
                # Leave a little room below, so that zero is visible.
                axis.set_ylim(np.array([-0.05, 1.05]) * max(1.0, np.nanmax(y)))
            if name == "n_reinits":
                axis.yaxis.get_major_locator().set_params(integer=True)
            self._mark_penalty(axis)
        self.axes_[0].set_yscale("log")
        if self.axes_[0].patches:
            self.axes_[0].legend(handles=self.axes_[0].patches[:1], **ABOVE)
        self.axes_[-1].set_xlabel("Gradient steps")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _mark_penalty(self, axis) -> None:
        if self.alpha is None:
            return
        on = np.flatnonzero(np.asarray(self.alpha) > 0)
        # A model that was trained again has several spans.
        for run in np.split(on, np.flatnonzero(np.diff(on) > 1) + 1):
            if len(run):
                span = self.step[run[0]], self.step[run[-1]]
                axis.axvspan(*span, color="0.9", lw=0, zorder=0, label="penalty on")


def _tell_fvu(records) -> bool:
    return all("fvu" in record for record in records)


def _tell_step(records) -> bool:
    return all("step" in record for record in records)


def _steps(records) -> np.ndarray:
    """Number of steps done at each record, over all calls."""
    if not _tell_step(records):
        return np.arange(len(records)) + 1
    step = np.array([record["step"] for record in records])
    (last,) = np.nonzero(np.diff(step) <= 0)
    before = np.zeros_like(step)
    before[last + 1] = step[last]
    return step + np.cumsum(before)


def _steps_of(sae) -> np.ndarray:
    """Number of steps in the life of an estimator at each record of its history."""
    records, step = sae.history_, _steps(sae.history_)
    if _tell_step(records):
        # Neither earlier steps nor the last ones of the last call need have a record.
        before_last_call = sae.n_steps_ - int(sae._training["step"])
        return step + before_last_call + records[-1]["step"] - step[-1]
    if len(records) != sae.n_steps_:
        raise ValueError(
            f'history_ has {len(records)} records without "step" of {sae.n_steps_} '
            'steps: let callback return {"step": step, **info}.'
        )
    return step


def _columns(records) -> dict[str, np.ndarray]:
    """The values that are known for all steps, by name."""
    if not _tell_fvu(records):
        raise ValueError('history has records without "fvu".')
    return {
        name: np.array([record[name] for record in records])
        for name in (*PANELS, "alpha")
        if all(name in record for record in records)
    }
