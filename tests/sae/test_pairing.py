"""Pairs of atoms against SciPy and brute force."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

import skmfr._sae.pairing
from skmfr._sae.pairing import assign_atoms, candidate_pairs, largest_cosines


def random_atoms(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return normalize(atoms, dim=-1)


def total_cosine(atoms, others, partner):
    return float((atoms * others[partner]).sum())


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
@pytest.mark.parametrize("n_candidates", [1, 16])
def test_assignment_among_candidates_is_a_permutation(
    monkeypatch, max_rounds, rest_size, n_candidates
):
    monkeypatch.setattr(skmfr._sae.pairing, "N_CANDIDATES", n_candidates)
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
