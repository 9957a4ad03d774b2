"""Standardisation against scikit-learn, batches by counting."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

import skmfr._batches
from skmfr._batches import Batches, Standardiser, row_blocks

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
    monkeypatch.setattr(skmfr._batches, "BLOCK_BYTES", 4 * X[0].nbytes)
    blocks = list(row_blocks(X, chosen))
    assert max(len(block) for block in blocks) <= 4
    expected = X if chosen is None else X[chosen]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("chosen", [None, np.arange(10, 80, 3)])
def test_standardiser_has_the_statistics_of_standard_scaler(monkeypatch, dtype, chosen):
    X = random_data(dtype=dtype)
    monkeypatch.setattr(skmfr._batches, "BLOCK_BYTES", 8 * X[0].nbytes)
    standardiser = Standardiser.of(X, chosen)
    # In float64: what is known of float32 data should not be less.
    scaler = StandardScaler().fit((X if chosen is None else X[chosen]).astype(float))
    precision = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(standardiser.mean, scaler.mean_, rtol=precision)
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
    monkeypatch.setattr(skmfr._batches, "BLOCK_BYTES", n_per_block * X[0].nbytes)
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


def test_donors_of_group_and_witnesses_are_two_halves_of_the_rows():
    rows = np.arange(3, 43)
    batches = batches_of(numbered(50), rows=rows)
    draw = np.random.default_rng(0)
    group = batches.donors(100, witness=False, draw=draw)[:, 0]
    witnesses = batches.donors(100, witness=True, draw=draw)[:, 0]
    both = np.sort(np.concatenate([group, witnesses]))
    np.testing.assert_array_equal(both, rows)
    np.testing.assert_array_equal(rows[batches.for_witnesses[rows]], witnesses)
    assert len(group) > 10
    assert len(witnesses) > 10


def test_donors_are_different_samples():
    batches = batches_of(numbered(50))
    chosen = batches.donors(20, witness=False, draw=np.random.default_rng(0))[:, 0]
    assert len(np.unique(chosen)) == 20
