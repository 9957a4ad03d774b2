"""Matchings against SciPy and brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

import skmfr._sae.pairing
from skmfr._sae.pairing import assign_atoms, candidate_pairs, largest_cosines
from skmfr._training.matches import Matches


def random_atoms(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return normalize(atoms, dim=-1)


def total_cosine(atoms, others, partner):
    return float((atoms * others[partner]).sum())


def dense_pull(matches, like):
    """The pull graph as a matrix."""
    pull = matches.graph(like)
    n_atoms = matches.n_saes * matches.n_components
    return sparse.csr_array(
        (pull.weights, pull.partners, pull.offsets), (n_atoms, n_atoms)
    ).toarray()


def all_matched(matching, dictionaries, least_cosine=-2.0):
    matches = Matches(matching, *dictionaries.shape[:2], least_cosine)
    for pair in matches.pairs:
        matches.renew(dictionaries, pair)
    return matches


@pytest.mark.parametrize("n_rows", [1, 5, 13, 100])
def test_nearest_atoms_equal_brute_force_in_any_blocks(monkeypatch, n_rows):
    atoms, others = random_atoms(13, 4), random_atoms(19, 4, seed=1)
    monkeypatch.setattr(skmfr._sae.pairing, "COSINES_AT_ONCE", n_rows * len(others))
    cosine, index = largest_cosines(atoms, others)
    cosines = np.array([[a @ b for b in others.numpy()] for a in atoms.numpy()])
    np.testing.assert_allclose(cosine, cosines.max(1), rtol=1e-14)
    np.testing.assert_array_equal(index, cosines.argmax(1))


def test_assignment_is_that_of_scipy_below_the_limit():
    atoms, others = random_atoms(60, 5), random_atoms(60, 5, seed=1)
    _, expected = linear_sum_assignment(atoms @ others.T, maximize=True)
    np.testing.assert_array_equal(assign_atoms(atoms, others), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.3, 1.0, 30.0])
def test_assignment_among_candidates_is_near_the_optimum(monkeypatch, seed, noise):
    # The last is a random dictionary, where there is nothing to be found.
    monkeypatch.setattr(skmfr._sae.pairing, "REST_SIZE", 20)
    atoms = random_atoms(300, 8, seed=seed)
    others = normalize(atoms.flip(0) + noise * random_atoms(300, 8, seed=-1), dim=1)
    best = total_cosine(atoms, others, assign_atoms(atoms, others))
    found = total_cosine(atoms, others, assign_atoms(atoms, others, exact_limit=30))
    assert 0.999 * best <= found <= best + 1e-9


def test_assignment_is_the_best_among_the_candidates():
    atoms, others = random_atoms(300, 8), random_atoms(300, 8, seed=1)
    pairs = candidate_pairs(atoms, others).toarray()
    _, expected = linear_sum_assignment(
        np.where(pairs > 0, pairs, -1000), maximize=True
    )
    found = assign_atoms(atoms, others, exact_limit=30)
    assert total_cosine(atoms, others, found) == pytest.approx(
        total_cosine(atoms, others, expected), rel=1e-12
    )


@pytest.mark.parametrize("rest_size", [1, 20, 1000])
def test_candidates_contain_the_nearest_atoms_in_both_directions(
    monkeypatch, rest_size
):
    monkeypatch.setattr(skmfr._sae.pairing, "REST_SIZE", rest_size)
    monkeypatch.setattr(skmfr._sae.pairing, "N_CANDIDATES", 3)
    monkeypatch.setattr(skmfr._sae.pairing, "COSINES_AT_ONCE", 7 * 100)
    atoms, others = random_atoms(100, 8), random_atoms(100, 8, seed=1)
    pairs = candidate_pairs(atoms, others).toarray()
    cosines = (atoms @ others.T).numpy()
    near = cosines >= np.sort(cosines, axis=1)[:, -3:-2]
    near |= cosines >= np.sort(cosines, axis=0)[-3:-2]
    assert (pairs[near] > 0).all()
    np.testing.assert_allclose(pairs[pairs > 0], cosines[pairs > 0] + 2, rtol=1e-14)


# The rounds end because few atoms are left, or because there were enough of them.
@pytest.mark.parametrize("max_rounds", [0, 1, 10])
@pytest.mark.parametrize("rest_size", [1, 7, 150, 1000])
def test_assignment_among_candidates_is_a_permutation(
    monkeypatch, max_rounds, rest_size
):
    monkeypatch.setattr(skmfr._sae.pairing, "MAX_ROUNDS", max_rounds)
    monkeypatch.setattr(skmfr._sae.pairing, "REST_SIZE", rest_size)
    atoms, others = random_atoms(200, 8), random_atoms(200, 8, seed=1)
    partner = assign_atoms(atoms, others, exact_limit=1)
    np.testing.assert_array_equal(np.sort(partner), np.arange(200))


def test_opposite_atoms_are_candidates_too():
    # A cosine of -1 or 0 must not vanish from the sparse matrix.
    atoms = random_atoms(1, 3).expand(40, 3)
    np.testing.assert_array_equal(candidate_pairs(atoms, -atoms).toarray(), 1)
    zeros = torch.zeros(40, 3)
    np.testing.assert_array_equal(candidate_pairs(zeros, zeros).toarray(), 2)


@pytest.mark.parametrize("exact_limit", [4, 1000])
def test_identical_atoms_are_matched_to_a_permutation(exact_limit):
    atoms = random_atoms(1, 3).expand(600, 3).contiguous()
    partner = assign_atoms(atoms, atoms, exact_limit)
    np.testing.assert_array_equal(np.sort(partner), np.arange(600))


def test_a_planted_permutation_of_10_000_atoms_is_found():
    atoms = random_atoms(10_000, 32).float()
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(1))
    noise = random_atoms(10_000, 32, seed=2).float()
    # Noise of length 0.1 against nearest neighbours at distance 0.5 and more.
    copy = normalize(atoms[order] + 0.1 * noise, dim=1)
    np.testing.assert_array_equal(order[assign_atoms(atoms, copy)], np.arange(10_000))


def test_pull_graph_of_hungarian_matches_joins_partners():
    dictionaries = random_atoms(3, 12, 4)
    found = dense_pull(all_matched("hungarian", dictionaries), dictionaries)
    expected = np.zeros((36, 36))
    for i, j in combinations(range(3), 2):
        cosines = dictionaries[i] @ dictionaries[j].T
        own, partner = linear_sum_assignment(cosines, maximize=True)
        expected[12 * i + own, 12 * j + partner] = 1 / (12 * 3)
    np.testing.assert_allclose(found, expected + expected.T, rtol=1e-14)


def test_pull_graph_of_nearest_atoms_counts_both_directions():
    dictionaries = random_atoms(3, 12, 4)
    found = dense_pull(all_matched("max", dictionaries), dictionaries)
    expected = np.zeros((36, 36))
    for i, j in combinations(range(3), 2):
        cosines = (dictionaries[i] @ dictionaries[j].T).numpy()
        for a in range(12):
            expected[12 * i + a, 12 * j + cosines[a].argmax()] += 1 / (24 * 3)
            expected[12 * i + cosines[:, a].argmax(), 12 * j + a] += 1 / (24 * 3)
    np.testing.assert_allclose(found, expected + expected.T, rtol=1e-14)


@pytest.mark.parametrize("matching", ["hungarian", "max"])
def test_pull_graph_is_symmetric_and_half_its_weights_sum_to_one(matching):
    dictionaries = random_atoms(4, 15, 3)
    pull = dense_pull(all_matched(matching, dictionaries), dictionaries)
    np.testing.assert_array_equal(pull, pull.T)
    assert pull.sum() / 2 == pytest.approx(1.0, rel=1e-12)


def test_pull_graph_has_the_dtype_of_the_dictionaries():
    dictionaries = random_atoms(2, 5, 3).float()
    pull = all_matched("max", dictionaries).graph(like=dictionaries)
    assert pull.weights.dtype == torch.float32
    assert pull.partners.dtype == pull.offsets.dtype == torch.int32


@pytest.mark.parametrize("matching", ["hungarian", "max"])
@pytest.mark.parametrize("i", [0, 1, 2])
def test_forget_removes_the_rows_and_columns_of_the_atoms(matching, i):
    dictionaries = random_atoms(3, 12, 4)
    matches = all_matched(matching, dictionaries)
    expected = dense_pull(matches, dictionaries)
    forgotten = np.array([0, 5, 11])
    matches.forget(i, forgotten)
    expected[12 * i + forgotten] = 0
    expected[:, 12 * i + forgotten] = 0
    np.testing.assert_array_equal(dense_pull(matches, dictionaries), expected)


def test_forgetting_a_whole_sae_leaves_the_other_pairs():
    dictionaries = random_atoms(3, 12, 4)
    matches = all_matched("hungarian", dictionaries)
    matches.forget(1, np.arange(12))
    pull = dense_pull(matches, dictionaries)
    assert not pull[12:24].any()
    assert pull.sum() / 2 == pytest.approx(1 / 3)


def test_renewed_matches_replace_the_old_ones():
    dictionaries = random_atoms(3, 12, 4)
    matches = all_matched("hungarian", dictionaries)
    matches.graph(like=dictionaries)
    changed = dictionaries.clone()
    changed[0] = changed[0].flip(0)
    matches.renew(changed, (0, 2))
    pull = dense_pull(matches, changed)
    before = dense_pull(all_matched("hungarian", dictionaries), dictionaries)
    after = dense_pull(all_matched("hungarian", changed), changed)
    np.testing.assert_array_equal(pull[:12, 12:24], before[:12, 12:24])
    np.testing.assert_array_equal(pull[:12, 24:], after[:12, 24:])


@pytest.mark.parametrize("matching", ["hungarian", "max"])
def test_atoms_that_are_not_alike_are_not_matched(matching):
    dictionaries = random_atoms(3, 12, 4)
    everything = dense_pull(all_matched(matching, dictionaries), dictionaries)
    alike = dense_pull(all_matched(matching, dictionaries, 0.7), dictionaries)
    atoms = dictionaries.flatten(0, 1)
    cosines = (atoms @ atoms.T).numpy()
    assert (everything[cosines <= 0.7] > 0).any()
    np.testing.assert_array_equal(alike, np.where(cosines > 0.7, everything, 0))


def test_atoms_with_partner_are_those_matched_to_the_other_sae():
    dictionaries = random_atoms(3, 12, 4)
    matches = all_matched("hungarian", dictionaries, 0.7)
    for i, j in [(0, 1), (1, 0), (2, 0)]:
        cosines = (dictionaries[i] @ dictionaries[j].T).numpy()
        _, partner = linear_sum_assignment(cosines, maximize=True)
        np.testing.assert_array_equal(
            matches.with_partner(i, j), cosines[np.arange(12), partner] > 0.7
        )
