"""Moments of blocks, and what they say of data before training."""

import numpy as np
import pytest

import skmfr._data.batches
import skmfr._data.moments
from skmfr._data.moments import Moments, fvu_of_blocks
from skmfr._data.statistics import statistics_of

FLOATS = [np.float32, np.float64]


def in_blocks(X, n=7):
    return np.array_split(X, n)


@pytest.fixture(params=[1 << 18, 100])
def _cached_bytes(request, monkeypatch):
    monkeypatch.setattr(skmfr._data.moments, "CACHED_BYTES", request.param)


@pytest.mark.usefixtures("_cached_bytes")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", [0.0, -1e6, 1e7])
@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("in_order", [False, True])
def test_moments_are_those_of_numpy(dtype, offset, unit, in_order):
    X = np.random.default_rng(0).standard_normal((500, 3)) + offset
    X = ((np.sort(X, axis=0) if in_order else X) * unit).astype(dtype)
    found = Moments.of(in_blocks(X))
    exact = X.astype(np.longdouble)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-14, atol=1e-14 * unit)
    np.testing.assert_allclose(found.variance, exact.var(0), rtol=1e-12)
    assert found.n_rows == 500


@pytest.mark.usefixtures("_cached_bytes")
@pytest.mark.parametrize("unit", [1e-156, 1e-170, 1e-300, 5e-324])
@pytest.mark.parametrize("offset", [0, 3])
def test_squares_that_all_underflow_are_an_error(unit, offset):
    X = (np.random.default_rng(0).standard_normal((500, 3)) + offset) * unit
    with pytest.raises(ValueError, match="squares underflow float64: multiply"):
        Moments.of(in_blocks(X))
    with pytest.raises(ValueError, match="squares underflow"):
        fvu_of_blocks([(X, np.zeros_like(X))], np.ones(500))
    X[400, 0] = 1e-150
    assert Moments.of(in_blocks(X)).variance[0] > 0
    # Rows that are alike have nothing to underflow.
    assert not Moments.of(in_blocks(np.full((500, 3), unit))).variance.any()


def test_rounding_of_small_constants_does_not_underflow():
    X = np.full((500, 3), 1e-145)
    X[::2] = np.nextafter(1e-145, 1)
    assert not Moments.of(in_blocks(X)).variance.any()


def test_moments_of_a_first_block_that_is_far_from_all_others():
    X = np.random.default_rng(0).standard_normal((5000, 3))
    X[0] = 1e8
    expected = X.astype(np.longdouble).var(0)
    found = Moments.of([X[:1], X[1:]]).variance
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_constant_feature_has_no_variance_whatever_rounding_makes_of_it(dtype):
    X = np.random.default_rng(0).standard_normal((1000, 3)).astype(dtype)
    X[:, 1] = 0.1
    assert (Moments.of([X]).variance > 0).tolist() == [True, False, True]
    X = X.astype(float)
    X[:, 1] += np.spacing(0.1) * (np.arange(1000) % 3)
    assert (Moments.of([X]).variance > 0).tolist() == [True, False, True]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_two_are_those_of_all_rows(offset):
    X = np.random.default_rng(0).standard_normal((300, 4)) + offset
    X[:100] -= 30
    found = Moments.of([X[:1]])
    for begin, end in [(1, 100), (100, 300)]:
        found = found.and_of(Moments.of([X[begin:end]]))
    expected = Moments.of([X])
    assert found.n_rows == 300
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-14, atol=1e-14)
    # Of a mean of 1e6, what varies by 1 is known to ten digits.
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-9)


def test_moments_of_infinitely_many_rows_stay():
    X = np.random.default_rng(0).standard_normal((30, 4))
    settled = Moments(np.inf, X[0], X[1] ** 2)
    assert settled.and_of(Moments.of([X])) is settled


# Few rows that hold most of the variance


