"""Data centred, and all in one scale."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._utils.devices import on_device
from .batches import row_blocks
from .moments import Moments
from .sources import Source

# Where there are outliers, rows are drawn in to so many times the root mean square
# distance of the others from their mean.
FARTHEST = 3.0


@dataclass(frozen=True)
class Standardiser:
    """Centres each feature and divides all by one number, the root mean variance.

    Training sees data whose variance, summed over features, is n_features, whatever
    their units.
    """

    mean: np.ndarray
    """(n_features,)"""
    scale: float
    deviation: np.ndarray
    """(n_features,), standard deviation of each feature after that"""
    largest: float = np.inf
    """norm that longer rows are shrunk to after that"""

    @classmethod
    def of(
        cls, X: np.ndarray | Source, rows: np.ndarray | None = None
    ) -> "Standardiser":
        """Statistics of some rows of X; constant data are centred only.

        Raises
        ------
        ValueError
            If values are so large that their squares overflow.
        """
        return cls.from_moments(Moments.of(row_blocks(X, rows)), X.dtype)

    @classmethod
    def none(cls, X: np.ndarray | Source) -> "Standardiser":
        """Which leaves data like X as they are."""
        zero = np.zeros(X.shape[1], dtype=X.dtype)
        return cls(zero, 1.0, zero + 1)

    @classmethod
    def from_moments(
        cls, moments: Moments, dtype: np.dtype, bounded: bool = False
    ) -> "Standardiser":
        """For data of this dtype with these moments, and outliers beside or not."""
        scale = float(np.sqrt(np.mean(moments.variance))) or 1.0
        deviation = np.sqrt(moments.variance) / scale
        largest = FARTHEST * len(deviation) ** 0.5 if bounded else np.inf
        return cls(moments.mean.astype(dtype), scale, deviation, largest)

    def __call__(self, X: np.ndarray, device: str, dtype: torch.dtype) -> Tensor:
        """A standardised copy of X, which is an array of its own.

        Computed in the precision of X; X itself may be overwritten.
        """
        # The order of sums, and so rounding, does not depend on that of the data.
        batch = on_device(np.ascontiguousarray(X), device)
        batch -= on_device(self.mean, device)
        batch /= self.scale
        if self.largest < np.inf:
            norms = torch.linalg.vector_norm(batch, dim=1, keepdim=True)
            batch *= (self.largest / norms).clamp_(max=1.0)
        return batch.to(dtype)
