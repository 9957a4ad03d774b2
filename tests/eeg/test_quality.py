import numpy as np
import pytest
from scipy.stats import pearsonr

from skmfr.eeg import correlation, peak_kept, power_kept, rrmse_s, rrmse_t


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


def test_power_kept_is_of_the_band_and_of_nothing_else():
    times = np.arange(400) / 100
    alpha, theta = (np.sin(2 * np.pi * f * times + 0.3) for f in (10.0, 6.0))
    before = np.stack([alpha + 5 * theta, theta])[None]
    after = np.stack([0.8 * alpha + theta, theta])[None]
    kept = power_kept(before, after, 100, 8, 13)
    np.testing.assert_allclose(kept[0], 0.64, rtol=0.01)
    np.testing.assert_allclose(
        power_kept(before, after + 7, 100, 4, 8), [1 / 25, 1], rtol=0.01
    )
    with pytest.raises(ValueError, match="no frequency from 10.1 to 10.2 Hz"):
        power_kept(before, after, 100, 10.1, 10.2)
    with pytest.raises(ValueError, match="after has shape"):
        power_kept(before, after[0], 100, 8, 13)


@pytest.mark.parametrize("sign", [1, -1])
def test_peak_kept_is_of_the_peak_of_the_same_sign(sign):
    times = np.arange(100) / 100
    before = sign * np.exp(-(((times - 0.3) / 0.05) ** 2))
    # Later and smaller, with a larger one of the other sign.
    after = 0.6 * np.roll(before, 4) - 0.9 * np.roll(before, 50)
    amplitude, delay = peak_kept(before, after, 100)
    np.testing.assert_allclose((amplitude, delay), (0.6, 0.04), rtol=1e-3)
