"""Agreement against brute force, its null level against Monte Carlo."""

import re
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import orthogonal_mp
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

import skmfr.agreement
from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr._sae.levels import random_quantile
from skmfr.agreement import (
    _subspaces,
    compare,
    feature_agreement,
    matched_cosine,
    mmcs,
    nearest_atoms,
    pw_mcc,
    random_agreement,
    reappearance,
    shared_fraction,
    subspace_agreement,
    trusted_atoms,
)
from skmfr.io import save, to_sae_lens
from skmfr.metrics import fvu, recall_precision


def random_atoms(*shape, seed=0):
    """Atoms of any length."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.01, 100, (*shape[:-1], 1))
    return rng.standard_normal(shape) * lengths


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def cosines(atoms, others):
    return np.array([[cosine(a, b) for b in others] for a in atoms])


def matched_cosines(atoms, others):
    """Cosines under the best of all permutations."""
    similarity = cosines(atoms, others)
    candidates = [
        similarity[range(len(atoms)), order]
        for order in permutations(range(len(atoms)))
    ]
    return max(candidates, key=np.sum)


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
    assert pw_mcc([[[1.0, 0.0]], [[-2.0, 0.0]]]) == -1
    assert shared_fraction([[1.0, 0.0]], [[-2.0, 0.0]], tau=0) == 0


@pytest.mark.parametrize("function", [mmcs, matched_cosine])
def test_an_atom_of_zeros_has_cosine_zero_with_all(function):
    atoms, zeros = [[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]
    assert function(atoms, zeros) == 0
    assert function(zeros, atoms) == 0
    assert function(atoms, atoms) == 0.5


@pytest.mark.parametrize("length", [1e-40, 1e-7, 1e30])
@pytest.mark.parametrize("function", [mmcs, matched_cosine])
def test_the_length_of_atoms_does_not_matter(function, length):
    atoms = random_atoms(20, 5)
    scaled = np.float32(length) * atoms.astype(np.float32)
    assert function(scaled, atoms) == pytest.approx(1, rel=1e-4)


def test_mmcs_equals_brute_force():
    atoms, others = random_atoms(9, 4), random_atoms(5, 4, seed=1)
    expected = cosines(atoms, others).max(axis=1).mean()
    assert mmcs(atoms, others) == pytest.approx(expected, rel=1e-12)


def test_matched_cosine_equals_the_best_permutation():
    atoms, others = random_atoms(6, 4), random_atoms(6, 4, seed=1)
    expected = matched_cosines(atoms, others).mean()
    assert matched_cosine(atoms, others) == pytest.approx(expected, rel=1e-12)
    assert matched_cosine(others, atoms) == pytest.approx(expected, rel=1e-12)


def test_matched_cosine_of_a_permuted_copy_is_one():
    atoms = random_atoms(30, 8)
    order = np.random.default_rng(1).permutation(30)
    assert matched_cosine(atoms, atoms[order]) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matched_cosine_above_the_exact_limit_is_near_the_exact_one(monkeypatch, dtype):
    atoms = random_atoms(300, 8).astype(dtype)
    others = random_atoms(300, 8, seed=1).astype(dtype)
    exact = matched_cosine(atoms, others)
    monkeypatch.setattr(skmfr._sae.cosines, "EXACT_ONCE", 50)
    assert matched_cosine(atoms, others) == pytest.approx(exact, rel=1e-3)


def test_pw_mcc_is_the_mean_over_all_pairs():
    dictionaries = random_atoms(4, 5, 3)
    expected = np.mean(
        [
            matched_cosines(dictionaries[i], dictionaries[j]).mean()
            for i, j in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        ]
    )
    assert pw_mcc(dictionaries) == pytest.approx(expected, rel=1e-12)
    assert pw_mcc(list(dictionaries[::-1])) == pytest.approx(expected, rel=1e-12)
    assert type(pw_mcc(dictionaries)) is float


def test_pw_mcc_of_permuted_copies_is_one():
    atoms = random_atoms(12, 4)
    copies = [atoms[np.random.default_rng(i).permutation(12)] for i in range(3)]
    assert pw_mcc(copies) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("n", [0, 1])
def test_pw_mcc_needs_two_dictionaries(n):
    with pytest.raises(ValueError, match=f"at least 2 dictionaries, got {n}"):
        pw_mcc(random_atoms(2, 3, 4)[:n])


@pytest.mark.parametrize("tau", [0, 0.3, 0.7, np.float32(0.9), 1])
def test_shared_fraction_counts_matched_cosines(tau):
    atoms, others = random_atoms(6, 4), random_atoms(6, 4, seed=1)
    others[:3] = atoms[2:5]
    expected = np.mean(matched_cosines(atoms, others) >= tau - 1e-12)
    assert shared_fraction(atoms, others, tau) == expected
    assert shared_fraction(others, atoms, tau) == expected
    assert 0 < expected <= 1


@pytest.mark.parametrize(("cosine", "expected"), [(0.71, 1), (0.69, 0)])
def test_atoms_are_shared_from_a_cosine_of_seven_tenths_on(cosine, expected):
    others = [[cosine, (1 - cosine**2) ** 0.5]]
    assert shared_fraction([[1.0, 0.0]], others) == expected


def test_shared_fraction_counts_a_feature_found_twice_once():
    # Both atoms are near the first of the others, which only one can have.
    atoms, others = [[1.0, 0.0], [1.0, 0.1]], [[1.0, 0.0], [0.0, -1.0]]
    assert shared_fraction(atoms, others) == 0.5
    assert mmcs(atoms, others) > 0.99


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_atoms_are_shared_with_a_copy_even_at_a_cosine_of_one(dtype):
    atoms = random_atoms(200, 768).astype(dtype)
    assert shared_fraction(atoms, 3 * atoms[::-1], tau=1) == 1


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
    assert 0 <= random_agreement(d, 1) <= 1e-9


def test_random_agreement_of_two_atoms_in_many_dimensions():
    # Cosines are normal with variance 1 / d; the larger of two has mean 1 / sqrt(pi d).
    for d in (10_000, 1_000_000):
        expected = (np.pi * d) ** -0.5
        assert random_agreement(d, 2) == pytest.approx(expected, rel=1e-4)


def test_random_agreement_rises_with_atoms_and_falls_with_features():
    table = [[random_agreement(d, m) for m in (1, 8, 64, 512)] for d in (2, 8, 64, 768)]
    assert (np.diff(table, axis=1) > 0).all()
    assert (np.diff(np.array(table)[:, 1:], axis=0) < 0).all()


@pytest.mark.parametrize("bad", [0, -3, 2.0, 2.5, np.nan, np.inf, None, "2"])
@pytest.mark.parametrize("name", ["n_features", "n_components"])
def test_random_agreement_needs_positive_integers(name, bad):
    with pytest.raises(ValueError, match=name):
        random_agreement(**({"n_features": 5, "n_components": 5} | {name: bad}))


def test_random_agreement_takes_integers_of_numpy():
    assert random_agreement(np.int32(8), np.int64(9)) == random_agreement(8, 9)


UNUSABLE = {
    "nan": np.full((3, 4), np.nan),
    "inf": np.full((3, 4), np.inf),
    "no atoms": np.empty((0, 4)),
    "no features": np.empty((3, 0)),
    "1-D": np.ones(4),
    "3-D": np.ones((2, 3, 4)),
    "other features": np.ones((3, 5)),
}


@pytest.mark.parametrize("bad", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("function", [mmcs, matched_cosine, shared_fraction])
def test_unusable_others_are_refused_by_name(function, bad):
    with pytest.raises(ValueError, match="others"):
        function(random_atoms(3, 4), bad)


# Of different numbers of features, the second is told.
@pytest.mark.parametrize("reason", sorted(UNUSABLE.keys() - {"other features"}))
@pytest.mark.parametrize("function", [mmcs, matched_cosine, shared_fraction])
def test_unusable_atoms_are_refused_by_name(function, reason):
    with pytest.raises(ValueError, match="atoms"):
        function(UNUSABLE[reason], random_atoms(3, 4))


@pytest.mark.parametrize("bad", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_dictionaries_are_refused_by_name(bad):
    good = random_atoms(3, 4)
    with pytest.raises(ValueError, match=r"dictionaries\[1\]"):
        feature_agreement(good, [good, bad])
    with pytest.raises(ValueError, match=r"dictionaries\[1\]"):
        pw_mcc([good, bad])


def test_different_numbers_are_told_in_the_message():
    with pytest.raises(ValueError, match="others has 5 features, but .* has 4"):
        mmcs(random_atoms(3, 4), random_atoms(3, 5))
    with pytest.raises(ValueError, match="others has 5 atoms, but .* has 3"):
        matched_cosine(random_atoms(3, 4), random_atoms(5, 4))


@pytest.mark.parametrize("function", [matched_cosine, shared_fraction])
def test_one_to_one_matchings_refuse_different_numbers_of_atoms(function):
    with pytest.raises(ValueError, match="others"):
        function(random_atoms(3, 4), random_atoms(5, 4))


@pytest.mark.parametrize("tau", [-0.1, 1.1, np.nan, None, "0.5"])
def test_shared_fraction_refuses_a_tau_outside_0_and_1(tau):
    with pytest.raises(ValueError, match="tau"):
        shared_fraction(random_atoms(3, 4), random_atoms(3, 4), tau)


def test_feature_agreement_refuses_a_single_dictionary_for_a_sequence():
    with pytest.raises(ValueError, match=r"dictionaries\[0\] has shape \(4,\)"):
        feature_agreement(random_atoms(3, 4), random_atoms(3, 4))


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_random_atoms_stay_below_their_quantile_as_often_as_it_says(n_features):
    rng = np.random.default_rng(0)
    # The first coordinates of random directions are their cosines with a fixed one.
    directions = rng.standard_normal((20_000, 7, n_features))
    nearest = (directions[..., 0] / np.linalg.norm(directions, axis=2)).max(1)
    for share in (0.004, 0.1, 0.9, 0.99):
        level = random_quantile(n_features, 7, share)
        below, at_most = (nearest < level).mean(), (nearest <= level).mean()
        assert below - 0.01 < share < at_most + 0.01


def estimator_with(dictionaries, witnesses):
    """An estimator fitted with these atoms, of unit norm, the first as its own."""
    sae = MFRSparseAutoencoder(len(dictionaries[0]))
    sae.reference_sae_, sae.components_ = 0, dictionaries[0]
    sae.dictionaries_ = dictionaries
    sae.witness_dictionaries_ = witnesses
    sae.feature_agreement_ = feature_agreement(dictionaries[0], witnesses)
    return sae


def unit(*shape, seed=0):
    atoms = random_atoms(*shape, seed=seed)
    return atoms / np.linalg.norm(atoms, axis=-1, keepdims=True)


def test_atoms_that_return_are_trusted_and_random_ones_are_not():
    # The first 40 are in all SAEs.
    dictionaries = unit(4, 60, 30)
    dictionaries[:, :40] = dictionaries[0, :40]
    sae = estimator_with(dictionaries[:3], dictionaries[3:])
    probability, deviation = reappearance(sae)
    np.testing.assert_allclose(probability[:40], 1.0, atol=0.02)
    np.testing.assert_allclose(probability[40:], 0.0, atol=0.03)
    assert (deviation < 0.01).all()
    assert trusted_atoms(sae).tolist() == [True] * 40 + [False] * 20
    # Others agree no more than random atoms do.
    assert trusted_atoms(sae, fdr=1.0)[40:].mean() < 0.1


def test_random_atoms_that_always_return_are_not_trusted():
    # In three dimensions another is always near.
    sae = estimator_with(unit(3, 400, 3), unit(1, 400, 3, seed=1))
    assert reappearance(sae)[0].min() > 0.99
    assert trusted_atoms(sae).mean() <= 0.02


def test_an_atom_returns_the_less_the_nearer_it_must_be():
    sae = estimator_with(unit(3, 50, 4), unit(2, 50, 4, seed=1))
    probabilities = [reappearance(sae, tau)[0].mean() for tau in (0.2, 0.6, 0.8, 1.0)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[0] > 0.95
    assert probabilities[-1] < 0.05


@pytest.mark.parametrize(("n_saes", "n_witnesses"), [(3, 0), (1, 1)])
def test_too_few_saes_are_told_and_nothing_is_trusted(n_saes, n_witnesses):
    sae = estimator_with(unit(n_saes, 9, 4), unit(n_witnesses, 9, 4, seed=1))
    expected = f"{n_saes} SAEs and {n_witnesses} witnesses"
    with pytest.warns(UserWarning, match=expected):
        assert np.isnan(reappearance(sae)).all()
    with pytest.warns(UserWarning, match=expected):
        assert not trusted_atoms(sae).any()


@pytest.mark.parametrize("name", ["fdr", "tau"])
def test_rates_outside_0_and_1_are_refused(name):
    sae = estimator_with(unit(3, 9, 4), unit(1, 9, 4, seed=1))
    with pytest.raises(ValueError, match=name):
        trusted_atoms(sae, **{name: 1.1})


# Spans


def test_saes_of_others_have_no_fit_to_ask():
    sae = PretrainedSAE()
    sae.components_ = np.eye(3)
    sae.witness_dictionaries_ = sae.components_[None][:0]
    for ask in (reappearance, trusted_atoms):
        with pytest.raises(TypeError, match="got PretrainedSAE"):
            ask(sae)


def runs_that_differ():
    """Atoms of two runs, and what became of each of the first."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    shared, (a, b), (c, d, e, f), lost, new = np.split(basis[:20], [8, 10, 14, 17])
    turned = [a + b, a - b]
    first = [*shared, a, b, c + d, e, f, *lost]
    second = [*new, *turned, c, d, e + f, *shared]
    fates = ["returns"] * 8 + ["turns"] * 2 + ["splits"] + ["merges"] * 2 + ["lost"] * 3
    noise = 0.02 * rng.standard_normal((2, 17, 64))
    first, second = np.array(first) + noise[0, : len(first)], np.array(second)
    return first, second + noise[1, : len(second)], fates


