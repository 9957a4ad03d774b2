"""Standardisation against scikit-learn, batches by counting."""

import threading
import time

import numpy as np
import pytest
import torch
import zarr
from sklearn.preprocessing import StandardScaler

import skmfr._data.batches
from skmfr import MFRSparseAutoencoder
from skmfr._data.batches import Batches, fingerprint, row_blocks
from skmfr._data.sources import Chunked, Shards
from skmfr._data.standardiser import Standardiser

FLOATS = [np.float32, np.float64]


def random_data(n_samples=90, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, 5)) * [1, 2, 3, 4, 100] + [0, 1, -5, 1000, 3]
    return X.astype(dtype)


def numbered(n_samples):
    """Samples that tell which row they are."""
    return np.arange(n_samples, dtype=float)[:, None]


def batches_of(X, **changes):
    usual = {
        "rows": np.arange(len(X)),
        "batch_size": 7,
        "shuffle": True,
        "seed": 0,
    }
    return Batches(X, **(usual | changes))


@pytest.mark.parametrize("chosen", [None, np.array([3, 4, 10, 60, 89])])
def test_row_blocks_strung_together_are_the_rows(monkeypatch, chosen):
    X = random_data()
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", 4 * X[0].nbytes)
    blocks = list(row_blocks(X, chosen))
    assert max(len(block) for block in blocks) <= 4
    expected = X if chosen is None else X[chosen]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_how_data_lie_in_memory_changes_no_statistic_and_no_sample():
    X = random_data()
    expected = Standardiser.of(X)
    samples = expected(X.copy(), "cpu", torch.float64)
    for other in (np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2]):
        found = Standardiser.of(other)
        assert found.scale == expected.scale
        np.testing.assert_array_equal(found.mean, expected.mean)
        standardised = found(other.copy(order="K"), "cpu", torch.float64)
        assert standardised.stride() == samples.stride()
        assert torch.equal(standardised, samples)


@pytest.mark.parametrize("method", ["fit", "score"])
def test_values_whose_squares_overflow_are_refused(method):
    X = random_data()
    sae = MFRSparseAutoencoder(4, max_steps=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="X has values so large"):
        getattr(sae, method)(1e160 * X)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("chosen", [None, np.arange(10, 80, 3)])
