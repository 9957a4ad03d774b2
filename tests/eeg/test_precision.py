"""Measures of denoising do not depend on the type of numbers."""

import numpy as np
import pytest

from skmfr.eeg import correlation, peak_kept, power_kept, rrmse_s, rrmse_t

RNG = np.random.default_rng(0)
CLEAN = RNG.integers(-150, 150, (3, 2, 100))
DENOISED = CLEAN // 2


@pytest.mark.parametrize("dtype", ["i2", "u1", "f2", "f4"])
@pytest.mark.parametrize("measure", [rrmse_t, rrmse_s, correlation])
def test_errors_of_narrow_numbers_are_those_of_wide_ones(measure, dtype):
    clean, denoised = CLEAN, DENOISED
    if dtype == "u1":
        clean, denoised = abs(clean), abs(denoised)
    expected = measure(clean.astype(float), denoised.astype(float))
    got = measure(clean.astype(dtype), denoised.astype(dtype))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("measure", [rrmse_t, rrmse_s, correlation])
def test_errors_of_signals_in_teslas_do_not_underflow(measure):
    clean, denoised = (
        (1e-13 * X).astype(np.float32) for X in (CLEAN / 150, DENOISED / 150)
    )
    expected = measure(CLEAN.astype(float), DENOISED.astype(float))
    np.testing.assert_allclose(measure(clean, denoised), expected, rtol=1e-5)


def test_what_is_kept_of_narrow_numbers_is_that_of_wide_ones():
    rhythm = np.round(20_000 * np.sin(np.arange(200) * 2 * np.pi / 10))
    one, other = (X.astype("i2").reshape(1, 1, -1) for X in (rhythm, rhythm // 2))
    kept = power_kept(one, other, 100, 8, 13)
    expected = power_kept(one.astype(float), other.astype(float), 100, 8, 13)
    np.testing.assert_array_equal(kept, expected)
    before = np.array([0, -32768, 5], dtype="i2")
    assert peak_kept(before, before // 2, 100) == (0.5, 0.0)


def test_lists_are_measured_too():
    assert rrmse_t([[[1.0, 1.0]]], [[[0.5, 0.5]]]).tolist() == [0.5]