def test_atoms_that_split_merge_or_turn_are_told_from_lost_ones():
    first, second, fates = runs_that_differ()
    found = subspace_agreement(first, second)
    assert found.fate.tolist() == fates
    # Those of one group share a span, and no other atom has a group.
    groups = [np.flatnonzero(found.group == i).tolist() for i in range(3)]
    assert sorted(groups) == [[8, 9], [10], [11, 12]]
    assert (found.group[[*range(8), 13, 14, 15]] == -1).all()
    assert found.agreement[8:13].min() > 0.95
    assert found.agreement[13:].max() < 0.5
    # What splits in one direction merges in the other.
    fates = subspace_agreement(second, first).fate.tolist()
    assert fates == ["lost"] * 3 + ["turns"] * 2 + ["merges"] * 2 + ["splits"] + (
        ["returns"] * 8
    )


@pytest.mark.parametrize("n_features", [3, 4, 16])
def test_atoms_of_random_dictionaries_are_in_no_span(n_features):
    # In three dimensions any three atoms span everything, in four nearly so.
    atoms, others = unit(2, 60, n_features)
    fate = subspace_agreement(atoms, others, tau=0.99).fate
    assert np.isin(fate, ["returns", "lost"]).mean() > 0.9


@pytest.mark.parametrize(
    ("rank", "n_features"), [(4, 64), (5, 256), (8, 64), (8, 256), (16, 256)]
)
def test_empty_dimensions_tell_no_fate(rank, n_features):
    """Random atoms of few dimensions are lost there, and among many others, too."""
    atoms, others = unit(2, 64, rank)
    turned = ortho_group.rvs(n_features, random_state=0)[:rank]
    fates = subspace_agreement(atoms, others).fate
    among_others = subspace_agreement(atoms @ turned, others @ turned).fate
    gone = fates != "returns"
    np.testing.assert_array_equal(gone, among_others != "returns")
    for found in (fates, among_others):
        assert np.mean(found[gone] == "lost") > 0.75


