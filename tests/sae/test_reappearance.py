"""Probabilities of return, where how often features are found is known."""

from itertools import combinations, permutations

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from skmfr._sae.reappearance import (
    binned,
    largest_set,
    reappearance_in_fit,
    trusted,
)
from skmfr._sae.reappearance import reappearance as of_runs

N_FEATURES = 200
N_ALWAYS = N_SOMETIMES = 150
# What a feature that is found differs by from itself in another run.
SPREAD = 0.03


def runs(n_runs, seed=0, missing=0.5):
    """Dictionaries that have 150 features always, and lack 150 each with a probability.

    Atoms are random in the place of features that are missed.
    """
    rng = np.random.default_rng(seed)
    n_true = N_ALWAYS + N_SOMETIMES
    truth = normalize(rng.standard_normal((n_true, N_FEATURES)))
    for share in np.broadcast_to(missing, n_runs):
        atoms = truth + SPREAD * rng.standard_normal(truth.shape)
        missed = rng.random(n_true) < share
        missed[:N_ALWAYS] = False
        atoms[missed] = rng.standard_normal((missed.sum(), N_FEATURES))
        yield normalize(atoms)


def reappearance(group, witnesses, tau=0.8, disjoint=False):
    """Of the first of the group."""
    witnesses = np.reshape(witnesses, (-1, *np.shape(group)[1:]))
    return reappearance_in_fit(0, np.array(group), witnesses, tau, disjoint)


def found(atoms, others, tau=0.8):
    return (atoms @ others.T).max(1) >= tau


def test_ranks_count_if_witnesses_are_less_alike_than_the_group_is_to_them():
    rng = np.random.default_rng(0)
    likely = rng.random((3, 2000))
    nearest = {}
    for run, probability in enumerate(likely):
        returns = rng.random((3, 2000)) < probability
        # The group is run 0, the witnesses are 1 and 2, and the third is independent.
        for other in {0, 1, 2, 3} - {run}:
            nearest[run, other] = np.where(returns[other - 1], 0.9, 0.7)
    nearest[1, 2], nearest[2, 1] = likely[1] / 2, likely[2] / 2
    nearest[0, 1], nearest[0, 2] = likely[0], likely[0]
    arguments = nearest, 0, [0, 3], [1, 2], 0.8
    by_ranks, deviation = of_runs(*arguments, disjoint=True)
    np.testing.assert_allclose(by_ranks, likely[0], atol=0.15)
    np.testing.assert_allclose(by_ranks.mean(), likely[0].mean(), atol=0.02)
    assert (deviation < 0.1).all()
    by_cosines, _ = of_runs(*arguments)
    assert by_cosines.mean() > likely[0].mean() + 0.2


def test_ranks_tell_what_cosines_tell_if_they_are_alike():
    *dictionaries, fresh = runs(6)
    group, witnesses = dictionaries[:3], dictionaries[3:]
    probability, deviation = reappearance(group, witnesses, disjoint=True)
    by_cosines, _ = reappearance(group, witnesses)
    np.testing.assert_allclose(probability.mean(), by_cosines.mean(), atol=0.02)
    assert abs(probability.mean() - found(group[0], fresh).mean()) < 0.05
    assert (deviation >= 0).all()
    # Equal atoms have equal probabilities.
    same = np.repeat(group[0][:1], 300, axis=0)
    assert len(set(reappearance([same] * 3, witnesses, disjoint=True)[0])) == 1


@pytest.mark.parametrize(("n_saes", "n_witnesses"), [(3, 1), (2, 1), (1, 2), (3, 2)])
def test_probabilities_are_the_frequencies_of_return(n_saes, n_witnesses):
    *dictionaries, fresh = runs(n_saes + n_witnesses + 1)
    group, witnesses = dictionaries[:n_saes], dictionaries[n_saes:]
    probability, deviation = reappearance(group, witnesses)
    n_seen = sum(found(group[0], each).astype(int) for each in witnesses)
    # Of a feature that one run has and another one has as well: there are 150, and a
    # quarter of 150 in both, of which a third run has half.
    both = (N_ALWAYS + N_SOMETIMES / 8) / (N_ALWAYS + N_SOMETIMES / 4)
    seen = n_seen == n_witnesses
    np.testing.assert_allclose(probability[seen].mean(), both, atol=0.04)
    # Features that the witness has missed: half of them return, but for random atoms.
    missed = n_seen == 0
    quarter = N_SOMETIMES / 4
    lost = quarter / 2 / (quarter + N_SOMETIMES / 2)
    np.testing.assert_allclose(probability[missed].mean(), lost, atol=0.08)
    # As an independent run has it.
    returns = found(group[0], fresh)
    assert abs(probability.mean() - returns.mean()) < 0.05
    assert (deviation >= 0).all()
    assert 0 < deviation[seen].mean() < 0.1


def test_group_that_the_penalty_made_one_says_no_more_than_one():
    first, *witnesses = runs(3)
    probability, _ = reappearance([first] * 3, witnesses)
    alone, _ = reappearance([first], witnesses)
    # From fewer pairs, which are the same runs.
    np.testing.assert_allclose(probability.mean(), alone.mean(), atol=0.03)
    # With one witness there is nothing else to see what returns in.
    coupled, _ = reappearance([first] * 3, witnesses[:1])
    assert coupled.max() > 0.99 > probability.max()


