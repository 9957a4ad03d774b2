"""Number of atoms that SAEs share with other SAEs."""

from __future__ import annotations

import numpy as np

from ..agreement import compare
from ._drawing import ABOVE, import_pyplot, line_style, new_axes


class ComparisonDisplay:
    """Number of atoms that each of several SAEs shares with the others.

    Each SAE has a curve: the share of its atoms whose mean agreement with the others
    is at least this high.

    It is recommended to use :meth:`from_saes` or :meth:`from_frame` to make one. All
    parameters are stored as attributes.

    Read more in the user guide: :doc:`SAEs of others </user_guide/others>`.

    Parameters
    ----------
    agreement : dict from str to ndarray of shape (n_components,)
        Agreement of the atoms of each SAE, between -1 and 1.
    null : float
        Agreement of random dictionaries.
    threshold : float
        Agreement above which an atom is trusted.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        A curve for each SAE.
    null_line_, threshold_line_ : matplotlib Line2D
        The two levels.
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure that contains them.

    See Also
    --------
    skmfr.agreement.compare : Computes the numbers.
    SimilarityDisplay : Cosines of the atoms of two dictionaries.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.inspection import ComparisonDisplay
    >>> D = np.random.default_rng(0).standard_normal((20, 8))
    >>> display = ComparisonDisplay.from_saes({"first": D, "second": D[:15]}, verbose=0)
    >>> [line.get_label() for line in display.lines_]
    ['first', 'second']
    """

    def __init__(self, *, agreement, null, threshold):
        self.agreement = agreement
        self.null = null
        self.threshold = threshold

    @classmethod
    def from_saes(cls, saes, *, device="auto", verbose=1, ax=None, line_kwargs=None):
        """Compare SAEs and show how many atoms they share.

        Parameters
        ----------
        saes : sequence or mapping from str
            As in :func:`skmfr.agreement.compare`.
        device : str or torch.device, default="auto"
            As in :func:`skmfr.agreement.compare`.
        verbose : int, default=1
            As in :func:`skmfr.agreement.compare`.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.plot``, which override the defaults.

        Returns
        -------
        display : ComparisonDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib or pandas is not installed.
        ValueError
            As in :func:`skmfr.agreement.compare`.
        """
        import_pyplot(f"{cls.__name__}.from_saes")
        frame = compare(saes, device=device, verbose=verbose)
        return cls.from_frame(frame, ax=ax, line_kwargs=line_kwargs)

    @classmethod
    def from_frame(cls, frame, *, ax=None, line_kwargs=None):
        """Show the result of :func:`skmfr.agreement.compare`.

        Parameters
        ----------
        frame : DataFrame
            Result of :func:`skmfr.agreement.compare`.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.plot``, which override the defaults.

        Returns
        -------
        display : ComparisonDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If its `attrs` are missing.
        """
        if not {"null", "level"} <= frame.attrs.keys():
            raise ValueError(
                "frame has no attrs['null'] and attrs['level'], which CSV files do not "
                "keep: pass the result of compare itself."
            )
        by_sae = frame["agreement"].groupby(level="sae", sort=False)
        display = cls(
            agreement={name: values.to_numpy() for name, values in by_sae},
            null=float(np.mean(list(frame.attrs["null"].values()))),
            threshold=float(np.mean(list(frame.attrs["level"].values()))),
        )
        return display.plot(ax, line_kwargs=line_kwargs)

    def plot(self, ax=None, *, line_kwargs=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        line_kwargs : dict, default=None
            Keyword arguments for ``Axes.plot``, which override the defaults.

        Returns
        -------
        display : ComparisonDisplay
            This display, with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = new_axes(f"{type(self).__name__}.plot", ax)
        self.lines_ = []
        for name, agreement in self.agreement.items():
            highest_first = np.sort(agreement)[::-1]
            share = np.arange(1, len(agreement) + 1) / len(agreement)
            style = line_style(line_kwargs, label=name)
            self.lines_ += ax.plot(highest_first, share, **style)

        def level(at, label, style):
            label = f"{label} ({at:.2f})"
            return ax.axvline(at, label=label, color="black", lw=1, ls=style)

        self.threshold_line_ = level(self.threshold, "trusted above", "-")
        self.null_line_ = level(self.null, "random dictionaries", "--")
        ax.set(
            xlabel="Agreement with the other SAEs (cosine), at least",
            ylabel="Share of atoms",
            ylim=(0, 1.02),
        )
        ax.legend(**ABOVE, ncols=2)
        self.ax_, self.figure_ = ax, ax.figure
        return self
