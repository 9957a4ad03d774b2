"""Similarity of dictionaries: all of them pairwise, or two of them atom by atom."""

from __future__ import annotations

from itertools import combinations
from math import ceil
from typing import NamedTuple

import numpy as np

from .._sae.cosines import matched_cosines, named_dictionaries
from .._utils.checks import unit_dictionaries
from ._drawing import check_labels, import_pyplot, new_axes
from ._fitted import split_fitted

# Up to this many atoms, each atom is drawn; above, blocks of atoms are.
MAX_PIXELS = 256


class Matched(NamedTuple):
    """Cosines between the atoms of two dictionaries, in the order of their matching."""

    blocks: np.ndarray
    """(n_blocks, n_blocks), the largest cosine of each block of atoms"""
    block_size: int
    cosine: np.ndarray
    """(n_components,), cosines of matched atoms, descending"""


class SimilarityDisplay:
    """Similarity of dictionaries.

    It shows either the mean cosine of matched atoms for all pairs of dictionaries, or
    the cosines between all atoms of two of them.  In the second case, matched atoms are
    on the diagonal, in order of descending cosine.  The atoms that two SAEs share
    appear as a dark diagonal on a pale ground, which ends where it fades.

    It is recommended to use :meth:`from_estimator` or :meth:`from_dictionaries` to make
    one. All parameters are stored as attributes.

    Parameters
    ----------
    similarity : ndarray of shape (n, n)
        Cosines.
    labels : sequence of str
        Names of the n dictionaries, or of the two whose atoms are compared.
    matched_cosine : ndarray of shape (n_components,), default=None
        Cosines of the matched atoms of two dictionaries, descending. None if all
        dictionaries are compared.
    block_size : int, default=1
        Number of atoms in each row and column of `similarity`, which holds the largest
        cosine of each block.

    Attributes
    ----------
    im_ : matplotlib AxesImage
        The matrix.
    text_ : ndarray of shape (n, n) of matplotlib Text, or None
        Its numbers, if all dictionaries are compared.
    ax_ : matplotlib Axes
        Axes with the matrix.
    figure_ : matplotlib Figure
        Figure that contains it.

    See Also
    --------
    skmfr.agreement.matched_cosine : The mean cosine of matched atoms.
    skmfr.agreement.pw_mcc : Its mean over all pairs.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import SimilarityDisplay
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=0)
    >>> SimilarityDisplay.from_estimator(sae.fit(X[:500])).similarity.shape
    (5, 5)
    >>> SimilarityDisplay.from_estimator(sae, pair=(0, 1)).similarity.shape
    (64, 64)
    """

    def __init__(self, *, similarity, labels, matched_cosine=None, block_size=1):
        self.similarity = similarity
        self.labels = labels
        self.matched_cosine = matched_cosine
        self.block_size = block_size

    @classmethod
    def from_estimator(
        cls, estimator, *, pair=None, ax=None, colorbar=True, im_kwargs=None
    ):
        """Compare the SAEs and witnesses of a fitted estimator.

        Parameters
        ----------
        estimator : MFRSparseAutoencoder or Pipeline
            Fitted estimator, or pipeline that ends with one.
        pair : tuple of two int, default=None
            Two dictionaries to compare atom by atom. Indices first count the SAEs and
            then the witnesses. None compares all.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        colorbar : bool, default=True
            Whether to add a colour bar.
        im_kwargs : dict, default=None
            Keyword arguments for ``Axes.imshow``, which override the defaults.

        Returns
        -------
        display : SimilarityDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has an unsupported type.
        ValueError
            If it is not fitted, or there is no such pair.
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        _, sae = split_fitted(estimator)
        named = named_dictionaries(sae.dictionaries_, sae.witness_dictionaries_)
        return cls.from_dictionaries(
            list(named.values()),
            labels=list(named),
            pair=pair,
            ax=ax,
            colorbar=colorbar,
            im_kwargs=im_kwargs,
        )

    @classmethod
    def from_dictionaries(
        cls,
        dictionaries,
        *,
        labels=None,
        pair=None,
        ax=None,
        colorbar=True,
        im_kwargs=None,
    ):
        """Compare dictionaries from any source.

        Parameters
        ----------
        dictionaries : sequence of array-like of shape (n_components, n_features)
            Dictionaries of the same size.
        labels : sequence of str, default=None
            Names of the dictionaries. None means their indices.
        pair : tuple of two int, default=None
            Two dictionaries to compare atom by atom. None compares all.
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        colorbar : bool, default=True
            Whether to add a colour bar.
        im_kwargs : dict, default=None
            Keyword arguments for ``Axes.imshow``, which override the defaults.

        Returns
        -------
        display : SimilarityDisplay
            Display with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are fewer than two dictionaries, their shapes or the number of
            labels differ, or there is no such pair.

        Notes
        -----
        Atoms are matched one to one, as in :func:`skmfr.agreement.matched_cosine`.
        """
        import_pyplot(f"{cls.__name__}.from_dictionaries")
        units = unit_dictionaries(dictionaries)
        labels = check_labels(labels, len(units))
        if pair is None:
            display = cls(similarity=_mean_matched(units), labels=labels)
        else:
            i, j = _checked_pair(pair, labels)
            matched = _in_order_of_matching(units[i], units[j])
            display = cls(
                similarity=matched.blocks,
                labels=[labels[i], labels[j]],
                matched_cosine=matched.cosine,
                block_size=matched.block_size,
            )
        return display.plot(ax, colorbar=colorbar, im_kwargs=im_kwargs)

    def plot(self, ax=None, *, colorbar=True, im_kwargs=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in. None makes a new figure.
        colorbar : bool, default=True
            Whether to add a colour bar.
        im_kwargs : dict, default=None
            Keyword arguments for ``Axes.imshow``, which override the defaults.

        Returns
        -------
        display : SimilarityDisplay
            This display, with the drawn artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = new_axes(f"{type(self).__name__}.plot", ax)
        draw = self._draw_all if self.matched_cosine is None else self._draw_pair
        self.text_ = None
        meaning = draw(ax, im_kwargs or {})
        if colorbar:
            ax.figure.colorbar(self.im_, ax=ax, label=meaning)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_all(self, ax, im_kwargs) -> str:
        n = len(self.similarity)
        style = {"cmap": "Blues", "vmin": 0, "vmax": 1, **im_kwargs}
        self.im_ = ax.imshow(self.similarity, **style)
        self.text_ = np.empty((n, n), dtype=object)
        for (i, j), cosine in np.ndenumerate(self.similarity):
            # Contrast with the background: light on dark, or dark on light.
            color = "white" if self.im_.norm(cosine) > 0.5 else "black"
            self.text_[i, j] = ax.text(
                j, i, f"{cosine:.2f}", ha="center", va="center", color=color
            )
        ax.set_xticks(range(n), self.labels, rotation=30, ha="right")
        ax.set_yticks(range(n), self.labels)
        return "Mean cosine of matched atoms"

    def _draw_pair(self, ax, im_kwargs) -> str:
        n_components = len(self.matched_cosine)
        style = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, **im_kwargs}
        # Ticks count atoms, even where a pixel stands for many of them.
        end = len(self.similarity) * self.block_size
        self.im_ = ax.imshow(
            self.similarity, extent=(0, end, end, 0), interpolation="nearest", **style
        )
        ax.set(
            xlim=(0, n_components),
            ylim=(n_components, 0),
            xlabel=f"Matched atoms of {self.labels[1]}",
            ylabel=f"Atoms of {self.labels[0]}, by matched cosine",
            title=f"Mean matched cosine {np.mean(self.matched_cosine):.3f}",
        )
        if self.block_size == 1:
            return "Cosine"
        return f"Largest cosine of {self.block_size} x {self.block_size} atoms"


def _checked_pair(pair, labels) -> tuple[int, int]:
    numbers = tuple(pair)
    if len(numbers) != 2 or not all(i in range(len(labels)) for i in numbers):
        raise ValueError(
            f"pair must be two numbers from 0 to {len(labels) - 1} ({labels[0]} to "
            f"{labels[-1]}), got {pair}."
        )
    return numbers


def _mean_matched(units: list[np.ndarray]) -> np.ndarray:
    """Mean matched cosine of all pairs, (n, n)."""
    similarity = np.eye(len(units))
    for i, j in combinations(range(len(units)), 2):
        cosine, _ = matched_cosines(units[i], units[j])
        similarity[i, j] = similarity[j, i] = cosine.mean()
    return similarity


def _in_order_of_matching(atoms: np.ndarray, others: np.ndarray) -> Matched:
    """Cosines of unit atoms (n_components, n_features), matched ones on the diagonal.

    Only a band of rows of the full matrix is in memory at a time.
    """
    cosine, partner = matched_cosines(atoms, others)
    order = np.argsort(-cosine, kind="stable")
    atoms, others = atoms[order], others[partner[order]]
    size = ceil(len(atoms) / MAX_PIXELS)
    starts = np.arange(0, len(atoms), size)
    bands = [
        np.maximum.reduceat((atoms[start : start + size] @ others.T).max(0), starts)
        for start in starts
    ]
    return Matched(np.clip(bands, -1, 1), size, cosine[order])
