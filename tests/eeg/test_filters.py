import numpy as np
import pytest
from sklearn.linear_model import Ridge

from skmfr.eeg._filters import (
    PENALTIES,
    SPATIAL_PENALTY,
    apply_filters,
    band_edges,
    log_power,
    solve_filters,
    spatial_filters,
    spectral_features,
)


def complex_noise(rng, *shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@pytest.mark.parametrize("n_freqs", [2, 5, 33, 129])
def test_bands_cover_each_frequency_once_and_widen(n_freqs):
    edges = np.append(band_edges(n_freqs), n_freqs)
    assert edges[0] == 0
    assert (np.diff(edges) > 0).all()
    assert (np.diff(np.diff(edges))[:-1] >= -1).all()


def test_log_power_is_that_of_the_mean_in_a_band():
    spectra = np.full((2, 129), 3 + 4j)
    np.testing.assert_allclose(log_power(spectra), np.log(25 * (1 + 1e-4)))


def test_log_power_of_silence_is_finite():
    assert np.isfinite(log_power(np.zeros((1, 65), dtype=np.complex64))).all()


def test_log_power_does_not_know_phases():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3, 64))
    for other in (-X, X[:, ::-1], np.roll(X, 5, axis=1)):
        np.testing.assert_allclose(
            log_power(np.fft.rfft(other)), log_power(np.fft.rfft(X)), atol=1e-10
        )


def test_spatial_filters_are_ridge_regression_at_each_frequency():
    rng = np.random.default_rng(0)
    noisy, clean = complex_noise(rng, 40, 3, 5), complex_noise(rng, 40, 3, 5)
    weight = rng.uniform(0.5, 2, 40)
    filters = spatial_filters(noisy, clean, weight)
    for f in range(5):
        # Real coefficients for complex numbers: real and imaginary parts are samples.
        y, x = (
            np.concatenate([part[:, :, f].real, part[:, :, f].imag])
            for part in (noisy, clean)
        )
        twice = np.tile(weight, 2)
        power = np.sum(twice[:, None] * y**2) / 3
        ridge = Ridge(SPATIAL_PENALTY * power, fit_intercept=False)
        ridge.fit(y, x, sample_weight=twice)
        np.testing.assert_allclose(filters[f], ridge.coef_, rtol=1e-8)


def test_gains_are_ridge_regression_at_each_frequency():
    rng = np.random.default_rng(0)
    n = 60
    codes = rng.standard_normal((n, 4))
    inputs = [complex_noise(rng, n, 3), complex_noise(rng, n, 3)]
    clean = complex_noise(rng, n, 3)
    weight = rng.uniform(0.5, 2, n)
    folds = np.arange(n) % 5
    gains, penalty = solve_filters(codes, inputs, clean, weight, folds)
    assert gains.shape == (3, 2, 4)

    def regressors(f):
        columns = np.hstack([codes * part[:, [f]] for part in inputs])
        return np.concatenate([columns.real, columns.imag])

    def target(f):
        return np.concatenate([clean[:, f].real, clean[:, f].imag])

    def ridge(f, penalty, rows):
        A, w = regressors(f)[rows], np.tile(weight, 2)[rows]
        scale = np.sum(w[:, None] * A**2) / A.shape[1]
        model = Ridge(penalty * scale, fit_intercept=False)
        return model.fit(A, target(f)[rows], sample_weight=w)

    everything = np.arange(2 * n)
    for f in range(3):
        coefficients = ridge(f, penalty, everything).coef_
        np.testing.assert_allclose(gains[f].ravel(), coefficients, rtol=1e-8)

    # The ridge is the one with the least error on folds left out.
    errors = []
    for candidate in PENALTIES:
        error = 0.0
        for fold in range(5):
            out = np.tile(folds == fold, 2)
            for f in range(3):
                model = ridge(f, candidate, np.flatnonzero(~out))
                residual = target(f)[out] - model.predict(regressors(f)[out])
                error += np.sum(np.tile(weight, 2)[out] * residual**2)
        errors.append(error)
    assert penalty == PENALTIES[int(np.argmin(errors))]


def test_known_filters_are_found():
    """Clean spectra that are made by gains that codes combine."""
    rng = np.random.default_rng(0)
    n = 500
    codes = rng.standard_normal((n, 3))
    inputs = [complex_noise(rng, n, 4)]
    truth = rng.standard_normal((4, 1, 3))
    clean = apply_filters(codes, inputs, truth)
    expected = np.array(
        [[codes[i] @ truth[f, 0] * inputs[0][i, f] for f in range(4)] for i in range(n)]
    )
    np.testing.assert_allclose(clean, expected, atol=1e-12)
    gains, penalty = solve_filters(
        codes, inputs, clean, np.ones(n), np.arange(n) // 100
    )
    assert penalty == min(PENALTIES)
    # What a ridge of 1e-4 of the mean square takes away.
    np.testing.assert_allclose(gains, truth, atol=1e-3)


def test_neighbouring_windows_are_spectral_featuresd_by_their_mean():
    rng = np.random.default_rng(0)
    spectra = complex_noise(rng, 2, 20, 1, 65)
    features = spectral_features(spectra, None)
    power = log_power(spectra)
    n_bands = power.shape[-1]
    assert features.shape == (2, 20, 1, 2 * n_bands)
    np.testing.assert_array_equal(features[..., :n_bands], power)
    np.testing.assert_allclose(
        features[:, 10, :, n_bands:], power[:, 7:14].mean(1), atol=1e-12
    )
