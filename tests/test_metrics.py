"""Metrics against scikit-learn and counting."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import r2_score

from skmfr.metrics import _fvu_of_blocks, dead_fraction, fvu, l0


def random_data(offset=0.0, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6)) * [1, 2, 3, 4, 5, 60] + offset
    X_hat = X + rng.standard_normal(X.shape)
    return X.astype(dtype), X_hat.astype(dtype)


def one_minus_r2(X, X_hat):
    score = r2_score(
        X.astype(np.float64), X_hat.astype(np.float64), multioutput="variance_weighted"
    )
    return 1 - score


# A mean of 1e5 is 1e5 standard deviations away: variances as mean squares less squared
# means would have lost all digits in float32.
@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fvu_is_one_minus_r2(offset, dtype):
    X, X_hat = random_data(offset, dtype)
    # Differences are exact here; sums are in float64 on both sides.
    assert fvu(X, X_hat) == pytest.approx(one_minus_r2(X, X_hat), rel=1e-6)


def test_fvu_of_mixed_precisions():
    X, X_hat = random_data()
    found = fvu(X.astype(np.float32), X_hat)
    assert found == pytest.approx(one_minus_r2(X.astype(np.float32), X_hat), rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("n_blocks", [1, 3, 200])
def test_fvu_does_not_depend_on_the_blocks(offset, n_blocks):
    X, X_hat = random_data(offset)
    parts = [np.array_split(part, n_blocks) for part in (X, X_hat)]
    found = _fvu_of_blocks(zip(*parts, strict=True))
    assert found == pytest.approx(one_minus_r2(X, X_hat), rel=1e-9)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_fvu_has_no_unit(unit):
    X, X_hat = random_data()
    assert fvu(X * unit, X_hat * unit) == pytest.approx(fvu(X, X_hat), rel=1e-9)


def test_fvu_of_the_mean_is_one_and_of_the_data_zero():
    X, _ = random_data()
    assert fvu(X, np.tile(X.mean(0), (len(X), 1))) == pytest.approx(1, rel=1e-12)
    assert fvu(X, X) == 0
    assert type(fvu(X, X)) is float


def test_constant_columns_count_with_their_error_only():
    X, X_hat = random_data()
    X[:, 0] = 3.0
    expected = np.sum((X - X_hat) ** 2) / np.sum((X - X.mean(0)) ** 2)
    assert fvu(X, X_hat) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [0.0, 2.0, 0.1, -1 / 3])
@pytest.mark.parametrize("n_blocks", [1, 5])
def test_fvu_of_constant_data_is_zero_if_exact_else_one(dtype, constant, n_blocks):
    X = np.full((997, 3), constant, dtype)
    blocks = np.array_split(X, n_blocks)
    assert _fvu_of_blocks((block, block) for block in blocks) == 0
    assert _fvu_of_blocks((block, block + dtype(0.1)) for block in blocks) == 1


@pytest.mark.parametrize("shape", [(10, 4), (9, 3), (1, 3), (10, 1)])
def test_fvu_refuses_shapes_that_would_broadcast(shape):
    with pytest.raises(ValueError, match="X_hat|inconsistent numbers of samples"):
        fvu(np.ones((10, 3)), np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_fvu_refuses_values_that_are_not_finite(bad, which):
    arrays = random_data()
    arrays[which][3, 2] = bad
    with pytest.raises(ValueError, match="NaN|infinity"):
        fvu(*arrays)


def random_codes():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((40, 25)) * (rng.random((40, 25)) < 0.05)
    assert not codes.any(axis=0).all()
    return codes


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array, sparse.csc_matrix])
def test_l0_counts_active_atoms_per_sample(kind):
    codes = random_codes()
    expected = sum(value != 0 for row in codes for value in row) / len(codes)
    assert l0(kind(codes)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array, sparse.csc_matrix])
def test_dead_fraction_counts_atoms_that_are_never_active(kind):
    codes = random_codes()
    expected = sum(not any(column) for column in codes.T) / codes.shape[1]
    assert dead_fraction(kind(codes)) == pytest.approx(expected, rel=1e-12)


def test_stored_zeros_are_not_active():
    codes = sparse.csr_array(random_codes())
    codes.data[::2] = 0
    assert l0(codes) == l0(codes.toarray())
    assert dead_fraction(codes) == dead_fraction(codes.toarray())