def test_standardiser_has_the_statistics_of_standard_scaler(monkeypatch, dtype, chosen):
    X = random_data(dtype=dtype)
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", 8 * X[0].nbytes)
    standardiser = Standardiser.of(X, chosen)
    # In float64: what is known of float32 data should not be less.
    scaler = StandardScaler().fit((X if chosen is None else X[chosen]).astype(float))
    precision = 4 * np.finfo(dtype).eps
    # A mean is known to some roundings of what varies about it.
    for found, expected, spread in zip(
        standardiser.mean, scaler.mean_, scaler.scale_, strict=True
    ):
        rounding = 4 * np.finfo(float).eps * spread
        assert found == pytest.approx(expected, rel=float(precision), abs=rounding)
    scale = np.sqrt(np.mean(scaler.var_))
    assert standardiser.scale == pytest.approx(scale, rel=1e-12)
    np.testing.assert_allclose(standardiser.deviation, scaler.scale_ / scale)
    assert standardiser.mean.dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_standardised_data_are_centred_with_variance_one_in_any_unit(dtype, unit):
    X = (random_data() * unit).astype(dtype)
    standardised = Standardiser.of(X)(X.copy(), "cpu", torch.float64).numpy()
    # The means of float32 data are known to 1e-7 of the largest, about 10 scales.
    np.testing.assert_allclose(standardised.mean(0), 0, atol=1e-5)
    assert standardised.var(0).sum() == pytest.approx(X.shape[1], rel=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("constant", [0.0, 0.1, -1 / 3, 12345.678])
@pytest.mark.parametrize("n_per_block", [1000, 70])
def test_constant_data_are_centred_only(monkeypatch, dtype, constant, n_per_block):
    X = np.full((997, 3), constant, dtype)
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", n_per_block * X[0].nbytes)
    standardiser = Standardiser.of(X)
    # A sum of n numbers errs by n roundings at most.
    rounding = len(X) * np.finfo(dtype).eps * abs(constant)
    standardised = standardiser(X, "cpu", torch.float64).numpy()
    np.testing.assert_allclose(standardised, 0, atol=rounding)


def test_one_constant_feature_does_not_count_as_variance():
    X = random_data()
    X[:, 2] = 0.1
    standardised = Standardiser.of(X)(X.copy(), "cpu", torch.float64).numpy()
    np.testing.assert_allclose(standardised[:, 2], 0, atol=1e-12)
    assert standardised.var(0).sum() == pytest.approx(X.shape[1])


@pytest.mark.parametrize("batch_size", [1, 5, 7, 22, 23])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_epoch_sees_each_row_once(batch_size, shuffle):
    batches = batches_of(numbered(23), batch_size=batch_size, shuffle=shuffle)
    seen = np.zeros(23, dtype=int)
    for number in range(5 * 23):
        batch = batches[number]
        assert len(batch) == batch_size
        np.add.at(seen, batch[:, 0].astype(int), 1)
        # However far the batches are: whole epochs, and part of the next.
        whole, part = divmod((number + 1) * batch_size, 23)
        assert np.sum(seen == whole + 1) == part
        assert np.sum(seen == whole) == 23 - part


def test_batches_draw_from_the_given_rows_only():
    rows = np.array([2, 3, 5, 7, 11, 13])
    batches = batches_of(numbered(20), rows=rows, batch_size=4)
    drawn = np.concatenate([batches[number][:, 0] for number in range(3)])
    np.testing.assert_array_equal(np.sort(drawn), np.repeat(rows, 2))


def test_batch_is_no_larger_than_the_data():
    batches = batches_of(numbered(5), batch_size=100)
    assert batches.per_epoch == 1
    np.testing.assert_array_equal(batches[3], numbered(5))


def test_same_seed_gives_the_same_batches_in_any_order():
    X = random_data()
    one, other = batches_of(X), batches_of(X)
    forward = [one[number] for number in range(40)]
    backward = [other[number] for number in reversed(range(40))]
    np.testing.assert_array_equal(forward, backward[::-1])


@pytest.mark.parametrize("change", [{"seed": 1}, {"key": 1}])
def test_other_seed_or_pass_gives_other_batches(change):
    X = numbered(1000)
    assert not np.array_equal(batches_of(X)[0], batches_of(X, **change)[0])


def test_epochs_have_different_orders():
    batches = batches_of(numbered(1000))
    assert not np.array_equal(batches.order(0), batches.order(1))


def test_memmap_gives_the_rows_of_the_array_in_memory(tmp_path):
    X = random_data()
    path = tmp_path / "X.npy"
    np.save(path, X)
    on_disk = np.load(path, mmap_mode="r")
    mapped, held = batches_of(on_disk), batches_of(X)
    for number in range(30):
        np.testing.assert_array_equal(mapped[number], held[number])
        assert mapped[number].flags.writeable
    standardiser = Standardiser.of(on_disk)
    np.testing.assert_array_equal(standardiser.mean, Standardiser.of(X).mean)
    assert standardiser.scale == Standardiser.of(X).scale


def test_writing_to_a_batch_leaves_the_data_alone():
    X = random_data()
    before = X.copy()
    batches_of(X, shuffle=False, batch_size=len(X))[0][:] = 0
    np.testing.assert_array_equal(X, before)


# Data in pieces


def chunked(n_samples=100, n_rows=8, n_mixed=3):
    """Numbered samples, of which chunks are read."""
    source = Chunked(zarr.array(numbered(n_samples), chunks=(n_rows, 1)))
    source.n_mixed = n_mixed
    return source


@pytest.mark.parametrize("n_samples", [96, 100])
@pytest.mark.parametrize("batch_size", [1, 7, 30, 100])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_epoch_sees_each_row_of_all_chunks_once(n_samples, batch_size, shuffle):
    batches = batches_of(
        chunked(n_samples), rows=None, batch_size=batch_size, shuffle=shuffle
    )
    seen = np.zeros(n_samples, dtype=int)
    for number in range(3 * n_samples):
        np.add.at(seen, batches.samples(number), 1)
        whole, part = divmod((number + 1) * batches.batch_size, n_samples)
        assert np.sum(seen == whole + 1) == part
        assert np.sum(seen == whole) == n_samples - part


def test_a_batch_of_chunked_data_is_known_by_its_number():
    one, other = (batches_of(chunked(), rows=None) for _ in range(2))
    forward = [one[number] for number in range(60)]
    backward = [other[number] for number in reversed(range(60))]
    np.testing.assert_array_equal(forward, backward[::-1])


def test_chunks_are_permuted_and_those_that_follow_are_mixed():
    batches = batches_of(chunked(96), rows=None, batch_size=8)
    lots = []
    for epoch in range(2):
        for lot in range(4):
            samples = [batches.samples(12 * epoch + 3 * lot + i) for i in range(3)]
            chunks = np.unique(np.concatenate(samples) // 8)
            assert len(chunks) == 3
            # Each batch has samples of several.
            assert all(len(np.unique(each // 8)) > 1 for each in samples)
            lots.append(chunks.tolist())
    for epoch in (lots[:4], lots[4:]):
        assert sorted(sum(epoch, [])) == list(range(12))
        assert any(np.diff(chunks).max() > 1 for chunks in epoch)
    assert lots[:4] != lots[4:]


def test_one_chunk_and_shards_give_the_batches_of_the_array():
    X = random_data()
    whole = batches_of(X)
    for source in (Chunked(zarr.array(X, chunks=X.shape)), Shards(np.split(X, 3))):
        batches = batches_of(source, rows=None)
        for number in range(30):
            np.testing.assert_array_equal(batches[number], whole[number])


def test_some_rows_of_chunks_are_drawn_from_only():
    # Of the third chunk none.
    rows = np.r_[2:10, 13, 24:60:3]
    batches = batches_of(chunked(), rows=rows, batch_size=len(rows))
    for number in range(3):
        np.testing.assert_array_equal(batches.samples(number), rows)


def test_batches_in_turn_are_those_of_their_numbers(tmp_path):
    X = random_data()
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for data in (X, mapped, Shards([X]), Chunked(zarr.array(X, chunks=(8, 5)))):
        batches = batches_of(data, rows=None)
        read = list(batches.in_turn(5, 40))
        expected = [batches[number] for number in range(5, 40)]
        np.testing.assert_array_equal(read, expected)
        assert list(batches.in_turn(3, 3)) == []


class Slow(Shards):
    """A source that tells what is being read, and waits until it may go on."""

    def __init__(self, X):
        super().__init__([X])
        self.may_read = threading.Semaphore(0)
        self.threads = []

    def __getitem__(self, rows):
        assert self.may_read.acquire(timeout=30)
        self.threads.append(threading.current_thread().name)
        return super().__getitem__(rows)


def test_a_thread_reads_ahead_and_ends_with_the_iterator(monkeypatch):
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", 4 * 7 * 8)
    source = Slow(numbered(70))
    batches = batches_of(source, rows=None)
    turn = batches.in_turn(0, 100)
    source.may_read.release(5)
    next(turn)
    # Nobody asks for the next four, yet they are read.
    deadline = time.monotonic() + 30
    while len(source.threads) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(source.threads) == 5
    assert all(name.startswith("skmfr ahead") for name in source.threads)
    source.may_read.release(100)
    next(turn)
    turn.close()
    assert len(source.threads) <= 7
    assert not [t for t in threading.enumerate() if t.name.startswith("skmfr ahead")]


def test_no_more_than_some_small_batches_are_read_ahead(monkeypatch):
    monkeypatch.setattr(skmfr._data.batches, "MOST_AHEAD", 3)
    source = Slow(numbered(70))
    source.may_read.release(100)
    turn = batches_of(source, rows=None).in_turn(0, 50)
    next(turn)
    turn.close()
    assert len(source.threads) <= 4


def test_batches_in_memory_are_read_ahead_if_wanted():
    batches = batches_of(random_data(), rows=None)
    turn = batches.in_turn(0, 3, ahead=True)
    np.testing.assert_array_equal(next(turn), batches[0])
    assert [t for t in threading.enumerate() if t.name.startswith("skmfr ahead")]
    np.testing.assert_array_equal(list(turn), [batches[1], batches[2]])


def test_what_goes_wrong_in_the_thread_is_raised():
    X = numbered(70)
    X[33] = np.nan
    batches = batches_of(Shards([X]), rows=None)
    with pytest.raises(ValueError, match="row 33"):
        list(batches.in_turn(0, 10))


def test_fingerprint_is_of_the_data_wherever_they_are(tmp_path):
    X = random_data(dtype=np.float32)
    np.save(tmp_path / "X.npy", X)
    expected = fingerprint(X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for same in (mapped, np.asfortranarray(X), Shards(np.split(X, 3))):
        assert fingerprint(same) == expected
    other = X.copy()
    other[17, 1] += 1e-4
    for different in (X[:-1], X.astype(float), X.T.copy(), other):
        assert fingerprint(different) != expected


def test_fingerprint_tells_apart_chunks_on_which_batches_depend():
    X = random_data()
    few, many = (Chunked(zarr.array(X, chunks=(n_rows, 5))) for n_rows in (8, 30))
    other = Chunked(zarr.array(X, chunks=(8, 5)))
    assert fingerprint(other) == fingerprint(few)
    other.n_mixed = 2
    assert len({fingerprint(each) for each in (few, many, other)}) == 3


def test_fingerprint_reads_a_part_of_large_data_on_disk(tmp_path, monkeypatch):
    X = numbered(1000)
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", 10 * X[0].nbytes)
    read = []

    class Spied(Shards):
        def __getitem__(self, rows):
            read.append(rows)
            return super().__getitem__(rows)

    def on_disk(X):
        np.save(tmp_path / "X.npy", X)
        return Spied([tmp_path / "X.npy"])

    before = fingerprint(on_disk(X))
    assert len(read) == 8
    assert read[0] == slice(0, 10)
    assert read[-1] == slice(990, 1000)
    changed = X.copy()
    changed[15] += 1
    assert fingerprint(on_disk(changed)) == before
    # In memory it costs no reading.
    assert fingerprint(changed) != fingerprint(X)
    for data in (X, changed):
        assert fingerprint(Shards(np.split(data, 4))) == fingerprint(data)
    changed[995] += 1
    assert fingerprint(on_disk(changed)) != before
