"""Reinitialisation and resampling where the right answer has a closed form."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import skmfr._training.revive
from skmfr._data.batches import Batches
from skmfr._data.standardiser import Standardiser
from skmfr._training.initial import initial_atoms, untrained
from skmfr._training.revive import (
    activity_skewness,
    reinitialise_skewed,
    revive,
    transplant_shared,
)
from skmfr._training.schedule import Plateau, Schedule
from skmfr._training.state import new_state

N_FEATURES = 6


def random_data(n_samples=200):
    return np.random.default_rng(0).standard_normal((n_samples, N_FEATURES))


def fresh(settings, X=None):
    """A state before the first step, and where it came from."""
    X = random_data() if X is None else X
    batches = Batches(X, np.arange(len(X)), 50, True, settings.seed)
    standardiser = Standardiser.of(X)
    state = new_state(untrained(standardiser, settings), settings)
    return state, batches, standardiser


def test_skewness_of_equal_use_is_zero():
    rates = torch.full((3, 40), 0.1, dtype=torch.float64)
    torch.testing.assert_close(activity_skewness(rates, 0.1), torch.zeros(3).double())


def test_skewness_equals_its_formula():
    rates = np.random.default_rng(0).uniform(0, 0.3, (4, 50))
    expected = [np.mean([(abs(r - 0.1) / 0.1) ** 3 for r in row]) for row in rates]
    found = activity_skewness(torch.from_numpy(rates), 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_one_busy_atom_exceeds_the_threshold_of_the_authors():
    # One atom of 512 active 30 % of the time with k = 8, the others alike.
    target = 8 / 512
    rates = torch.full((512,), (8 - 0.3) / 511, dtype=torch.float64)
    rates[0] = 0.3
    expected = ((0.3 - target) / target) ** 3 / 512
    assert float(activity_skewness(rates, target)) == pytest.approx(expected, rel=1e-4)
    assert 11.7 < expected < 11.8


def test_only_saes_above_the_threshold_start_anew(make_settings):
    settings = make_settings(n_saes=3, n_witnesses=1, reinit_threshold=1.0)
    state, _, standardiser = fresh(settings)
    target = settings.k / settings.n_components
    # |rate - target| / target is 1, 0.9, 1.1 and 5: skewness 1, 0.73, 1.33 and 125.
    for i, factor in enumerate([2.0, 1.9, 2.1, 6.0]):
        state.activity.rates[i] = factor * target
    before = state.ensemble.decoder.clone()
    reinitialise_skewed(state, standardiser, settings, target)

    np.testing.assert_array_equal(state.n_reinits, [0, 0, 1, 1])
    assert torch.equal(state.ensemble.decoder[:2], before[:2])
    for i in (2, 3):
        atoms = initial_atoms(standardiser, settings, i, attempt=1)
        assert not torch.equal(atoms, before[i])
        assert torch.equal(state.ensemble.decoder[i], atoms)
        assert torch.equal(state.ensemble.encoder[i], atoms)


def test_sae_starts_anew_three_times_at_most_and_differently(make_settings):
    settings = make_settings(n_saes=2, reinit_threshold=2.0)
    state, _, standardiser = fresh(settings)
    starts = [state.ensemble.decoder[0].clone()]
    for _ in range(5):
        state.activity.rates[0] = 1.0
        reinitialise_skewed(state, standardiser, settings, target=0.1)
        starts.append(state.ensemble.decoder[0].clone())
    np.testing.assert_array_equal(state.n_reinits, [3, 0])
    # The same again once no attempt is left, different ones before.
    distinct = {start.numpy().tobytes() for start in starts}
    assert len(distinct) == 3 + 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("threshold", [None, 1e300])
def test_without_a_threshold_in_reach_no_sae_starts_anew(make_settings, threshold):
    # The larger one is beyond float32.
    settings = make_settings(reinit_threshold=threshold, dtype=torch.float32)
    state, _, standardiser = fresh(settings)
    state.activity.rates[:] = 1.0
    before = state.ensemble.decoder.clone()
    reinitialise_skewed(state, standardiser, settings, target=0.1)
    assert torch.equal(state.ensemble.decoder, before)
    assert not state.n_reinits.any()


def sharing(settings, least_cosine=0.6):
    """A group that has the same orthonormal atoms, and the basis these are from.

    Atoms are matched if their cosine is more than that.
    """
    state, _, _ = fresh(settings)
    state.matches.least_cosine = least_cosine
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(N_FEATURES, N_FEATURES, generator=generator).double()
    basis = torch.linalg.qr(basis).Q
    state.ensemble.decoder[: settings.n_saes] = basis[: settings.n_components]
    return state, basis


def matched(state):
    for pair in state.matches.pairs:
        state.matches.renew(state.ensemble.decoder, pair)
    return state


def assert_gives_nothing(state, settings):
    before = state.ensemble.decoder.clone()
    transplant_shared(matched(state), settings)
    assert torch.equal(state.ensemble.decoder, before)


@pytest.mark.parametrize("i", [0, 1, 2])
def test_an_atom_that_two_saes_share_is_given_to_the_third(make_settings, i):
    settings = make_settings(n_components=4, n_saes=3, n_witnesses=1)
    state, basis = sharing(settings)
    state.ensemble.decoder[i, 2] = basis[5]  # nobody else's
    others = [j for j in range(3) if j != i]
    tilted = normalize(basis[2] + 0.1 * basis[4], dim=0)
    state.ensemble.decoder[others[0], 2] = tilted
    before = state.ensemble.decoder.clone()
    transplant_shared(matched(state), settings)
    mean = normalize(tilted + basis[2], dim=0)
    torch.testing.assert_close(state.ensemble.decoder[i, 2], mean)
    torch.testing.assert_close(state.ensemble.encoder[i, 2], mean)
    # And nothing else has changed.
    before[i, 2] = state.ensemble.decoder[i, 2]
    assert torch.equal(state.ensemble.decoder, before)


def test_what_all_have_or_only_one_has_is_not_given(make_settings):
    settings = make_settings(n_components=4, n_saes=3)
    state, basis = sharing(settings)
    for i in range(3):
        state.ensemble.decoder[i, 3] = basis[3 + i]
    assert_gives_nothing(state, settings)


@pytest.mark.parametrize(("cosine", "same"), [(0.8, 0), (0.989, 0), (0.991, 1)])
def test_atoms_that_are_alike_but_not_the_same_are_not_given(
    make_settings, cosine, same
):
    settings = make_settings(n_components=4, n_saes=3)
    state, basis = sharing(settings)
    state.ensemble.decoder[0, 2] = basis[5]
    # Matched, but the same only from 0.99 on.
    state.ensemble.decoder[1, 2] = cosine * basis[2] + (1 - cosine**2) ** 0.5 * basis[4]
    before = state.ensemble.decoder.clone()
    transplant_shared(matched(state), settings)
    changed = (state.ensemble.decoder != before).any(2)
    assert changed.nonzero().tolist() == [[0, 2]] * same


def test_the_least_active_atom_makes_room_and_few_at_once(make_settings):
    settings = make_settings(n_components=4, n_saes=3)
    state, basis = sharing(settings)
    state.ensemble.decoder[0, 2:] = basis[4:]  # it lacks two, and has two alone
    state.activity.rates[0] = torch.tensor([0.0, 0.0, 0.2, 0.1])
    transplant_shared(matched(state), settings)
    torch.testing.assert_close(state.ensemble.decoder[0, 2], basis[4])
    cosine = state.ensemble.decoder[0, 3] @ basis[2:4].T
    assert cosine.max() == pytest.approx(1.0)


def test_one_percent_of_the_atoms_is_given_at_once_every_hundred_steps(make_settings):
    settings = make_settings(n_components=200, n_saes=3, alpha=1.0)
    data = np.random.default_rng(0).standard_normal((300, 210))
    state, _, standardiser = fresh(settings, data)
    state.ensemble.decoder[:] = torch.eye(210)[:200]
    state.ensemble.decoder[0, 150:] *= -1  # it lacks 50
    state.begin(Schedule.constant(300), Plateau())
    matched(state)
    state.losses = torch.ones(300, 3)
    stage = state.schedule.stage(0, settings)
    given = {}
    for n_steps in range(1, 300):
        before = state.ensemble.decoder.clone()
        state.n_steps = state.step = n_steps
        revive(state, stage, standardiser, settings)
        n_changed = (state.ensemble.decoder != before).any(2).sum(1).tolist()
        if any(n_changed):
            given[n_steps] = n_changed
    assert given == {100: [2, 0, 0], 200: [2, 0, 0]}


@pytest.mark.parametrize("matching", ["hungarian", "max"])
def test_given_atoms_are_different_and_not_given_again(
    make_settings, monkeypatch, matching
):
    monkeypatch.setattr(skmfr._training.revive, "MAX_GIVEN", 0.5)
    settings = make_settings(n_components=6, n_saes=3, matching=matching)
    state, basis = sharing(settings, least_cosine=0.8)
    # The first SAE lacks three, and has mixtures that nobody has instead.
    state.ensemble.decoder[0, 3:] = normalize(basis[:3] - basis[[1, 2, 0]], dim=1)
    matched(state)
    transplant_shared(state, settings)
    found = state.ensemble.decoder[0] @ basis.T
    torch.testing.assert_close(found.abs().amax(1), torch.ones(6).double())
    assert sorted(found.argmax(1).tolist()) == list(range(6))
    # The matches know of it without being renewed.
    after = state.ensemble.decoder.clone()
    transplant_shared(state, settings)
    assert torch.equal(state.ensemble.decoder, after)


def test_what_another_sae_shares_is_not_given_up(make_settings):
    settings = make_settings(n_components=4, n_saes=4)
    state, basis = sharing(settings)
    # SAEs 1 and 2 share an atom that 0 lacks; of its own, the last is shared with 3.
    state.ensemble.decoder[0, 3] = basis[4]
    state.ensemble.decoder[3, 3] = basis[4]
    transplant_shared(matched(state), settings)
    torch.testing.assert_close(state.ensemble.decoder[0, 3], basis[4])


@pytest.mark.parametrize("n_saes", [1, 2])
def test_two_saes_give_each_other_nothing(make_settings, n_saes):
    settings = make_settings(n_components=4, n_saes=n_saes)
    state, _ = sharing(settings)
    state.ensemble.decoder[0, 0] *= -1
    assert_gives_nothing(state, settings)
