import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from skmfr.eeg._scales import (
    centre_and_scale,
    check_none_flat,
    common_as_scaled,
    common_signal,
    moments_of_windows,
    reference_weights,
    warn_of_other_sizes,
    without_common,
)

KINDS = ["eeg"] * 4


def signals(n_epochs=3, n_times=1000, seed=0):
    rng = np.random.default_rng(seed)
    size = np.array([1.0, 2, 3, 4])[:, None]
    return 1e-5 * (size * rng.standard_normal((n_epochs, 4, n_times)) + 5)


def test_scale_of_windows_that_are_alike_is_the_standard_deviation():
    course = 3 + 2 * np.sin(2 * np.pi * np.arange(1000) / 50)
    moments = moments_of_windows(np.tile(course, (2, 4, 1)), 100)
    assert moments[0].shape == moments[1].shape == (20, 4)
    centre, scale = centre_and_scale([moments, moments])
    np.testing.assert_allclose(centre, 3)
    np.testing.assert_allclose(scale, np.sqrt(2))


def test_steps_between_windows_count():
    """About the centre of the recording, not that of each window."""
    course = np.repeat([-1.0, 0.0, 1.0, -1.0, 0.0, 1.0, 1.0, -1.0, 0.0], 100)
    _, scale = centre_and_scale([moments_of_windows(course[None, None], 100)])
    np.testing.assert_allclose(scale, 1)


def test_a_pop_changes_neither_centre_nor_scale():
    X = signals()
    before = centre_and_scale([moments_of_windows(X, 100)])
    X[1, 2, 430:450] += 1e-2
    after = centre_and_scale([moments_of_windows(X, 100)])
    assert X[:, 2].std() > 10 * before[1][2]
    np.testing.assert_allclose(after[0], before[0], rtol=0.02)
    np.testing.assert_allclose(after[1], before[1], rtol=0.02)


def test_an_offset_takes_no_digits():
    X = signals()
    _, scale = centre_and_scale([moments_of_windows(X, 100)])
    _, far = centre_and_scale([moments_of_windows(X + 1.0, 100)])
    np.testing.assert_allclose(far, scale, rtol=1e-8)


def test_flat_channels_are_flat_beside_others_of_their_type():
    centre, names = np.zeros(4), list("abcd")
    check_none_flat(centre, np.array([1e-5, 2e-5, 1e-8, 1e-5]), names, KINDS)
    with pytest.raises(
        ValueError, match=r"flat: \['c'\].* is 3e-21 .*channels 1e-05\."
    ):
        check_none_flat(centre, np.array([1e-5, 2e-5, 3e-21, 1e-5]), names, KINDS)
    with pytest.raises(ValueError, match=r"flat: \['a', 'b', 'c', 'd'\]"):
        check_none_flat(centre, np.zeros(4), names, KINDS)
    # Of constants, rounding is left.
    with pytest.raises(ValueError, match=r"flat: \['b'\]"):
        check_none_flat(np.full(4, 3.0), np.array([1, 1e-9, 1, 1]), names, KINDS)
    # Teslas beside volts.
    kinds = ["eeg", "eeg", "mag", "mag"]
    check_none_flat(centre, np.array([1e-5, 1e-5, 1e-13, 1e-13]), names, kinds)


@pytest.mark.parametrize(
    ("factor", "odd"), [(29, False), (31, True), (1 / 29, False), (1 / 31, True)]
)
def test_channels_that_are_thirty_times_as_large_as_in_the_fit_are_named(factor, odd):
    moments = moments_of_windows(signals(), 100)
    scale = centre_and_scale([moments])[1]
    denoiser = SimpleNamespace(ch_names_=list("abcd"), n_channels_=4, scale_=scale)
    other = moments_of_windows(signals() * np.array([[1], [1], [factor], [1]]), 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_other_sizes(denoiser, other)
    assert len(caught) == odd
    assert all("1 of 4 channels of X" in str(each.message) for each in caught)
    assert all(f"'c' {factor:.2g} times" in str(each.message) for each in caught)


def test_reference_is_the_mean_of_enough_eeg_channels_that_share_something():
    X = np.random.default_rng(0).standard_normal((2, 16, 500)) + 7
    kinds = ["eeg"] * 14 + ["mag"] * 2
    expected = [1 / 14] * 14 + [0, 0]
    scale = np.ones(16)
    np.testing.assert_allclose(reference_weights([X, X], scale, kinds), expected)
    # Dead channels would be nothing but the mean of the others.
    broken = np.r_[6, 0.1, scale[2:]]
    expected = [0, 0] + [1 / 12] * 12 + [0, 0]
    np.testing.assert_allclose(reference_weights([X], broken, kinds), expected)
    # In average reference, or near the eyes only, there is nothing to leave out.
    average = X - X[:, :14].mean(1, keepdims=True)
    assert not reference_weights([average], scale, kinds).any()
    assert not reference_weights([X[:, :11]], scale[:11], ["eeg"] * 11).any()
    assert not reference_weights([X], scale, ["seeg"] * 16).any()


def test_scaled_signals_are_taken_to_average_reference():
    rng = np.random.default_rng(0)
    X, scale = rng.standard_normal((3, 16, 50)), rng.uniform(0.5, 2, 16)
    weights = np.r_[np.full(14, 1 / 14), 0, 0]
    denoiser = SimpleNamespace(scale_=scale, reference_weights_=weights)
    scaled = X / scale[:, None]
    mean = X[:, :14].mean(1)
    np.testing.assert_allclose(common_signal(denoiser, scaled), mean)
    expected = X.copy()
    expected[:, :14] -= mean[:, None]
    found = without_common(denoiser, scaled) * scale[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    moved = scaled + common_as_scaled(denoiser)[:, None] * rng.standard_normal(
        (3, 1, 50)
    )
    again = without_common(denoiser, moved) * scale[:, None]
    np.testing.assert_allclose(again, expected, atol=1e-12)
    denoiser.reference_weights_ = np.zeros(16)
    assert without_common(denoiser, scaled) is scaled