def test_atoms_are_sought_in_spans_by_matching_pursuit(monkeypatch):
    atoms, others = unit(2, 40, 12)
    # In blocks of seven atoms.
    monkeypatch.setattr(_subspaces, "PRODUCTS_AT_ONCE", 7 * 40)
    chosen, cosines = _subspaces._pursued(atoms, others, 3)
    for n in (1, 2, 3):
        coefficients = orthogonal_mp(others.T, atoms.T, n_nonzero_coefs=n).T
        for support, picked in zip(coefficients != 0, chosen[:, :n], strict=True):
            assert set(np.flatnonzero(support)) == set(picked)
        # Of unit atoms: what is in the span, and what is left.
        expected = np.linalg.norm(coefficients @ others, axis=1)
        np.testing.assert_allclose(cosines[:, n - 1], expected, atol=1e-12)


def test_copies_of_an_atom_span_no_more_than_it():
    axes = np.eye(4)
    atom, copies = (axes[:1] + axes[1]) / np.sqrt(2), np.repeat(axes[:1], 3, axis=0)
    _, cosines = _subspaces._pursued(atom, copies, 3)
    np.testing.assert_allclose(cosines, [[np.sqrt(0.5)] * 3])


def test_a_span_is_not_that_of_one_atom_and_some_other():
    axes = np.eye(32)
    # Its negative is another feature.
    assert subspace_agreement(-axes[:1], axes[:3]).fate.tolist() == ["lost"]
    assert subspace_agreement(-axes[:3], axes[:3]).fate.tolist() == ["lost"] * 3
    # Spans that need not be close are wider, and nothing else.
    for least in (0.5, 0.7, 0.9):
        found = subspace_agreement(axes[:1] + axes[1], axes[:2], span_tau=least)
        assert found.fate.tolist() == ["splits"]
        # One atom is no span, and what splits is in that of both.
        np.testing.assert_allclose(found.agreement, 1)
    near, others = axes[:1] + axes[1] / 4, axes[[0, 5, 6]]
    assert subspace_agreement(near, others, tau=0.99).fate.tolist() == ["lost"]


