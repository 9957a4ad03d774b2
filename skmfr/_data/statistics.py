"""Statistics of data before training: moments, norms and outliers."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .batches import row_blocks
from .moments import Moments, Sums
from .sources import Source
from .standardiser import FARTHEST

# Rows are outliers if together they have more than this share of the variance, and are
# fewer than this share of all rows,
MOST_VARIANCE = 0.5
FEW_ROWS = 0.02
# or fewer than this share, with each this many times farther out than the median row.
LESS_FEW_ROWS = 0.25
FAR = 10.0


class Outliers(NamedTuple):
    """A few rows that hold most of the variance, or resemble such rows seen earlier."""

    rows: np.ndarray
    """(n_outliers,), sorted indices of the rows"""
    share: float
    """share of the variance of all rows"""


class Statistics(NamedTuple):
    """Statistics of rows of data."""

    n_rows: int
    moments: Moments
    """moments of the rows that are not outliers"""
    median_norm: float
    """median of the Euclidean norms of all rows"""
    outliers: Outliers | None


class SumsAndSizes(Sums):
    """Sums that also record each row's norm and its distance from the centre."""

    def __init__(self, dtype: np.dtype, centre: np.ndarray | None = None):
        super().__init__(centre)
        self.dtype = dtype
        self.norms: list[np.ndarray] = []
        self.distances: list[np.ndarray] = []

    def _take(self, rows: np.ndarray, weights: np.ndarray | None) -> None:
        self.norms.append(self._sizes(rows))
        super()._take(rows, weights)
        self.distances.append(self._sizes(rows))

    def _sizes(self, rows: np.ndarray) -> np.ndarray:
        return np.sqrt(np.einsum("ij,ij->i", rows, rows)).astype(self.dtype)


def statistics_of(
    X: np.ndarray | Source,
    rows: np.ndarray | None = None,
    known: Moments | None = None,
) -> Statistics:
    """Statistics of some rows of X, or of all, in one pass over them.

    The pass keeps two numbers for each row. If there are outliers, the other rows are
    read again.

    Parameters
    ----------
    X : ndarray or Source
    rows : ndarray of shape (n_rows,), optional
    known : Moments, optional
        Moments of earlier rows without their outliers. Rows too far from these are then
        outliers.

    Raises
    ------
    ValueError
        If squares of values overflow, or those of all differences underflow.
    """
    sums = SumsAndSizes(X.dtype, None if known is None else known.mean)
    for block in row_blocks(X, rows):
        sums.add(block)
    moments, distances = sums.moments(), np.concatenate(sums.distances)
    if known is None:
        outliers = _outweighing(X, rows, distances, sums.centre, moments)
    else:
        outliers = _far_from(known, rows, distances)
    if outliers is not None:
        of_all = np.arange(len(X)) if rows is None else rows
        others = np.setdiff1d(of_all, outliers.rows, assume_unique=True)
        if len(others):
            moments = Moments.of(row_blocks(X, others))
        elif known is not None:
            moments = replace(known, n_rows=0.0)
    median_norm = float(np.median(np.concatenate(sums.norms)))
    return Statistics(len(distances), moments, median_norm, outliers)


def _far_from(
    known: Moments, rows: np.ndarray | None, distances: np.ndarray
) -> Outliers | None:
    """Rows that are too far from the mean of earlier rows.

    Parameters
    ----------
    known : Moments
    rows : ndarray of shape (n_rows,), optional
    distances : ndarray of shape (n_rows,)
        Distances from the mean.
    """
    (far,) = np.nonzero(distances > FARTHEST * np.sqrt(known.variance.sum()))
    if not len(far):
        return None
    squares = np.square(distances, dtype=np.float64)
    share = float(squares[far].sum() / squares.sum())
    return Outliers(far if rows is None else rows[far], share)


def _outweighing(
    X: np.ndarray | Source,
    rows: np.ndarray | None,
    distances: np.ndarray,
    centre: np.ndarray,
    moments: Moments,
) -> Outliers | None:
    """Rows that outweigh the others, if they are few and the others vary.

    Parameters
    ----------
    X : ndarray or Source
    rows : ndarray of shape (n_rows,), optional
    distances : ndarray of shape (n_rows,)
        Distances of the rows from the centre.
    centre : ndarray of shape (n_features,)
    moments : Moments
        Moments of the rows.
    """
    median = np.median(distances)
    n_most = int(np.ceil(FEW_ROWS * len(distances))) - 1
    n_far = int(np.sum(distances > FAR * median))
    if n_far < LESS_FEW_ROWS * len(distances):
        n_most = max(n_most, n_far)
    total = float(moments.variance.sum()) * len(distances)
    # If most rows are identical, only the few others contain information.
    if n_most < 1 or total == 0 or median == 0:
        return None
    farthest = np.sort(np.argpartition(-distances, n_most - 1)[:n_most])
    # An upper bound on the distance from the mean. If it is small enough, no row has to
    # be read again.
    bound = distances[farthest] + np.linalg.norm(moments.mean - centre)
    if np.sum(np.square(bound, dtype=np.float64)) <= MOST_VARIANCE * total:
        return None
    numbers = farthest if rows is None else rows[farthest]
    size = np.concatenate(
        [
            np.square(block - moments.mean, dtype=np.float64).sum(axis=1)
            for block in row_blocks(X, numbers)
        ]
    )
    outweighing = size > total / len(distances)
    share = float(size[outweighing].sum() / total)
    if share <= MOST_VARIANCE:
        return None
    return Outliers(numbers[outweighing], share)
