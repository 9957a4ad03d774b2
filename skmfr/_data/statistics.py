"""What is known of data before training: moments, norms, and rows that outweigh all."""

from typing import NamedTuple

import numpy as np

from .batches import row_blocks
from .moments import Moments, Sums
from .sources import Source

# Fewer rows than this share of all, with more than this share of the variance.
FEW_ROWS = 0.02
MOST_VARIANCE = 0.5


class Dominant(NamedTuple):
    """Few rows that hold most of the variance."""

    rows: np.ndarray
    """(n_dominant,), their numbers, in order"""
    share: float
    """of the variance"""


class Statistics(NamedTuple):
    """Of rows of data."""

    moments: Moments
    median_norm: float
    """of the rows' Euclidean norms"""
    dominant: Dominant | None


class SumsAndSizes(Sums):
    """Sums, and for each row its norm and its distance from the typical row."""

    def __init__(self, dtype: np.dtype):
        super().__init__()
        self.dtype = dtype
        self.norms: list[np.ndarray] = []
        self.distances: list[np.ndarray] = []

    def _take(self, rows: np.ndarray, weights: np.ndarray | None) -> None:
        self.norms.append(self._sizes(rows))
        super()._take(rows, weights)
        self.distances.append(self._sizes(rows))

    def _sizes(self, rows: np.ndarray) -> np.ndarray:
        return np.sqrt(np.einsum("ij,ij->i", rows, rows)).astype(self.dtype)


def statistics_of(X: np.ndarray | Source, rows: np.ndarray | None = None) -> Statistics:
    """Those of some rows of X, or of all, in one pass over them.

    Two numbers are kept of each row meanwhile.

    Raises
    ------
    ValueError
        If values are so large that their squares overflow.
    """
    sums = SumsAndSizes(X.dtype)
    for block in row_blocks(X, rows):
        sums.add(block)
    moments = sums.moments()
    return Statistics(
        moments,
        float(np.median(np.concatenate(sums.norms))),
        _dominant(X, rows, np.concatenate(sums.distances), sums.centre, moments),
    )


def _dominant(
    X: np.ndarray | Source,
    rows: np.ndarray | None,
    distances: np.ndarray,
    centre: np.ndarray,
    moments: Moments,
) -> Dominant | None:
    """Rows that outweigh the others, if there are few and something in the others.

    Parameters
    ----------
    X : ndarray or Source
    rows : ndarray of shape (n_rows,), optional
    distances : ndarray of shape (n_rows,)
        Of the rows from the centre.
    centre : ndarray of shape (n_features,)
    moments : Moments
        Of the rows.
    """
    n_most = int(np.ceil(FEW_ROWS * len(distances))) - 1
    total = float(moments.variance.sum()) * len(distances)
    # If most rows are the same, the few others are all that there is to learn.
    if n_most < 1 or total == 0 or np.median(distances) == 0:
        return None
    farthest = np.sort(np.argpartition(-distances, n_most - 1)[:n_most])
    # No row is farther from the mean: where that is too little, none is read again.
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
    return Dominant(numbers[outweighing], share)
