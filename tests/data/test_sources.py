"""Shards and chunked arrays against the array that they make up."""

from pathlib import Path

import dask.array
import dask.dataframe
import numpy as np
import pandas as pd
import pytest
import zarr

import skmfr._data.sources
from skmfr._data.sources import (
    Chunked,
    Shards,
    as_source,
    check_finite,
    chunk_starts,
    in_memory,
)

ROWS = np.array([0, 2, 3, 9, 10, 24, 25, 39])


def random_data(n_samples=40, dtype=np.float32):
    return np.random.default_rng(0).standard_normal((n_samples, 3)).astype(dtype)


def zarr_of(X, n_rows=7):
    return zarr.array(X, chunks=(n_rows, 2))


def dask_of(X, n_rows=7):
    return dask.array.from_array(X, chunks=((5, 15, len(X) - 20), (1, 2)))


def npy_files(X, folder):
    paths = [folder / f"{i}.npy" for i in range(3)]
    for path, part in zip(paths, np.split(X, [10, 25]), strict=True):
        np.save(path, part)
    return paths


def shards_of(X, folder):
    return [np.load(path, mmap_mode="r") for path in npy_files(X, folder)]


def forms(X, folder):
    """The same data as it may be given."""
    return {
        "files": npy_files(X, folder),
        "names of files": tuple(str(path) for path in npy_files(X, folder)),
        "memmaps": shards_of(X, folder),
        "arrays": np.split(X, [10, 25]),
        "zarr": zarr_of(X),
        "dask": dask_of(X),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
def test_rows_of_a_source_are_those_of_the_array(tmp_path, dtype):
    X = (100 * random_data()).astype(dtype)
    expected = X.astype(np.float32 if dtype in (np.float16, np.float32) else float)
    for data in forms(X, tmp_path).values():
        source = as_source(data)
        assert source.shape == X.shape
        assert len(source) == len(X)
        for rows in (ROWS, slice(4, 30), slice(None), slice(38, 100), ROWS[:0]):
            read = source[rows]
            np.testing.assert_array_equal(read, expected[rows])
            assert read.dtype == source.dtype == expected.dtype
            assert read.flags.writeable
            read[:] = 0
        np.testing.assert_array_equal(source[:], expected)


@pytest.mark.parametrize(
    "X",
    [
        [[1.0, 2.0]],
        [],
        [np.arange(3.0)],
        np.ones((2, 2)),
        None,
        pd.DataFrame({"chunks": [1.0, 2.0]}),
        pd.DataFrame({"to_dask_array": [1.0, 2.0]}),
    ],
)
def test_all_else_is_left_to_scikit_learn(X):
    assert as_source(X) is None


def test_chunks_begin_where_they_do(tmp_path):
    X = random_data()
    starts = [0, 7, 14, 21, 28, 35, 40]
    np.testing.assert_array_equal(chunk_starts(Chunked(zarr_of(X))), starts)
    np.testing.assert_array_equal(chunk_starts(Chunked(dask_of(X))), [0, 5, 20, 40])
    # Any row of these can be read alone.
    for data in (X, Shards(shards_of(X, tmp_path))):
        np.testing.assert_array_equal(chunk_starts(data), [0, 40])


def test_a_chunk_is_read_once_while_it_is_mixed(monkeypatch):
    monkeypatch.setattr(skmfr._data.sources, "MIXED_BYTES", 3 * 7 * 3 * 4)
    X, read = random_data(), []

    class Spied:
        shape, dtype, chunks = X.shape, X.dtype, (7, 3)

        def __getitem__(self, rows):
            read.append(rows.start // 7)
            return X[rows]

    source = Chunked(Spied())
    assert source.n_mixed == 3
    for _ in range(5):
        # Two lots of mixed chunks: a batch may reach into both.
        np.testing.assert_array_equal(source[ROWS], X[ROWS])
    assert sorted(read) == [0, 1, 3, 5]
    source[np.arange(14, 40)]
    assert sorted(read[4:]) == [2, 4]
    # What was not used for longest has gone.
    assert len(source._chunks) == 6
    source._chunks.clear()
    monkeypatch.setattr(source, "n_mixed", 1)
    source[:]
    assert list(source._chunks) == [4, 5]


def test_only_arrays_that_are_not_mapped_are_in_memory(tmp_path):
    X = random_data()
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert in_memory(X)
    assert in_memory(X[3:])
    for data in (mapped, np.asarray(mapped), np.asarray(mapped)[3:], Shards([mapped])):
        assert not in_memory(data)


@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf")]
)
def test_a_value_that_is_not_finite_is_reported_with_its_row(
    tmp_path, monkeypatch, value, name
):
    monkeypatch.setattr(skmfr._data.sources, "CHECKED_VALUES", 30)
    X = random_data()
    X[26, 1] = value
    for data in forms(X, tmp_path).values():
        source = as_source(data)
        np.testing.assert_array_equal(source[:26], X[:26])
        for rows in (slice(None), np.array([2, 26, 39])):
            with pytest.raises(ValueError, match=f"{name} in row 26, column 1:"):
                source[rows]
    check_finite(X[:26])
    with pytest.raises(ValueError, match=f"{name} in row 26, column 1:"):
        check_finite(X)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((4, 2), np.float32), "features=2 and shard 0 has features=3"),
        (np.ones((4, 3)), "dtype=float64 and shard 0 has dtype=float32"),
        (np.ones((0, 3), np.float32), r"has shape \(0, 3\)"),
        (np.ones((4, 0), np.float32), r"has shape \(4, 0\)"),
        (np.ones(4, np.float32), r"has shape \(4,\)"),
    ],
)
def test_a_shard_unlike_the_others_is_named(tmp_path, bad, message):
    np.save(tmp_path / "good.npy", random_data())
    np.save(tmp_path / "bad.npy", bad)
    paths = [tmp_path / f"{name}.npy" for name in ("good", "good", "bad")]
    with pytest.raises(ValueError, match=rf"shard 2 \(.*bad.npy\).*{message}"):
        Shards(paths)