def test_atoms_return_in_groups_even_if_half_of_them_do_in_witnesses():
    # The penalty, and atoms that are given on, let a group find all features.
    *group, one, other = runs(5, missing=[0, 0, 0, 0.5, 0.5])
    probability, _ = reappearance(group, [one, other])
    known = found(group[0], one) & found(group[0], other)
    np.testing.assert_allclose(probability[known], 1, atol=0.02)


@pytest.mark.parametrize(("n_saes", "n_witnesses"), [(3, 0), (1, 1), (1, 0)])
def test_too_few_runs_tell_nothing(n_saes, n_witnesses):
    *dictionaries, last = runs(max(1, n_saes + n_witnesses))
    group, witnesses = ([*dictionaries, last])[:n_saes], [last][:n_witnesses]
    for numbers in reappearance(group, witnesses):
        assert numbers.shape == (len(last),)
        assert np.isnan(numbers).all()


@pytest.mark.parametrize("n_atoms", [1, 5])
def test_identical_atoms_return_as_surely_as_so_few_can_tell(n_atoms):
    atoms = np.tile(normalize([[1.0, 2.0, 3.0]]), (n_atoms, 1))
    probability, deviation = reappearance([atoms] * 3, [atoms])
    # Beside n that return there is one that does half the time.
    np.testing.assert_allclose(probability, (n_atoms + 0.5) / (n_atoms + 1))
    np.testing.assert_allclose(deviation, 0.0, atol=1e-12)


def test_deviation_is_that_of_a_jackknife_over_what_atoms_return_in():
    """Closed form: cosines of 0.9 and 0.7, and so one frequency for each."""
    rng = np.random.default_rng(0)
    usual = rng.random(400) < 0.5
    pairs = list(permutations(range(3), 2))
    flips = rng.random((6, 400)) < np.array([0, 0, 0.2, 0.1, 0.3, 0.05])[:, None]
    high = {pair: usual ^ flip for pair, flip in zip(pairs, flips, strict=True)}
    nearest = {pair: np.where(each, 0.9, 0.7) for pair, each in high.items()}
    probability, deviation = of_runs(nearest, 0, [0], [1, 2], 0.8)

    def without(left_out):
        """Of atoms seen in one run that return in a third, and one that half does."""
        trios = [(w, *rest) for w, *rest in permutations(range(3)) if w]
        trios = [(w, other, i) for w, other, i in trios if i != left_out]
        both = sum(np.sum(high[w, other] & high[w, i]) for w, other, i in trios)
        seen = sum(np.sum(high[w, other]) for w, other, _ in trios)
        return (2 / len(trios) * both + 0.5) / (2 / len(trios) * seen + 1)

    left = np.array([without(run) for run in range(3)])
    np.testing.assert_allclose(probability[usual], without(None))
    expected = np.sqrt(2 / 3 * np.square(left - left.mean()).sum())
    np.testing.assert_allclose(deviation[usual], expected)
    assert expected > 0.01


@pytest.mark.parametrize(
    ("deviation", "agreement", "expected"),
    [(0.01, 0.9, True), (0.03, 0.9, False), (0.01, 0.5, False)],
)
def test_atoms_are_trusted_less_their_deviation_and_above_chance(
    deviation, agreement, expected
):
    """1 - 0.97 + 0.03 is more than 0.05; of 30 atoms one is at 0.6 by chance."""
    equal = np.ones(30)
    found = trusted(
        0.97 * equal, deviation * equal, agreement * equal, equal / 24, 24, 0.05
    )
    assert (found == expected).all()


def test_of_equally_likely_atoms_those_that_agree_more_come_first():
    chosen = largest_set(np.array([0.9, 0.9, 1.0]), np.array([0.7, 0.8, 0.9]), 0.05)
    assert chosen.tolist() == [False, True, True]


def test_largest_set_is_the_largest_of_all():
    rng = np.random.default_rng(0)
    for fdr in (0.0, 0.05, 0.3, 1.0):
        probability = rng.choice([0.2, 0.8, 0.95, 1.0, np.nan], 9)
        agreement = rng.random(9)
        known = np.flatnonzero(~np.isnan(probability))
        most = max(
            n
            for n in range(len(known) + 1)
            for chosen in combinations(known, n)
            if n == 0 or np.mean(1 - probability[list(chosen)]) <= fdr + 1e-12
        )
        chosen = largest_set(probability, agreement, fdr)
        assert chosen.sum() == most
        # Of atoms of the same probability those come first that agree more.
        for level in (0.2, 0.8, 0.95):
            inside = agreement[(probability == level) & chosen]
            outside = agreement[(probability == level) & ~chosen]
            assert not inside.size or not outside.size or inside.min() > outside.max()


@pytest.mark.parametrize(("n", "probability", "fdr"), [(9, 0.95, 0.05), (20, 0.8, 0.2)])
def test_a_set_exactly_at_the_rate_is_chosen(n, probability, fdr):
    """1 - 0.95 is a little more than 0.05 in floating point."""
    assert largest_set(np.full(n, probability), np.ones(n), fdr).all()


def test_bins_hold_mean_probabilities_and_frequencies():
    probability = np.array([0.0, 0.05, 0.52, 0.58, 0.55, 1.0])
    returns = np.array([0, 1, 1, 1, 0, 1], dtype=bool)
    mean, share, n_atoms = binned(probability, returns)
    np.testing.assert_allclose(mean, [0.025, 0.55, 1.0])
    np.testing.assert_allclose(share, [0.5, 2 / 3, 1.0])
    assert n_atoms.tolist() == [2, 3, 1]
