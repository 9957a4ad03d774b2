"""Synthetic data against the probabilities that define them."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.utils import Bunch, check_random_state

from skmfr.datasets import make_mfr_synthetic, make_superposition
from skmfr.datasets._synthetic import _activity_probabilities

both = pytest.mark.parametrize("make", [make_superposition, make_mfr_synthetic])


def decaying(n_components, n_active, decay):
    """Probabilities of activity where none reaches 1."""
    weights = decay ** np.arange(n_components)
    return n_active * weights / weights.sum()


def activity(codes):
    return codes.toarray() > 0


def assert_counts_are_binomial(counts, n, probabilities):
    # Of 1000 true probabilities, one is outside by accident in 1000 runs.
    low, high = stats.binom.interval(1 - 1e-6, n, probabilities)
    assert ((low <= counts) & (counts <= high)).all()


@both
def test_data_are_the_sums_of_active_features(make):
    X, codes, features = make(3000, random_state=0)  # more than a block
    np.testing.assert_allclose(X, codes.toarray() @ features, atol=1e-13)


@both
def test_shapes_and_types(make):
    X, codes, features = make(50, 30, 60, n_active=4, random_state=0)
    assert X.shape == (50, 30)
    assert codes.shape == (50, 60)
    assert features.shape == (60, 30)
    assert X.dtype == codes.dtype == features.dtype == np.float64
    assert isinstance(codes, sparse.csr_array)
    assert codes.indices.dtype == codes.indptr.dtype == np.int32
    assert codes.has_canonical_format
    assert (codes.data > 0).all()


@both
def test_features_are_uniform_on_the_unit_sphere(make):
    _, _, features = make(1, 5, 20_000, n_active=3, random_state=0)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-12)
    # One coordinate t of a uniform direction has (t + 1) / 2 ~ Beta((d-1)/2, (d-1)/2).
    for coordinate in features.T:
        assert stats.kstest((coordinate + 1) / 2, stats.beta(2, 2).cdf).pvalue > 1e-3
    covariance = features.T @ features / len(features)
    np.testing.assert_allclose(covariance, np.eye(5) / 5, atol=0.01)  # 6 sd


@both
def test_coefficients_are_uniform(make):
    _, codes, _ = make(2000, random_state=0)
    assert stats.kstest(codes.data, "uniform").pvalue > 1e-3
    # And do not depend on the feature.
    assert stats.spearmanr(codes.indices, codes.data).pvalue > 1e-3


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_features_are_active_as_often_as_stated(correlation):
    _, codes, _ = make_superposition(
        30_000, 2, 50, n_active=4, decay=0.9, correlation=correlation, random_state=0
    )
    expected = decaying(50, 4, 0.9)
    assert_counts_are_binomial(activity(codes).sum(axis=0), 30_000, expected)


def test_frequencies_are_those_of_the_documented_defaults():
    _, codes, _ = make_superposition(30_000, 2, random_state=0)
    counts = activity(codes).sum(axis=0)
    assert_counts_are_binomial(counts, 30_000, decaying(128, 5, 0.99))
    # Of twelve groups of 42, and eight features that are left over.
    _, codes, _ = make_mfr_synthetic(30_000, 2, n_active=1, random_state=0)
    counts = activity(codes).sum(axis=0)
    expected = np.tile(decaying(42, 1 / 12, 0.99), 12)
    assert_counts_are_binomial(counts[:504], 30_000, expected)
    assert counts[504:].tolist() == [0] * 8


def test_number_active_has_the_distribution_of_independent_features():
    _, codes, _ = make_superposition(30_000, 2, 20, decay=0.9, random_state=0)
    expected = np.array([1.0])
    for p in decaying(20, 5, 0.9):
        expected = np.convolve(expected, [1 - p, p])
    found = np.bincount(np.diff(codes.indptr), minlength=21)
    many = 30_000 * expected > 5
    found = np.append(found[many], found[~many].sum())
    expected = np.append(expected[many], expected[~many].sum())
    assert stats.chisquare(found, 30_000 * expected).pvalue > 1e-3


def test_pairs_of_features_are_active_together_as_the_copula_has_it():
    n_samples, rho = 100_000, 0.5
    _, codes, _ = make_superposition(
        n_samples, 2, 12, n_active=4, decay=0.9, correlation=rho, random_state=0
    )
    active = activity(codes).astype(int)
    together = active.T @ active
    probabilities = decaying(12, 4, 0.9)
    # Who comes with feature 0 more often than by accident has its sign.
    signs = np.where(together[0] > n_samples * probabilities[0] * probabilities, 1, -1)
    assert set(signs) == {-1, 1}
    for i, j in itertools.combinations(range(12), 2):
        covariance = np.where(np.eye(2), 1, signs[i] * signs[j] * rho)
        quantiles = stats.norm.ppf(probabilities[[i, j]])
        expected = stats.multivariate_normal.cdf(quantiles, cov=covariance)
        assert_counts_are_binomial(together[i, j], n_samples, expected)


def test_correlated_samples_are_in_no_order():
    # They are made in the order of their common factor.
    _, codes, _ = make_superposition(20_000, 2, 64, correlation=0.8, random_state=0)
    n_active = np.diff(codes.indptr)
    assert stats.spearmanr(n_active, np.arange(20_000)).pvalue > 1e-3
    assert stats.spearmanr(n_active[1:], n_active[:-1]).pvalue > 1e-3


@pytest.mark.parametrize("n_active", [1e-3, 1.0, 1.99, 5.5, 39.9, 40])
@pytest.mark.parametrize("decay", [1.0, 0.99, 0.5, 1e-9])
def test_probabilities_add_up_and_decay_below_one(n_active, decay):
    p = _activity_probabilities(40, n_active, decay)
    assert p.sum() == pytest.approx(n_active, rel=1e-12)
    assert ((p >= 0) & (p <= 1)).all()
    shared = p[p < 1]
    np.testing.assert_allclose(shared[1:], decay * shared[:-1], rtol=1e-9, atol=1e-300)
    # What is cut at 1 would have been above otherwise.
    if 0 < len(shared) < 40:
        assert shared[0] / decay >= 1


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_all_features_can_be_active_always(correlation):
    _, codes, _ = make_superposition(
        100, 3, 7, n_active=7, correlation=correlation, random_state=0
    )
    assert activity(codes).all()


def test_noise_is_normal_with_its_standard_deviation():
    X, codes, features = make_superposition(5000, 20, 40, noise=0.3, random_state=0)
    noise = (X - codes @ features) / 0.3
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    # And independent: the sum over dimensions has 20 times the variance.
    assert stats.kstest(noise.sum(axis=1) / 20**0.5, "norm").pvalue > 1e-3


def test_groups_never_mix_and_are_equally_frequent():
    _, codes, _ = make_mfr_synthetic(30_000, 2, random_state=0)
    groups = codes.indices.reshape(30_000, 32) // 42
    assert (groups == groups[:, :1]).all()
    assert stats.chisquare(np.bincount(groups[:, 0], minlength=12)).pvalue > 1e-3
    assert stats.spearmanr(groups[1:, 0], groups[:-1, 0]).pvalue > 1e-3


def test_samples_have_n_active_features_and_never_those_left_over():
    _, codes, _ = make_mfr_synthetic(30_000, 2, random_state=0)
    assert (np.diff(codes.indptr) == 32).all()
    used = np.bincount(codes.indices, minlength=512) > 0
    np.testing.assert_array_equal(np.flatnonzero(~used), np.arange(504, 512))


@pytest.mark.parametrize("n_active", [1, 2, 3])
def test_draw_without_replacement_equals_enumeration(n_active):
    _, codes, _ = make_mfr_synthetic(
        60_000, 2, 9, n_groups=2, n_active=n_active, decay=0.6, random_state=0
    )
    weights = 0.6 ** np.arange(4)
    expected = dict.fromkeys(itertools.combinations(range(4), n_active), 0.0)
    for drawn in itertools.permutations(range(4), n_active):
        left = weights.sum() - np.cumsum([0, *weights[list(drawn[:-1])]])
        expected[tuple(sorted(drawn))] += np.prod(weights[list(drawn)] / left)
    found = dict.fromkeys(itertools.product(range(2), expected), 0)
    for row in codes.indices.reshape(-1, n_active).tolist():
        found[row[0] // 4, tuple(j % 4 for j in row)] += 1
    expected = 30_000 * np.array([*expected.values()] * 2)
    assert stats.chisquare([*found.values()], expected).pvalue > 1e-3


def test_features_of_no_weight_to_speak_of_come_last():
    # Weights down to 1e-600 are no float64.
    _, codes, _ = make_mfr_synthetic(
        20, 2, 300, n_groups=1, n_active=200, decay=0.01, random_state=0
    )
    assert codes.indices.max() < 205


def test_the_whole_group_can_be_active():
    _, codes, _ = make_mfr_synthetic(20, 3, 12, n_groups=3, n_active=4, random_state=0)
    starts = codes.indices[::4]
    np.testing.assert_array_equal(
        codes.indices.reshape(-1, 4), starts[:, None] + np.arange(4)
    )
    assert set(starts) == {0, 4, 8}


@both
def test_same_seed_same_bytes(make):
    first, again, other = (make(3000, random_state=seed) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        if sparse.issparse(a):
            a, b, c = a.toarray(), b.toarray(), c.toarray()
        assert a.tobytes() == b.tobytes()
        assert a.tobytes() != c.tobytes()


@both
def test_a_random_state_goes_on(make):
    random_state = np.random.RandomState(0)
    X, _, _ = make(10, random_state=random_state)
    Y, _, _ = make(10, random_state=random_state)
    np.testing.assert_array_equal(X, make(10, random_state=0)[0])
    assert (X != Y).all()


@both
def test_the_global_generator_moves_only_without_a_seed(make):
    def position():
        state = check_random_state(None).get_state(legacy=False)["state"]
        return state["key"].tobytes(), state["pos"]

    before = position()
    make(10, random_state=0)
    assert position() == before
    make(10)
    assert position() != before


@both
@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_float32_is_the_same_data_rounded(make, dtype):
    X, codes, features = make(3000, dtype=dtype, random_state=0)
    X64, codes64, features64 = make(3000, random_state=0)
    assert X.dtype == codes.dtype == features.dtype == np.float32
    np.testing.assert_array_equal(features, features64.astype(np.float32))
    np.testing.assert_array_equal(codes.toarray(), codes64.toarray().astype(np.float32))
    np.testing.assert_allclose(X, X64, atol=2e-6)  # 42 products of 6e-8 each


def test_noise_does_not_change_precision():
    X, _, _ = make_superposition(10, noise=0.1, dtype="float32", random_state=0)
    assert X.dtype == np.float32


@both
def test_bunch_has_the_same(make):
    bunch = make(10, as_bunch=True, random_state=0)
    X, codes, features = make(10, random_state=0)
    assert isinstance(bunch, Bunch)
    assert set(bunch) == {"X", "codes", "features"}
    np.testing.assert_array_equal(bunch.X, X)
    np.testing.assert_array_equal(bunch.codes.toarray(), codes.toarray())
    np.testing.assert_array_equal(bunch.features, features)


@both
def test_memory_is_that_of_the_result(make):
    tracemalloc.start()
    try:
        X, codes, features = make(20_000, 4, 8192, n_active=4, random_state=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    arrays = [X, features, codes.data, codes.indices, codes.indptr]
    # Codes twice while they are put together, and blocks; a mask of all would take
    # 160 MB, numbers 1.3 GB.
    assert peak < 2 * sum(array.nbytes for array in arrays) + 20e6


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_samples", 0),
        ("n_features", 0),
        ("n_components", 2.5),
        ("n_active", 0),
        ("decay", 0.0),
        ("decay", 1.01),
        ("decay", np.nan),
        ("as_bunch", "yes"),
        ("dtype", "int32"),
        ("dtype", np.float16),
        ("random_state", "seed"),
    ],
)
def test_parameters_out_of_range_are_named(make, name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter .* Got {value!r}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise", -0.1),
        ("noise", np.inf),
        ("noise", np.nan),
        ("correlation", -0.1),
        ("correlation", 1.0),
        ("correlation", np.nan),
        ("n_active", np.nan),
    ],
)
def test_parameters_of_superposition_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter .* Got {value!r}"):
        make_superposition(**{name: value})


def test_more_active_features_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"n_active .* n_components=128, got 128\.5"):
        make_superposition(n_active=128.5)


def test_more_active_features_than_a_group_has_is_refused():
    with pytest.raises(ValueError, match="n_active .* n_groups = 42, got 43"):
        make_mfr_synthetic(n_active=43)


def test_more_groups_than_features_is_refused():
    with pytest.raises(ValueError, match="n_groups .* n_components=8, got 12"):
        make_mfr_synthetic(n_components=8)


@pytest.mark.parametrize(("name", "value"), [("n_groups", 0), ("n_active", 2.5)])
def test_parameters_of_mfr_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter .* Got {value!r}"):
        make_mfr_synthetic(**{name: value})