def test_a_shard_that_is_no_npy_file_is_named_with_the_reason(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("1, 2, 3")
    with pytest.raises(ValueError, match=r"Shard 0 of X, .*csv, is not a .npy file"):
        Shards([path])
    path = tmp_path / "cut.npy"
    np.save(path, random_data())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut.npy, is not .* file.*: .*mmap length"):
        Shards([path])
    with pytest.raises(FileNotFoundError, match=r"missing.npy"):
        Shards([tmp_path / "missing.npy"])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (zarr.array(np.ones(5), chunks=(2,)), r"got \(5,\)"),
        (dask.array.ones((5, 2, 2), chunks=2), r"got \(5, 2, 2\)"),
        (dask.array.ones((0, 2), chunks=2), r"got \(0, 2\)"),
        (zarr.array(np.ones((4, 2), complex), chunks=(2, 2)), "dtype=complex128"),
    ],
)
def test_chunked_arrays_that_are_no_data_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        as_source(X)


def test_a_dask_array_of_unknown_length_is_refused_with_a_remedy():
    X = dask.array.ones((6, 2), chunks=2)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        as_source(X[X[:, 0] > 0])


def test_chunks_without_rows_are_none():
    X = random_data()
    data = dask.array.from_array(X, chunks=((10, 20, 10), 3))
    data = data[(data[:, 0] > 5) | (dask.array.arange(40, chunks=data.chunks[0]) > 9)]
    data.compute_chunk_sizes()
    assert data.chunks[0] == (0, 20, 10)
    source = as_source(data)
    np.testing.assert_array_equal(source.starts, [0, 20, 30])
    np.testing.assert_array_equal(source[:], X[10:])


class Dataset:
    """As of h5py: what has neither chunks nor arithmetic, and reads what is asked."""

    def __init__(self, X, chunks=None):
        self.X, self.chunks = X, chunks
        self.shape, self.ndim, self.dtype = X.shape, X.ndim, X.dtype
        self.n_read = []

    def __getitem__(self, rows):
        self.n_read.append(len(self.X[rows]))
        return self.X[rows]

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("all of it is read")


def test_h5py_like_datasets_are_read_by_chunks_or_slabs(monkeypatch):
    X = random_data()
    monkeypatch.setattr(skmfr._data.sources, "SLAB_BYTES", X[:8].nbytes)
    for chunks in (None, (8, 3)):
        data = Dataset(X, chunks)
        source = as_source(data)
        assert isinstance(source, Chunked)
        np.testing.assert_array_equal(source[:], X)
        assert data.n_read == [8] * 5


def test_mapped_arrays_are_shards_that_keep_their_width(tmp_path):
    X = random_data(dtype=np.float16)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    source = as_source(mapped)
    assert isinstance(source, Shards)
    assert source.dtype == np.float32
    assert np.shares_memory(source.piece(0), mapped)
    for other in (mapped[0], mapped[:0]):
        assert as_source(other) is None


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (iter([np.ones((2, 2))]), TypeError, "X is an iterator, list_iterator, which"),
        (map(str, "ab"), TypeError, "or each part to partial_fit"),
        (
            dask.dataframe.from_pandas(pd.DataFrame({"a": [1.0, 2.0]})),
            TypeError,
            r"to_dask_array\(lengths=True",
        ),
        ([Dataset(np.ones((2, 2)))], ValueError, "Shard 0 of X is .*Dataset, which"),
        ([zarr.array(np.ones((4, 2)))], ValueError, "zarr.*concatenate"),
    ],
)
def test_what_would_be_read_whole_is_refused_with_a_remedy(X, error, message):
    with pytest.raises(error, match=message):
        as_source(X)


@pytest.mark.parametrize("kind", [str, Path])
def test_one_path_is_refused_with_the_way_out(kind):
    with pytest.raises(ValueError, match="Pass a list that holds the path"):
        as_source(kind("X.npy"))
