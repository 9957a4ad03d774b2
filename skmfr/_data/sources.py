"""Data that are read in pieces: files, and chunked arrays (zarr, dask, HDF5).

A source offers the part of the array interface that readers need: ``shape``, ``dtype``,
and indexing of rows by a slice or by sorted indices.
"""

import os
from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np

from .._utils.checks import as_array

# As many chunks are shuffled together as fill this many bytes.
MIXED_BYTES = 1 << 28
# Bytes to read at once from an array without chunks.
SLAB_BYTES = 1 << 24
# Number of values to check at once.
CHECKED_VALUES = 1 << 24


class Source:
    """Pieces of data, stacked along the rows.

    Parameters
    ----------
    X : object
        Data from the user.
    sizes : list of int
        Number of rows of each piece.
    n_features : int
    dtype : dtype
        Dtype of the data; rows are returned as float32 or float64.
    """

    def __init__(self, X, sizes: list[int], n_features: int, dtype: np.dtype):
        self.X = X
        self.starts = np.cumsum([0, *sizes])
        """(n_pieces + 1,), first row of each piece"""
        self.shape = int(self.starts[-1]), n_features
        self.dtype = _precision(dtype)

    def piece(self, i: int) -> np.ndarray:
        """The rows of one piece."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """A copy of some rows.

        Raises
        ------
        ValueError
            If values are not finite.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        read = np.empty((len(rows), self.shape[1]), self.dtype)
        piece_of = np.searchsorted(self.starts, rows, side="right") - 1
        for i in np.unique(piece_of):
            first, stop = np.searchsorted(piece_of, [i, i + 1])
            read[first:stop] = self.piece(i)[rows[first:stop] - self.starts[i]]
        _check_finite(read, rows)
        return read


class Shards(Source):
    """Several arrays or ``.npy`` files, which are mapped, or a single memory map."""

    def __init__(self, X):
        given = [X] if isinstance(X, np.ndarray) else X
        self.shards = [_opened(shard, i) for i, shard in enumerate(given)]
        first = self.shards[0]
        for i, shard in enumerate(self.shards):
            name = f"shard {i}" + (f" ({given[i]})" if _is_path(given[i]) else "")
            if shard.ndim != 2 or 0 in shard.shape:
                raise ValueError(
                    f"X must be a list of non-empty shards of shape (n_samples, "
                    f"n_features), but {name} has shape {shard.shape}."
                )
            for what, found, expected in [
                ("features", shard.shape[1], first.shape[1]),
                ("dtype", shard.dtype, first.dtype),
            ]:
                if found != expected:
                    raise ValueError(
                        f"All shards of X must have the same {what}, but {name} has "
                        f"{what}={found} and shard 0 has {what}={expected}."
                    )
        sizes = [len(shard) for shard in self.shards]
        super().__init__(X, sizes, first.shape[1], first.dtype)

    def piece(self, i: int) -> np.ndarray:
        return self.shards[i]


