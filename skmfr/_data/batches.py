"""Batches of data by number, and fingerprints of data."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from threading import Lock

import joblib
import numpy as np

from .._utils.random import BATCHES, CHUNKS, random_numbers
from .._utils.threads import computed_ahead
from .._utils.workers import ALONE, Workers
from .sources import Shards, Source, chunk_starts, in_memory, n_mixed

BLOCK_BYTES = 1 << 26
# If data on disk have more blocks than this, only this many are hashed.
HASHED_BLOCKS = 8
# Maximum number of batches to read ahead of training, with less than 64 MB in all.
MOST_AHEAD = 64


def row_blocks(
    X: np.ndarray | Source, rows: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The given rows of X, or all, in C order, in blocks of at most 64 MB."""
    for block in _row_slices(X, len(X) if rows is None else len(rows)):
        yield np.ascontiguousarray(X[block if rows is None else rows[block]])


def _row_slices(X: np.ndarray | Source, n_rows: int) -> list[slice]:
    n_each = max(1, BLOCK_BYTES // max(1, X.shape[1] * X.dtype.itemsize))
    return [slice(start, start + n_each) for start in range(0, n_rows, n_each)]


def fingerprint(X: np.ndarray | Source) -> str:
    """Hash of data and chunks, on which batches depend; not of their location.

    Arrays in memory, and up to 512 MB on disk, are hashed completely.  For larger data
    on disk, or partly on disk, the hash covers the shape and eight blocks of 64 MB: the
    first, the last, and others at equal distances.
    """
    blocks = _row_slices(X, len(X))
    arrays = X.shards if isinstance(X, Shards) else [X]
    if len(blocks) > HASHED_BLOCKS and not all(map(in_memory, arrays)):
        chosen = np.linspace(0, len(blocks) - 1, HASHED_BLOCKS).astype(int)
        blocks = [blocks[i] for i in chosen]
    # Flat, because the strides of a single column depend on where it is from.
    hashes = [joblib.hash(np.ascontiguousarray(X[block]).ravel()) for block in blocks]
    starts = chunk_starts(X)
    chunks = (starts, n_mixed(X)) if len(starts) > 2 else None
    return joblib.hash((X.shape, hashes, chunks))


@dataclass
class Batches:
    """Batches of rows of X, by number.

    Each epoch is a new permutation. The epochs are concatenated and cut into batches of
    one size, so that no batch is small and all samples are seen equally often.  A batch
    depends only on the seed, the key and its number.

    Data that can be read only in chunks are permuted in two steps: first all chunks,
    and then the samples of a few consecutive chunks, which are read together.
    """

    X: np.ndarray | Source
    rows: np.ndarray | None
    """(n_rows,) the samples to draw from, sorted; None means all"""
    batch_size: int
    shuffle: bool
    seed: int
    key: int = 0
    """distinguishes passes over the data with the same seed"""
    workers: Workers = ALONE
    """the processes that share each batch"""

    def __post_init__(self):
        self.starts = chunk_starts(self.X)
        """(n_chunks + 1,)"""
        bounds = self.starts
        if self.rows is not None:
            bounds = np.searchsorted(self.rows, self.starts)
        self.sizes = np.diff(bounds)
        """(n_chunks,), number of samples to draw from each chunk"""
        self.n_rows = int(self.sizes.sum())
        self.batch_size = min(self.batch_size, self.n_rows)
        if self.batch_size % self.workers.size:
            raise ValueError(
                f"batch_size={self.batch_size} (at most n_samples) must be a multiple "
                f"of the number of processes, {self.workers.size}."
            )
        self._chunk_orders: dict[int, np.ndarray] = {}
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        # One thread reads ahead while another trains.
        self._lock = Lock()

    @property
    def per_epoch(self) -> float:
        """Batches per epoch, a fraction if the last extends into the next epoch."""
        return self.n_rows / self.batch_size

    @property
    def n_mixed(self) -> int:
        """Number of chunks whose samples are shuffled together."""
        return n_mixed(self.X)

    def in_chunk(self, chunk: int) -> np.ndarray:
        """The samples to draw from a chunk, as a new array."""
        start, stop = self.starts[chunk : chunk + 2]
        if self.rows is None:
            # Half the memory, if one chunk holds all samples.
            dtype = np.int32 if stop <= np.iinfo(np.int32).max else np.int64
            return np.arange(start, stop, dtype=dtype)
        return self.rows[slice(*np.searchsorted(self.rows, [start, stop]))].copy()

    def chunk_order(self, epoch: int) -> np.ndarray:
        """The chunks in the order of an epoch."""
        if epoch not in self._chunk_orders:
            order = np.flatnonzero(self.sizes)
            if self.shuffle and len(order) > 1:
                random_numbers(self.seed, CHUNKS, self.key, epoch).shuffle(order)
            _keep(self._chunk_orders, epoch, order)
        return self._chunk_orders[epoch]

    def order(self, epoch: int, lot: int = 0) -> np.ndarray:
        """The samples of one lot of mixed chunks, in the order of an epoch."""
        if (epoch, lot) not in self._orders:
            chunks = self.chunk_order(epoch)[lot * self.n_mixed :][: self.n_mixed]
            parts = [self.in_chunk(chunk) for chunk in chunks.tolist()]
            order = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if self.shuffle:
                key = (lot,) if len(self.sizes) > 1 else ()
                draw = random_numbers(self.seed, BATCHES, self.key, epoch, *key)
                draw.shuffle(order)
            _keep(self._orders, (epoch, lot), order)
        return self._orders[epoch, lot]

    def samples(self, number: int) -> np.ndarray:
        """Indices of the samples in a batch, (batch_size,), in the order of the data.

        Their order within a batch does not matter, so a memory map is read forward.
        """
        place, missing = number * self.batch_size, self.batch_size
        parts = []
        with self._lock:
            while missing:
                epoch, begin = divmod(place, self.n_rows)
                sizes = self.sizes[self.chunk_order(epoch)]
                firsts = range(0, len(sizes), self.n_mixed)
                ends = np.cumsum(np.add.reduceat(sizes, firsts))
                lot = int(np.searchsorted(ends, begin, side="right"))
                order = self.order(epoch, lot)
                begin += len(order) - ends[lot]
                parts.append(order[begin : begin + missing])
                place += len(parts[-1])
                missing -= len(parts[-1])
        return np.sort(np.concatenate(parts))

    def __getitem__(self, number: int) -> np.ndarray:
        """A copy of the samples in a batch, (batch_size, n_features)."""
        return self.X[self.samples(number)]

    def part(self, number: int) -> np.ndarray:
        """The samples of a batch on which this process trains."""
        return self.X[self.workers.part(self.samples(number))]

    def in_turn(
        self, first: int, last: int, ahead: bool = False
    ) -> Generator[np.ndarray, None, None]:
        """This process's part of batches `first` to `last` - 1.

        Parameters
        ----------
        first, last : int
        ahead : bool
            Whether a thread reads ahead even if X is in memory. Closing the iterator
            ends the thread.
        """
        if in_memory(self.X) and not ahead:
            yield from (self.part(number) for number in range(first, last))
            return
        batch_bytes = self.batch_size * self.X.shape[1] * self.X.dtype.itemsize
        n_ahead = min(max(2, BLOCK_BYTES // batch_bytes), MOST_AHEAD)
        numbers = range(first, last)
        yield from computed_ahead(self.part, numbers, n_threads=1, n_ahead=n_ahead)


def _keep(cache: dict, key, value) -> None:
    """Add a value, and drop the oldest if there would be more than two."""
    if len(cache) >= 2:
        del cache[next(iter(cache))]
    cache[key] = value
