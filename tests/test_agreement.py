"""Agreement against brute force, its null level against Monte Carlo."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from skmfr.agreement import feature_agreement, matched_cosine, mmcs, random_agreement


def random_atoms(*shape, seed=0):
    """Atoms of any length."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.01, 100, (*shape[:-1], 1))
    return rng.standard_normal(shape) * lengths


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def cosines(atoms, others):
    return np.array([[cosine(a, b) for b in others] for a in atoms])


def test_feature_agreement_equals_brute_force():
    atoms = random_atoms(7, 4)
    dictionaries = [random_atoms(n, 4, seed=n) for n in (3, 7, 12)]
    best = [cosines(atoms, others).max(axis=1) for others in dictionaries]
    np.testing.assert_allclose(
        feature_agreement(atoms, dictionaries), np.mean(best, axis=0), rtol=1e-12
    )


def test_feature_agreement_takes_stacked_dictionaries():
    atoms, dictionaries = random_atoms(7, 4), random_atoms(3, 7, 4, seed=1)
    np.testing.assert_array_equal(
        feature_agreement(atoms, dictionaries),
        feature_agreement(atoms, list(dictionaries)),
    )


def test_feature_agreement_with_no_dictionary_is_nan():
    np.testing.assert_array_equal(feature_agreement(np.eye(3), []), [np.nan] * 3)


def test_agreement_with_itself_is_exactly_at_most_one():
    atoms = random_atoms(50, 9)
    agreement = feature_agreement(atoms, [atoms])
    np.testing.assert_allclose(agreement, 1, rtol=1e-12)
    assert agreement.max() <= 1


def test_cosines_are_signed():
    assert mmcs([[1.0, 0.0]], [[-2.0, 0.0]]) == -1
    assert matched_cosine([[1.0, 0.0]], [[-2.0, 0.0]]) == -1


def test_mmcs_equals_brute_force():
    atoms, others = random_atoms(9, 4), random_atoms(5, 4, seed=1)
    expected = cosines(atoms, others).max(axis=1).mean()
    assert mmcs(atoms, others) == pytest.approx(expected, rel=1e-12)


def test_matched_cosine_equals_the_best_permutation():
    atoms, others = random_atoms(12, 4), random_atoms(12, 4, seed=1)
    similarity = cosines(atoms, others)
    expected = similarity[linear_sum_assignment(similarity, maximize=True)].mean()
    assert matched_cosine(atoms, others) == pytest.approx(expected, rel=1e-12)
    assert matched_cosine(others, atoms) == pytest.approx(expected, rel=1e-12)


def test_matched_cosine_of_a_permuted_copy_is_one():
    atoms = random_atoms(30, 8)
    order = np.random.default_rng(1).permutation(30)
    assert matched_cosine(atoms, atoms[order]) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("function", [mmcs, matched_cosine])
def test_float32_and_float64_dictionaries_can_be_compared(function):
    atoms, others = random_atoms(12, 4), random_atoms(12, 4, seed=1)
    expected = function(atoms, others)
    assert function(atoms.astype(np.float32), others) == pytest.approx(expected, 1e-6)
    assert function(atoms, others.astype(np.float32)) == pytest.approx(expected, 1e-6)


@pytest.mark.parametrize("n_features", [1, 2, 3, 64])
@pytest.mark.parametrize("n_components", [1, 2, 30])
def test_random_agreement_is_that_of_random_dictionaries(n_features, n_components):
    rng = np.random.default_rng(0)
    others = rng.standard_normal((10_000, n_components, n_features))
    # Random directions have no preferred one: the atom may be the first axis.
    best = (others[..., 0] / np.linalg.norm(others, axis=2)).max(axis=1)
    error = best.std() / 100
    null = random_agreement(n_features, n_components)
    # The 10,000 draws do not contain what happens once in 100,000.
    assert null == pytest.approx(best.mean(), abs=4 * error + 1e-5)


@pytest.mark.parametrize("m", [1, 2, 3, 10, 1000])
def test_random_agreement_in_one_dimension(m):
    # 1 unless all m signs are wrong, then -1.
    assert random_agreement(1, m) == pytest.approx(1 - 2 ** (1 - m), abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 10, 1000, 24_576, 1_000_000])
def test_random_agreement_in_three_dimensions(m):
    # There the cosine is uniform on [-1, 1] (Archimedes), its maximum beta.
    assert random_agreement(3, m) == pytest.approx((m - 1) / (m + 1), abs=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5, 768, 1_000_000])
def test_random_agreement_of_one_atom_is_zero(d):
    assert random_agreement(d, 1) == pytest.approx(0, abs=1e-9)


def test_random_agreement_of_two_atoms_in_many_dimensions():
    # Cosines are normal with variance 1 / d; the larger of two has mean 1 / sqrt(pi d).
    for d in (10_000, 1_000_000):
        expected = (np.pi * d) ** -0.5
        assert random_agreement(d, 2) == pytest.approx(expected, rel=1e-4)


def test_random_agreement_rises_with_atoms_and_falls_with_features():
    table = [[random_agreement(d, m) for m in (1, 8, 64, 512)] for d in (2, 8, 64, 768)]
    assert (np.diff(table, axis=1) > 0).all()
    assert (np.diff(np.array(table)[:, 1:], axis=0) < 0).all()


@pytest.mark.parametrize(("d", "m", "name"), [(0, 5, "n_features"), (5, 0, "n_comp")])
def test_random_agreement_needs_positive_numbers(d, m, name):
    with pytest.raises(ValueError, match=name):
        random_agreement(d, m)


@pytest.mark.parametrize("function", [mmcs, matched_cosine])
@pytest.mark.parametrize(
    "bad", [np.full((3, 4), np.nan), np.full((3, 4), np.inf), np.empty((0, 4))]
)
def test_unusable_atoms_are_refused_by_name(function, bad):
    good = random_atoms(3, 4)
    with pytest.raises(ValueError, match="atoms"):
        function(bad, good)
    with pytest.raises(ValueError, match="others|dictionaries"):
        function(good, bad)


@pytest.mark.parametrize("function", [mmcs, matched_cosine])
def test_different_numbers_of_features_are_refused(function):
    with pytest.raises(ValueError, match="others|dictionaries"):
        function(random_atoms(3, 4), random_atoms(3, 5))


def test_matched_cosine_refuses_different_numbers_of_atoms():
    with pytest.raises(ValueError, match="others"):
        matched_cosine(random_atoms(3, 4), random_atoms(5, 4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_feature_agreement_refuses_bad_values_in_any_dictionary(bad):
    dictionaries = random_atoms(2, 3, 4)
    dictionaries[1, 2, 3] = bad
    with pytest.raises(ValueError, match="dictionaries"):
        feature_agreement(random_atoms(3, 4), dictionaries)


def test_feature_agreement_refuses_a_single_dictionary_for_a_sequence():
    with pytest.raises(ValueError, match="Expected 2D array"):
        feature_agreement(random_atoms(3, 4), random_atoms(3, 4))