class Chunked(Source):
    """An array that can be read only in whole chunks.

    It caches the chunks that were read last: those that are mixed in one batch.
    """

    def __init__(self, X):
        if len(X.shape) != 2 or not np.all(np.isfinite(X.shape)) or 0 in X.shape:
            raise ValueError(
                "X must have a known, non-empty shape (n_samples, n_features), got "
                f"{X.shape}. For a dask array, call compute_chunk_sizes() first."
            )
        n_samples, n_features = X.shape
        if X.chunks is None:
            sizes = max(1, SLAB_BYTES // (n_features * X.dtype.itemsize))
        else:
            # dask lists the sizes of all chunks; other libraries give one size.
            sizes = X.chunks[0]
        if np.ndim(sizes) == 0:
            sizes = np.diff([*range(0, n_samples, sizes), n_samples]).tolist()
        sizes = [size for size in sizes if size]
        super().__init__(X, sizes, n_features, X.dtype)
        largest = max(sizes) * n_features * self.dtype.itemsize
        self.n_mixed = max(1, MIXED_BYTES // largest)
        """number of chunks that are shuffled together"""
        self._chunks: dict[int, np.ndarray] = {}
        # One thread reads ahead while another trains.
        self._lock = Lock()

    def piece(self, i: int) -> np.ndarray:
        with self._lock:
            chunk = self._chunks.pop(i, None)
            if chunk is None:
                rows = slice(*self.starts[i : i + 2].tolist())
                chunk = np.asarray(self.X[rows]).astype(self.dtype, copy=False)
            # A batch may extend from one lot of mixed chunks into the next.
            while len(self._chunks) >= 2 * self.n_mixed:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[i] = chunk
            return chunk


def as_source(X) -> Source | None:
    """A source for X, or None if scikit-learn should read X."""
    if _is_path(X):
        raise ValueError(
            f"X is a path, {os.fspath(X)}, but data are expected. Pass a list that "
            "holds the path, or np.load(X, mmap_mode='r')."
        )
    if isinstance(X, Iterator):
        raise TypeError(
            f"X is an iterator, {type(X).__name__}, which can be read only once; "
            "expected data. Give a list of shards, or each part to partial_fit."
        )
    # Asked of the type, because columns of a data frame are attributes too.
    if hasattr(type(X), "to_dask_array"):
        raise TypeError(
            "X is a dask data frame, but an array is expected: pass "
            "X.to_dask_array(lengths=True)."
        )
    if isinstance(X, (list, tuple)):
        shards = X and (_is_path(X[0]) or getattr(X[0], "ndim", 0) == 2)
        return Shards(X) if shards else None
    if isinstance(X, np.memmap):
        return Shards(X) if X.ndim == 2 and X.size else None
    return Chunked(X) if _is_chunked(X) else None


def check_finite(X: np.ndarray) -> None:
    """Check for values that are not finite, in blocks of rows.

    Raises
    ------
    ValueError
        If there is one. The message names its row and column.
    """
    n_rows = max(1, CHECKED_VALUES // X.shape[1])
    for start in range(0, len(X), n_rows):
        block = X[start : start + n_rows]
        _check_finite(block, range(start, start + len(block)))


def chunk_starts(X: np.ndarray | Source) -> np.ndarray:
    """First row of each chunk of X, and the length of X; one chunk if X has none."""
    if isinstance(X, Chunked):
        return X.starts
    return np.array([0, len(X)])


def n_mixed(X: np.ndarray | Source) -> int:
    """Number of chunks whose samples are shuffled together."""
    return X.n_mixed if isinstance(X, Chunked) else 1


def in_memory(X: np.ndarray | Source) -> bool:
    """Whether X is an array that is not memory-mapped."""
    array: object = X
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return False
        array = array.base
    return isinstance(X, np.ndarray)


def _check_finite(X: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
    """Check rows with these indices for values that are not finite."""
    finite = np.isfinite(X)
    if finite.all():
        return
    i, feature = np.argwhere(~finite)[0]
    # Spelled as in scikit-learn.
    value = "NaN" if np.isnan(X[i, feature]) else X[i, feature]
    raise ValueError(
        f"X contains {value} in row {rows[i]}, column {feature}: all values must be "
        "finite."
    )


def _is_path(x) -> bool:
    return isinstance(x, (str, os.PathLike))


def _is_chunked(X) -> bool:
    """Whether X is an array that reads rows on request, in chunks or directly."""
    # Exclude data frames with a column of this name, and array types that can be
    # chunked, are not, and compute like arrays.
    chunks = getattr(X, "chunks", False)
    return isinstance(chunks, tuple) or (
        chunks is None and not hasattr(X, "__array_ufunc__")
    )


def _opened(shard, i: int) -> np.ndarray:
    if _is_chunked(shard):
        raise ValueError(
            f"Shard {i} of X is a {type(shard).__module__}.{type(shard).__name__}, "
            "which would be read into memory whole; arrays or .npy files are expected. "
            "Concatenate the shards into one array, for example with "
            "dask.array.concatenate."
        )
    if not _is_path(shard):
        return np.asarray(as_array(shard))
    try:
        return np.lib.format.open_memmap(shard, mode="r")
    except ValueError as error:
        raise ValueError(
            f"Shard {i} of X, {shard}, is not a .npy file that can be memory-mapped: "
            f"{error}"
        ) from error


def _precision(dtype: np.dtype) -> np.dtype:
    """float32 for float32 and smaller types, float64 for all other real numbers."""
    if dtype.kind not in "fiub":
        raise ValueError(f"X must have real numbers, got dtype={dtype}.")
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else float)