def test_spans_are_of_three_atoms_at_most_and_close_as_documented():
    axes = np.eye(32)
    for n, fate in [(3, "splits"), (4, "lost")]:
        whole = axes[:n].sum(0, keepdims=True)
        assert subspace_agreement(whole, axes[:4]).fate.tolist() == [fate]
    assert subspace_agreement(whole, axes[:4], max_atoms=4).fate.tolist() == ["splits"]
    # Of three atoms, random combinations come nearer than that.
    shared = axes[10:]
    for within, fate in [(0.96, "splits"), (0.94, "lost")]:
        inside = within * (axes[:1] + axes[1]) / np.sqrt(2)
        near = inside + (1 - within**2) ** 0.5 * axes[9]
        found = subspace_agreement([*near, *shared], [*axes[:2], *shared])
        assert found.fate.tolist() == [fate] + ["returns"] * len(shared)


def test_two_atoms_with_one_direction_do_not_turn():
    axes = np.eye(32)
    whole = np.repeat(axes[:1] + axes[1], 2, axis=0)
    assert subspace_agreement(whole, axes[:2]).fate.tolist() == ["splits"] * 2
    found = subspace_agreement(axes[:2], whole)
    assert found.fate.tolist() == ["merges"] * 2
    np.testing.assert_allclose(found.agreement, 1)


