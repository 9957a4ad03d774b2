"""Means and variances of data, computed block by block."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Sums are computed over blocks of this size, which stay in the cache.
CACHED_BYTES = 1 << 18
# A variance below this many roundings of the mean, squared, counts as rounding error.
N_ROUNDINGS = 64
# The square of a smaller difference is 0, or not a normal number.
SMALLEST = float(np.finfo(np.float64).tiny ** 0.5)


@dataclass(frozen=True)
class Moments:
    """Number, mean and variance of rows seen so far; immutable."""

    n_rows: float
    """inf gives all further rows no weight"""
    mean: np.ndarray
    """(n_features,) float64"""
    variance: np.ndarray
    """(n_features,) float64"""

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray]) -> "Moments":
        """Moments of the rows of all blocks, (n_in_block, n_features) each.

        Raises
        ------
        ValueError
            If squares of values overflow, or those of all differences underflow.
        """
        sums = Sums()
        for block in blocks:
            sums.add(block)
        return sums.moments()

    def and_of(self, other: "Moments") -> "Moments":
        """Moments of the rows of both (Chan, Golub, LeVeque 1983)."""
        if np.isinf(self.n_rows):
            return self
        n_rows = self.n_rows + other.n_rows
        share = other.n_rows / n_rows
        step = other.mean - self.mean
        within = self.variance + share * (other.variance - self.variance)
        between = share * (1 - share) * step**2
        return Moments(n_rows, self.mean + share * step, within + between)


class Sums:
    """Sums over rows of their differences from a typical row, block by block.

    They are float64, so that large means and small units do not cost precision.

    Parameters
    ----------
    centre : ndarray of shape (n_features,), optional
        The typical row, if it is known.
    """

    def __init__(self, centre: np.ndarray | None = None):
        self.n_rows = 0.0
        """number of rows, or the sum of their weights"""
        self.centre = np.empty(0) if centre is None else centre
        """(n_features,), median of the first rows, which equals constant features"""
        self.largest = 0.0
        """largest difference of a value so far, or the first that is not too small"""
        self._room = np.empty((0, 0))

    def add(self, block: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add rows (n_rows, n_features) of any real dtype, optionally weighted."""
        n_features = block.shape[1]
        n_each = max(1, CACHED_BYTES // (8 * n_features))
        if len(self.centre) == 0:
            self.centre = typical_row(block[:n_each], weights)
        if len(self._room) == 0:
            self.total, self.squares = np.zeros((2, n_features))
            self._room = np.empty((n_each, n_features))
        # Overflow is reported at the end.
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(block), n_each):
                rows = block[start : start + n_each]
                distance = self._room[: len(rows)]
                distance[...] = rows
                self._take(distance, None if weights is None else weights[start:])
        self.n_rows += len(block) if weights is None else float(weights.sum())

    def _take(self, rows: np.ndarray, weights: np.ndarray | None) -> None:
        """Add float64 rows (n_rows, n_features) in the cache, which are overwritten."""
        rows -= self.centre
        if self.largest < SMALLEST:
            self.largest = max(self.largest, float(np.abs(rows).max()))
        if weights is None:
            self.total += rows.sum(axis=0)
            self.squares += np.einsum("ij,ij->j", rows, rows)
        else:
            weights = weights[: len(rows)]
            self.total += weights @ rows
            self.squares += weights @ np.square(rows)

    def moments(self) -> Moments:
        """Mean and variance; a variance due to rounding becomes 0.

        Raises
        ------
        ValueError
            If squares overflowed, or all underflowed.
        """
        if not np.isfinite(self.squares).all():
            raise ValueError(
                "X has values so large that their squares overflow float64: divide it "
                "by a number."
            )
        n = self.n_rows
        mean = (n * self.centre + self.total) / n
        variance = self.squares / n - (self.total / n) ** 2
        rounding = N_ROUNDINGS * np.finfo(np.float64).eps * np.abs(mean)
        if rounding.max() < self.largest < SMALLEST:
            raise ValueError(
                "X varies so little that squares underflow float64: multiply it by a "
                "number."
            )
        return Moments(n, mean, np.where(variance > rounding**2, variance, 0.0))


def typical_row(rows: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Median of each feature, (n_features,), by weight if there are weights."""
    if weights is None:
        return np.sort(rows, axis=0)[len(rows) // 2].astype(np.float64)
    order = np.argsort(rows, axis=0)
    below = np.cumsum(weights[: len(rows)][order], axis=0)
    place = np.argmax(below >= below[-1] / 2, axis=0)[None]
    median = np.take_along_axis(order, place, axis=0)
    return np.take_along_axis(rows, median, axis=0)[0].astype(np.float64)


def fvu_of_blocks(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], weights: np.ndarray | None = None
) -> float:
    """FVU of data and their reconstructions, block by block.

    Parameters
    ----------
    blocks : iterable of two ndarrays of shape (n_in_block, n_features)
    weights : ndarray of shape (n_samples,), optional
        Non-negative float64 weights of the samples of all blocks.
    """
    residual, sums, start = 0.0, Sums(), 0
    for X, X_hat in blocks:
        own = None if weights is None else weights[start : start + len(X)]
        start += len(X)
        if own is not None and not own.all():
            # They count nothing, but far ones would cost precision.
            X, X_hat, own = (each[own > 0] for each in (X, X_hat, own))
        if not len(X):
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.square(X - X_hat, dtype=np.float64)
            residual += float(squares.sum() if own is None else own @ squares.sum(1))
        sums.add(X, own)
    moments = sums.moments()
    total = float(np.sum(moments.variance)) * moments.n_rows
    if total == 0:
        rounding = 8 * float(np.finfo(X.dtype).eps)
        size = float(np.sum(np.square(moments.mean))) * moments.n_rows
        return float(residual > rounding**2 * size)
    return float(residual / total)
