"""Products of sparse codes against dense ones."""

import numpy as np
import pytest
import torch
from scipy import sparse

from skmfr._sae.codes import (
    SparseCodes,
    bag_sums,
    bag_totals,
    by_atom,
    decode,
    n_active,
    top_k,
)

N_SAMPLES, N_COMPONENTS, N_FEATURES, K = 37, 23, 11, 5
# With primes no group size divides the columns; k = 1 has the largest groups, k = m
# none; 2 and 3 of 4096 have groups of about 40.
SIZES = [(1, 1), (7, 7), (8, 1), (97, 1), (97, 4), (101, 100), (128, 5), (509, 32)]
SIZES += [
    (256, 9),
    (257, 9),
    (512, 512),
    (1000, 250),
    (1000, 251),
    (4096, 2),
    (4096, 3),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def random_numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_codes():
    """Codes with some inactive entries."""
    scores = random_numbers(N_SAMPLES, N_COMPONENTS) - 0.5
    codes = top_k(scores, K)
    assert (codes.values == 0).any()
    return codes


def dense(codes, n_components=N_COMPONENTS):
    return torch.zeros(len(codes.values), n_components, dtype=torch.float64).scatter_(
        1, codes.indices, codes.values
    )


def sorted_rows(values):
    return values.sort(dim=1).values


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), SIZES)
def test_top_k_equals_torch_topk_of_relu(m, k, dtype):
    scores = random_numbers(20, m).to(dtype)
    codes = top_k(scores, k)
    expected = torch.topk(scores.relu(), k, dim=1).values
    assert_equal(sorted_rows(codes.values), sorted_rows(expected))
    assert_equal(codes.values, scores.gather(1, codes.indices).relu())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), SIZES)
@pytest.mark.parametrize("shift", [0.0, -2.0, -100.0])
def test_top_k_indices_are_distinct_even_where_no_score_is_positive(m, k, dtype, shift):
    scores = (random_numbers(20, m) + shift).to(dtype)
    indices = sorted_rows(top_k(scores, k).indices)
    assert (indices.diff(dim=1) > 0).all()
    assert indices.min() >= 0
    assert indices.max() < m


@pytest.mark.parametrize("dtype", DTYPES)
def test_top_k_of_negative_scores_is_zero(dtype):
    scores = -random_numbers(20, 300).abs().to(dtype)
    scores[:, ::7] = -0.0  # its bit pattern is that of the most negative integer
    assert_equal(top_k(scores, 9).values, torch.zeros(20, 9, dtype=dtype))


def test_top_k_finds_the_largest_wherever_they_are():
    # Each row has its k positive scores in one run of columns: in one strided group
    # each, or all in the columns that no group holds.
    m, k = 509, 8
    scores = torch.full((m, m), -1.0)
    for row in range(m):
        scores[row, (row + torch.arange(k)) % m] = torch.arange(1.0, k + 1)
    found = sorted_rows(top_k(scores, k).values)
    assert_equal(found, torch.arange(1.0, k + 1).expand(m, k))


def test_top_k_of_ties_keeps_the_values():
    # Few distinct scores: many groups have the same maximum.
    scores = torch.randint(-2, 3, (50, 256), generator=torch.Generator().manual_seed(0))
    codes = top_k(scores.float(), 20)
    expected = torch.topk(scores.relu().float(), 20, dim=1).values
    assert_equal(sorted_rows(codes.values), sorted_rows(expected))
    assert (sorted_rows(codes.indices).diff(dim=1) > 0).all()


def test_decode_equals_dense_product():
    codes, dictionary = random_codes(), random_numbers(N_COMPONENTS, N_FEATURES, seed=1)
    torch.testing.assert_close(decode(codes, dictionary), dense(codes) @ dictionary)


def sums_of_atoms(codes, X, n_components=N_COMPONENTS):
    entries = by_atom(codes.indices, n_components)
    return bag_sums(X, entries.rows, entries.offsets, entries.sort(codes.values))


def test_sums_by_atom_equal_dense_product_with_transposed_codes():
    codes = random_codes()
    X = random_numbers(N_SAMPLES, N_FEATURES, seed=1)
    torch.testing.assert_close(sums_of_atoms(codes, X), dense(codes).T @ X)


def test_sums_of_an_atom_without_entries_are_zero():
    codes = random_codes()
    X = random_numbers(N_SAMPLES, N_FEATURES, seed=1)
    assert_equal(
        sums_of_atoms(codes, X, N_COMPONENTS + 2)[N_COMPONENTS:],
        torch.zeros(2, N_FEATURES, dtype=torch.float64),
    )


def test_totals_by_atom_equal_column_sums():
    codes = random_codes()
    entries = by_atom(codes.indices, N_COMPONENTS + 2)
    totals = bag_totals(entries.sort(codes.values), entries.offsets)
    torch.testing.assert_close(totals, dense(codes, N_COMPONENTS + 2).sum(0))


def test_n_active_counts_codes_of_either_sign():
    codes = random_codes()
    codes.values[::2] *= -1
    expected = (dense(codes) != 0).sum(0).double()
    assert_equal(n_active(codes, N_COMPONENTS), expected)


@pytest.mark.parametrize("repeated", [False, True])
def test_by_atom_equals_stable_sort(repeated):
    # Inactive entries of codes may repeat an atom.
    rng = np.random.default_rng(0)
    indices = rng.permuted(np.tile(np.arange(30), (N_SAMPLES, 1)), axis=1)[:, :K]
    if repeated:
        indices[:, 1] = indices[:, 0]
    flat = indices.ravel()
    order = np.argsort(flat, kind="stable")

    entries = by_atom(torch.from_numpy(indices), 30)
    np.testing.assert_array_equal(entries.order, order)
    np.testing.assert_array_equal(entries.rows, order // K)
    np.testing.assert_array_equal(
        entries.offsets, np.searchsorted(flat[order], np.arange(31))
    )


def test_by_atom_is_the_csc_form_of_the_codes():
    codes = random_codes()
    entries = by_atom(codes.indices, N_COMPONENTS)
    values = codes.values.flatten()[entries.order]
    matrix = sparse.csc_array(
        (values, entries.rows, entries.offsets), (N_SAMPLES, N_COMPONENTS)
    )
    np.testing.assert_array_equal(matrix.toarray(), dense(codes))


def test_decode_of_a_single_entry():
    codes = SparseCodes(torch.tensor([[2.0]]), torch.tensor([[1]]))
    dictionary = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert_equal(decode(codes, dictionary), torch.tensor([[6.0, 8.0]]))