def test_one_atom_has_no_span_to_be_in():
    assert subspace_agreement([[1.0, 0.0]], [[0.0, 1.0]]).fate.tolist() == ["lost"]
    assert subspace_agreement([[1.0, 0.0]], [[1.0, 0.0]]).fate.tolist() == ["returns"]


# Several SAEs, compared.


def of_unit_norm(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def three():
    """Dictionaries of 30, 20 and 700 atoms: the second has ten of the first."""
    draw = np.random.default_rng(0)
    first = draw.standard_normal((30, 12))
    second = np.concatenate([2 * first[:10], draw.standard_normal((10, 12))])
    return {"a": first, "b": second, "c": draw.standard_normal((700, 12))}


def test_comparison_is_that_of_all_pairs(three):
    frame = compare(three, verbose=0)
    assert frame.index.names == ["sae", "atom"]
    assert len(frame) == 30 + 20 + 700
    for name, atoms in three.items():
        others = [other for other in three if other != name]
        cosines = {o: of_unit_norm(atoms) @ of_unit_norm(three[o]).T for o in others}
        null = {o: random_agreement(12, len(three[o])) for o in others}
        level = {o: null[o] + 0.75 * (1 - null[o]) for o in others}
        rows = frame.loc[name]
        for other in others:
            np.testing.assert_allclose(
                rows[f"cosine {other}"], cosines[other].max(1), atol=1e-12
            )
            np.testing.assert_array_equal(
                rows[f"atom {other}"], cosines[other].argmax(1)
            )
        agreement = np.mean([cosines[o].max(1) for o in others], axis=0)
        np.testing.assert_allclose(rows["agreement"], agreement, atol=1e-12)
        again = np.mean([cosines[o].max(1) > level[o] for o in others], axis=0)
        np.testing.assert_array_equal(rows["found"], again)
        mean_level = np.mean(list(level.values()))
        np.testing.assert_array_equal(rows["trusted"], agreement > mean_level)
        assert rows[f"cosine {name}"].isna().all()
        assert (rows[f"atom {name}"] == -1).all()
        assert frame.attrs["null"][name] == pytest.approx(np.mean(list(null.values())))
        assert frame.attrs["level"][name] == pytest.approx(mean_level)
    assert (frame.loc["a", "found"][:10] >= 0.5).all()


def test_an_atom_is_found_where_it_is_above_the_level_of_that_sae():
    """The level is lower for two atoms than for 400, and what is between differs."""
    atom, rest = np.eye(16)[:1], np.hstack([np.zeros((399, 1)), unit(399, 15)])
    levels = [(3 + random_agreement(16, n)) / 4 for n in (2, 400)]
    between = (levels[0] + np.mean(levels)) / 2
    near = between * atom + (1 - between**2) ** 0.5 * rest[:1]
    saes = {"one": atom, "few": [*near, rest[1]], "many": [*near, *rest]}
    (row,) = compare(saes, verbose=0).loc["one"].to_dict("records")
    assert (row["found"], row["trusted"]) == (0.5, False)


def test_comparison_of_independent_saes_says_how_likely_one_more_has_an_atom():
    # The first 40 atoms are in all of them.
    dictionaries = unit(4, 60, 30)
    dictionaries[:, :40] = dictionaries[0, :40]
    frame = compare(dictionaries[:3], verbose=0)
    estimator = estimator_with(dictionaries[:1], dictionaries[1:3])
    expected, _ = reappearance(estimator)
    probability = frame.loc["0", "reappearance"].to_numpy()
    np.testing.assert_allclose(probability, expected, atol=1e-12)
    in_the_fourth = nearest_atoms(dictionaries[0], dictionaries[3])[0] >= 0.8
    np.testing.assert_allclose(probability, in_the_fourth, atol=0.03)
    # Two cannot tell.
    assert compare(dictionaries[:2], verbose=0)["reappearance"].isna().all()


def test_nearest_atoms_are_the_same_in_small_blocks(three, monkeypatch):
    expected = compare(three, verbose=0)
    monkeypatch.setattr("skmfr._sae.pairing.COSINES_AT_ONCE", 1)
    monkeypatch.setattr("skmfr._sae.pairing.MIN_ROWS", 7)
    monkeypatch.setattr("skmfr.agreement._comparing.ROWS", 9)
    pd.testing.assert_frame_equal(compare(three, verbose=0), expected)


def test_dictionaries_of_both_precisions_are_compared(three):
    mixed = three | {"a": three["a"].astype(np.float32)}
    columns = ["agreement", "cosine c"]
    expected = compare(three, verbose=0).loc["b", columns]
    found = compare(mixed, verbose=0).loc["b", columns]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_estimators_and_files_are_compared_like_their_atoms(tmp_path, three):
    saes = [
        MFRSparseAutoencoder(16, k=2, n_witnesses=0, max_steps=5, random_state=i).fit(
            three["c"]
        )
        for i in range(2)
    ]
    expected = compare([sae.components_ for sae in saes], verbose=0)
    to_sae_lens(saes[0], tmp_path / "folder")
    save(saes[1], tmp_path / "file")
    for given in (saes, [str(tmp_path / "folder"), tmp_path / "file"]):
        pd.testing.assert_frame_equal(compare(given, verbose=0), expected)


def test_pipelines_are_compared_in_the_data_that_enter_them(three):
    X = three["c"] * np.logspace(0, 2, 12)
    sae = MFRSparseAutoencoder(16, k=2, n_witnesses=0, max_steps=5, random_state=0)
    scaled, turned = (
        make_pipeline(step, clone(sae)).fit(X) for step in (StandardScaler(), PCA(10))
    )
    # Directions: without the means, which are added to samples.
    directions = {
        "scaled": scaled[-1].components_ * scaled[0].scale_,
        "turned": turned[-1].components_ @ turned[0].components_,
    }
    found = compare({"scaled": scaled, "turned": turned}, verbose=0)
    pd.testing.assert_frame_equal(found, compare(directions, verbose=0))
    # What has no way back is compared as it is, like a pipeline of one step.
    normed = [make_pipeline(*steps, sae.fit(X)) for steps in ([Normalizer()], [])]
    assert (compare(normed, verbose=0)["agreement"] > 1 - 1e-6).all()


def test_estimators_without_atoms_are_named(three):
    sae = MFRSparseAutoencoder(16, k=2)
    for unfitted in (sae, PretrainedSAE(), make_pipeline(StandardScaler(), sae)):
        with pytest.raises(NotFittedError):
            compare([three["a"], unfitted], verbose=0)
    scaler = StandardScaler().fit(three["a"])
    with pytest.raises(TypeError, match=r"saes\['1'\] is of type StandardScaler"):
        compare([three["a"], scaler], verbose=0)
    # Not for its steps.
    with pytest.raises(ValueError, match="at least 2 SAEs, got one: Pipeline"):
        compare(make_pipeline(scaler, sae), verbose=0)


TENSORS = {
    "tensor": lambda array: torch.from_numpy(array),
    "parameter": lambda array: torch.nn.Parameter(torch.from_numpy(array)),
    "bfloat16": lambda array: torch.from_numpy(array).bfloat16(),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_any_kind_are_compared_like_arrays(three, kind):
    tensors = {name: TENSORS[kind](array) for name, array in three.items()}
    dtype = np.float32 if kind == "bfloat16" else np.float64
    arrays = {n: each.detach().to("cpu", torch.float64).numpy().astype(dtype)
              for n, each in tensors.items()}  # fmt: skip
    found, expected = (compare(each, verbose=0) for each in (tensors, arrays))
    pd.testing.assert_frame_equal(found, expected)
    for function in (
        lambda a, b, c: feature_agreement(a, [b, c]),
        lambda a, b, c: nearest_atoms(a, b),
        lambda a, b, c: mmcs(a, c),
        lambda a, b, c: matched_cosine(a[:20], b),
        lambda a, b, c: shared_fraction(a[:20], b),
        lambda a, b, c: pw_mcc([a[:20], b, c[:20]]),
        lambda a, b, c: subspace_agreement(a, b).agreement,
        lambda a, b, c: recall_precision(a, b),
        lambda a, b, c: fvu(a[:20], b),
    ):
        found, expected = (function(*each.values()) for each in (tensors, arrays))
        np.testing.assert_array_equal(found, expected)


def test_time_is_told_before_and_silence_is_kept(three, capsys):
    compare(three, verbose=0)
    assert capsys.readouterr().err == ""
    compare(three)
    told = capsys.readouterr().err
    # However long a busy machine takes.
    assert re.match(r"Comparing 3 SAEs of 30, 20, 700 atoms: about \d+ s on ", told)
    assert "100%" in told


@pytest.mark.parametrize(
    ("saes", "message"),
    [
        ([np.eye(3)], "saes must hold at least 2 SAEs, got 1"),
        ("folder", "at least 2 SAEs, got one: 'folder'"),
        ([np.eye(3), np.eye(4)], r"saes\['1'\] has shape \(4, 4\), expected \(n_ato"),
        ([np.eye(3), np.ones(3)], r"saes\['1'\] has shape \(3,\)"),
        ([np.eye(3), np.full((2, 3), np.nan)], r"saes\['1'\] contains NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(saes, message):
    with pytest.raises(ValueError, match=message):
        compare(saes, verbose=0)