def tokens(n=1000, share=0.016, ratio=133.0, dtype=np.float32):
    """Activations, of which a share has so many times the norm, along one direction."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 16)) / 4
    first = np.arange(n) % round(1 / share) == 5
    X[first] = ratio * (np.eye(16)[0] + rng.standard_normal((first.sum(), 16)) / 50)
    return X.astype(dtype), np.flatnonzero(first)


@pytest.mark.parametrize("chosen", [None, np.arange(100, 900)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_few_rows_with_most_of_the_variance_are_found(monkeypatch, chosen, offset):
    X, first = tokens()
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", 100 * X[0].nbytes)
    X[:, 3] += offset
    rows = np.arange(1000) if chosen is None else chosen
    found = statistics_of(X, chosen).outliers
    np.testing.assert_array_equal(found.rows, np.intersect1d(first, rows))
    exact = X[rows].astype(float)
    size = np.square(exact - exact.mean(0)).sum(1)
    share = size[np.isin(rows, found.rows)].sum() / size.sum()
    assert found.share == pytest.approx(share, rel=1e-9)
    assert share > 0.97


@pytest.mark.parametrize("share", [0.008, 0.016, 0.1, 0.15])
def test_moments_are_those_of_the_other_rows(share):
    X, first = tokens(share=share)
    found, others = statistics_of(X), np.delete(X, first, axis=0)
    assert found.n_rows == 1000
    np.testing.assert_array_equal(found.outliers.rows, first)
    assert found.moments.n_rows == len(others)
    np.testing.assert_allclose(found.moments.mean, others.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.moments.variance, others.var(0), rtol=1e-5)
    assert found.median_norm == pytest.approx(np.median(np.linalg.norm(X, axis=1)))


@pytest.mark.parametrize("n", [1, 3, 40])
def test_of_later_rows_those_are_outliers_that_are_far_from_earlier_ones(n):
    X, first = tokens(share=0.1)
    known = statistics_of(X).moments
    found = statistics_of(X, np.arange(5, 5 + n), known)
    far = first[first < 5 + n]
    np.testing.assert_array_equal(found.outliers.rows, far)
    others = np.setdiff1d(np.arange(5, 5 + n), far)
    assert found.moments.n_rows == len(others)
    both = known.and_of(found.moments)
    together = np.concatenate([np.delete(X, first, axis=0), X[others]])
    np.testing.assert_allclose(both.mean, together.mean(0), atol=1e-6)
    np.testing.assert_allclose(both.variance, together.var(0), rtol=1e-5)
    assert statistics_of(X, np.arange(6, 10), known).outliers is None


def rings(n, n_far, radius):
    """Rows at distance 1 of their mean, and some farther out."""
    angles = [2 * np.pi * np.arange(each) / each for each in (n - n_far, n_far)]
    near, far = (np.stack([np.cos(each), np.sin(each)], axis=1) for each in angles)
    return np.concatenate([near, radius * far])


@pytest.mark.parametrize(
    ("n", "n_far", "radius", "share"),
    [
        (1000, 19, 7.25, 0.504),
        (1000, 18, 7.25, None),  # .491 of the variance
        (1000, 20, 7.25, None),  # .517 of it, but 2 % of the rows
        (100, 24, 11.0, 0.974),
        (100, 24, 9.9, None),  # not ten times as far as the others
        (100, 26, 11.0, None),  # more than a quarter of the rows
    ],
)
def test_how_few_rows_and_how_much_of_the_variance_is_as_documented(
    n, n_far, radius, share
):
    found = statistics_of(rings(n, n_far, radius)).outliers
    if share is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found.rows, np.arange(n - n_far, n))
        assert found.share == pytest.approx(share, abs=5e-4)


def sparse_events(n):
    rng = np.random.default_rng(1)
    return rng.random((n, 8)) * (rng.random((n, 1)) < 0.01)


ORDINARY = {
    "normal": lambda n: np.random.default_rng(0).standard_normal((n, 8)),
    "one row": lambda n: np.ones((1, 8)),
    "constant": lambda n: np.full((n, 8), 0.1),
    "constant but one": lambda n: np.eye(1, n).T * np.ones(8),
    "hardly any row is not zero": sparse_events,
    "sparse": lambda n: np.random.default_rng(2).random((n, 8)) ** 20,
    "heavy tails": lambda n: np.random.default_rng(3).standard_t(3, (n, 8)),
    "two groups": lambda n: np.repeat([[0.0] * 8, [9.0] * 8], [n - n // 20, n // 20], 0)
    + np.random.default_rng(4).standard_normal((n, 8)),
    "offset": lambda n: 1e8 + np.random.default_rng(5).standard_normal((n, 8)),
}  # fmt: skip


@pytest.mark.parametrize("n", [2, 49, 60, 300, 5000])
@pytest.mark.parametrize("kind", ORDINARY)
def test_in_ordinary_data_there_are_no_outliers(kind, n):
    assert statistics_of(ORDINARY[kind](n)).outliers is None


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_median_norm_is_that_of_the_rows_as_they_are(monkeypatch, dtype, unit):
    X = ((np.random.default_rng(0).standard_normal((101, 5)) + 3) * unit).astype(dtype)
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", 10 * X[0].nbytes)
    expected = np.median(np.linalg.norm(X.astype(float), axis=1))
    found = statistics_of(X).median_norm
    assert type(found) is float
    assert found == pytest.approx(expected, rel=float(np.finfo(dtype).eps))
    rows = np.arange(0, 101, 3)
    expected = np.median(np.linalg.norm(X[rows].astype(float), axis=1))
    found = statistics_of(X, rows).median_norm
    assert found == pytest.approx(expected, rel=float(np.finfo(dtype).eps))
