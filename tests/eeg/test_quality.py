import numpy as np
import pytest
from scipy.stats import pearsonr

from skmfr.eeg import correlation, rrmse_s, rrmse_t


def pair():
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((4, 3, 50))
    return clean, clean + 0.5 * rng.standard_normal((4, 3, 50))


@pytest.mark.parametrize("measure", [rrmse_t, rrmse_s])
def test_relative_errors_are_what_their_formula_says(measure):
    clean, denoised = pair()
    for epoch, value in enumerate(measure(clean, denoised)):
        one, other = clean[epoch], denoised[epoch]
        if measure is rrmse_s:
            one, other = (abs(np.fft.rfft(X)) ** 2 for X in (one, other))
        expected = np.linalg.norm(other - one) / np.linalg.norm(one)
        assert value == pytest.approx(expected, rel=1e-12)


def test_zeros_have_a_relative_error_of_one():
    clean, _ = pair()
    np.testing.assert_allclose(rrmse_t(clean, 0 * clean), 1)
    np.testing.assert_allclose(rrmse_s(clean, 0 * clean), 1)


def test_correlation_is_the_mean_of_pearson_over_channels():
    clean, denoised = pair()
    for epoch, value in enumerate(correlation(clean, denoised)):
        expected = [
            pearsonr(*c)[0] for c in zip(clean[epoch], denoised[epoch], strict=True)
        ]
        assert value == pytest.approx(np.mean(expected), rel=1e-10)


def test_a_channel_that_does_not_vary_has_no_correlation():
    clean, denoised = pair()
    np.testing.assert_array_equal(correlation(clean, 0 * denoised), 0)


@pytest.mark.parametrize("measure", [rrmse_t, rrmse_s, correlation])
def test_shapes_that_differ_are_refused(measure):
    clean, denoised = pair()
    with pytest.raises(ValueError, match="denoised has shape"):
        measure(clean, denoised[:, :1])
