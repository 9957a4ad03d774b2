import numpy as np
import pytest

from skmfr.eeg._windows import count_windows, cut_windows, overlap_add, taper

SHAPES = [
    (1, 100, 25),
    (7, 100, 25),
    (100, 100, 25),
    (101, 100, 25),
    (300, 100, 33),
    (57, 10, 3),
    (11, 10, 5),
]


@pytest.mark.parametrize(("n_times", "length", "hop"), SHAPES)
def test_windows_that_nobody_changes_add_up_to_the_signals(n_times, length, hop):
    X = np.random.default_rng(0).standard_normal((2, 3, n_times))
    before = X.copy()
    windows = cut_windows(X, length, hop)
    assert windows.shape == (2, 3, count_windows(n_times, length, hop), length)
    # Edges included; a few additions of numbers of size 1.
    np.testing.assert_allclose(overlap_add(windows, n_times, hop), X, atol=1e-14)
    np.testing.assert_array_equal(X, before)


def test_float32_stays_float32():
    X = np.random.default_rng(0).standard_normal((2, 50)).astype(np.float32)
    X_back = overlap_add(cut_windows(X, 20, 5), 50, 5)
    assert X_back.dtype == np.float32
    np.testing.assert_allclose(X_back, X, atol=1e-6)


def test_windows_are_tapered_pieces_of_the_signal():
    X = np.arange(40.0)
    windows = cut_windows(X, 8, 4)
    # The first window ends 4 samples after the beginning, and is mirrored before it.
    np.testing.assert_array_equal(
        windows[0], taper(8) * np.array([4, 3, 2, 1, 0, 1, 2, 3])
    )
    np.testing.assert_array_equal(windows[3], taper(8) * np.arange(8, 16))


def test_overlap_add_weighs_windows_by_their_taper():
    """Sum of taper times window, over the sum of squared tapers, sample by sample."""
    rng = np.random.default_rng(0)
    n_times, length, hop = 30, 9, 4
    windows = rng.standard_normal((count_windows(n_times, length, hop), length))
    total, squares = np.zeros(60), np.zeros(60)
    for number, window in enumerate(windows):
        span = slice(number * hop, number * hop + length)
        total[span] += taper(length) * window
        squares[span] += taper(length) ** 2
    kept = slice(length - hop, length - hop + n_times)
    np.testing.assert_allclose(
        overlap_add(windows, n_times, hop), total[kept] / squares[kept], atol=1e-14
    )


@pytest.mark.parametrize("hop", [1, 2, 4, 5, 10])
def test_squares_of_overlapping_tapers_add_to_a_constant(hop):
    """Where hop divides the length, at half overlap or more."""
    squares = (taper(20) ** 2).reshape(-1, hop).sum(0)
    np.testing.assert_allclose(squares, 10 / hop, atol=1e-14)
