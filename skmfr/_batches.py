"""Reading data: standardisation, and batches by number."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ._random import BATCHES, DONORS, random_numbers
from .metrics import _variance

BLOCK_BYTES = 1 << 26


def row_blocks(X: np.ndarray, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """The given rows of X, or all, in blocks of at most 64 MB."""
    n_rows = max(1, BLOCK_BYTES // max(1, X.shape[1] * X.dtype.itemsize))
    n_samples = len(X) if rows is None else len(rows)
    for start in range(0, n_samples, n_rows):
        block = slice(start, start + n_rows)
        yield np.asarray(X[block if rows is None else rows[block]])


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

    @classmethod
    def of(cls, X: np.ndarray, rows: np.ndarray | None = None) -> "Standardiser":
        """Statistics of some rows of X; constant data are centred only."""
        moments = StandardScaler()
        for block in row_blocks(X, rows):
            moments.partial_fit(block)
        variance = _variance(moments)
        scale = float(np.sqrt(np.mean(variance))) or 1.0
        deviation = np.sqrt(variance) / scale
        return cls(moments.mean_.astype(X.dtype), scale, deviation)

    def __call__(self, X: np.ndarray, device: str, dtype: torch.dtype) -> Tensor:
        """A standardised copy of X, which is an array of its own.

        Computed in the precision of X; X itself is overwritten.
        """
        batch = torch.from_numpy(X).to(device)
        batch -= torch.from_numpy(self.mean).to(device)
        batch /= self.scale
        return batch.to(dtype)


@dataclass
class Batches:
    """Batches of rows of X, by number.

    The epochs, each a new permutation, are strung together and cut into batches of one
    size, so that no batch is small and all samples are seen equally often.  A batch
    depends on the seed, the key and its number only.
    """

    X: np.ndarray
    rows: np.ndarray
    """(n_rows,) the samples to draw from"""
    batch_size: int
    shuffle: bool
    seed: int
    key: int = 0
    """tells passes over the data with one seed apart"""
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        self.batch_size = min(self.batch_size, len(self.rows))
        draw = random_numbers(self.seed, DONORS)
        self.for_witnesses = draw.permutation(len(self.X)) % 2 == 1
        """(n_samples,), which samples may give atoms to witnesses; the others to the
        group, so that no atom is in both because of one sample"""

    @property
    def per_epoch(self) -> float:
        """Batches in an epoch, a fraction if the last one reaches into the next."""
        return len(self.rows) / self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """The samples in the order of an epoch."""
        if epoch not in self._orders:
            order = self.rows
            if self.shuffle:
                draw = random_numbers(self.seed, BATCHES, self.key, epoch)
                order = draw.permutation(order)
            # A batch reaches into two epochs at most.
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]

    def samples(self, number: int) -> np.ndarray:
        """Which samples are in a batch, (batch_size,), in the order of the data.

        Their order in a batch does not matter, and so a memmap is read forward.
        """
        epoch, start = divmod(number * self.batch_size, len(self.rows))
        chosen = self.order(epoch)[start : start + self.batch_size]
        missing = self.batch_size - len(chosen)
        if missing:
            chosen = np.concatenate([chosen, self.order(epoch + 1)[:missing]])
        return np.sort(chosen)

    def __getitem__(self, number: int) -> np.ndarray:
        """A copy of the samples in a batch, (batch_size, n_features)."""
        return np.take(self.X, self.samples(number), axis=0)

    def donors(self, n: int, witness: bool, draw: np.random.Generator) -> np.ndarray:
        """A copy of up to n different random samples for a witness, or for the group.

        Returns
        -------
        ndarray of shape (n_donors, n_features)
        """
        candidates = self.rows[self.for_witnesses[self.rows] == witness]
        chosen = draw.choice(candidates, min(n, len(candidates)), replace=False)
        return np.take(self.X, np.sort(chosen), axis=0)
