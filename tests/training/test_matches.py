"""Which atoms attract each other, against SciPy and brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from skmfr._training.matches import Matches


def random_atoms(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return normalize(atoms, dim=-1)


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
