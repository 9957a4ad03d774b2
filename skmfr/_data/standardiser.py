"""Centre data and scale them by one number."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._utils.devices import on_device
from .batches import row_blocks
from .moments import Moments
from .sources import Source

# If there are outliers, rows are scaled down to this multiple of the root mean square
# distance of the other rows from their mean.
FARTHEST = 3.0


@dataclass(frozen=True)
class Standardiser:
    """Centres each feature and divides all by the root mean variance.

    Training sees data whose variance, summed over features, is n_features, in any unit.
    """

    mean: np.ndarray
    """(n_features,)"""
    scale: float
    deviation: np.ndarray
    """(n_features,), standard deviation of each feature after scaling"""
    largest: float = np.inf
    """norm to which longer rows are shrunk after scaling"""

    @classmethod
    def of(
        cls, X: np.ndarray | Source, rows: np.ndarray | None = None
    ) -> "Standardiser":
        """Compute the statistics of some rows of X; constant data are only centred.

        Raises
        ------
        ValueError
            If squares of values overflow, or those of all differences underflow.
        """
        return cls.from_moments(Moments.of(row_blocks(X, rows)), X.dtype)

    @classmethod
    def none(cls, X: np.ndarray | Source) -> "Standardiser":
        """Return a standardiser that leaves data like X unchanged."""
        zero = np.zeros(X.shape[1], dtype=X.dtype)
        return cls(zero, 1.0, zero + 1)

    @classmethod
    def from_moments(
        cls, moments: Moments, dtype: np.dtype, bounded: bool = False
    ) -> "Standardiser":
        """Build from known moments, for this dtype, with or without outliers."""
        scale = float(np.sqrt(np.mean(moments.variance))) or 1.0
        deviation = np.sqrt(moments.variance) / scale
        largest = FARTHEST * len(deviation) ** 0.5 if bounded else np.inf
        return cls(moments.mean.astype(dtype), scale, deviation, largest)

    def __call__(self, X: np.ndarray, device: str, dtype: torch.dtype) -> Tensor:
        """A standardised copy of X, as a new array.

        Computed in the precision of X. X itself may be overwritten.
        """
        # Make the order of sums, and so the rounding, independent of the memory layout.
        batch = on_device(np.ascontiguousarray(X), device)
        batch -= on_device(self.mean, device)
        batch /= self.scale
        if self.largest < np.inf:
            # In float32, squares of far rows would overflow.
            norms = torch.linalg.vector_norm(
                batch, dim=1, keepdim=True, dtype=torch.float64
            )
            batch *= (self.largest / norms).clamp_(max=1.0).to(batch.dtype)
        return batch.to(dtype)
