"""Schedules against their closed forms."""

from math import cos, pi

import numpy as np
import pytest

from skmfr._training.schedule import ENCODER_PENALTY, SETTLED, Plateau, Schedule

LENGTHS = [1, 2, 3, 7, 19, 100, 1000, 1001]


@pytest.mark.parametrize("n_steps", LENGTHS)
def test_learning_rate_rises_stays_and_falls_linearly(n_steps):
    schedule = Schedule.over(n_steps, anneal_k=True)
    rising = max(1, int(0.05 * n_steps))
    falling = int(0.5 * n_steps)
    for step in range(n_steps):
        expected = min(1, (step + 1) / rising)
        if step >= n_steps - falling:
            expected = (n_steps - step) / falling
        assert schedule.learning_rate(step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n_steps", LENGTHS)
def test_learning_rate_is_positive_at_most_one_and_one_at_some_step(n_steps):
    schedule = Schedule.over(n_steps, anneal_k=False)
    rates = [schedule.learning_rate(step) for step in range(n_steps)]
    assert min(rates) > 0
    assert max(rates) == 1


def test_penalty_rises_with_the_final_fall_and_is_gone_before_the_end():
    schedule = Schedule.over(400, anneal_k=True)
    for step in range(400):
        risen = min(max(0, step + 1 - 200) / 20, 1)
        # The learning rate falls over steps 200 to 400, the penalty over a fifth.
        released = min(max(0, (320 - step) / 40), 1)
        expected = (1 - cos(pi * risen)) / 2 * released
        assert schedule.alpha(step) == pytest.approx(expected, abs=1e-12)


def test_penalty_on_encoders_follows_the_learning_rate_and_the_use_of_atoms(
    make_settings,
):
    schedule = Schedule.over(400, anneal_k=True)
    settings = make_settings(n_components=20, k=5)
    for step in (0, 100, 300, 399):
        found = schedule.stage(step, settings).encoder_penalty
        expected = ENCODER_PENALTY * 5 / 20 * schedule.learning_rate(step)
        assert found == pytest.approx(expected, rel=1e-12)
    tied = make_settings(n_components=20, k=5, tied=True)
    assert schedule.stage(100, tied).encoder_penalty == 0


def test_pursuit_is_the_last_fifth():
    schedule = Schedule.over(400, anneal_k=True)
    on = [step for step in range(400) if schedule.finishing(step)]
    assert on == list(range(320, 400))
    assert not any(Schedule.constant(400).finishing(step) for step in range(400))


def test_samples_share_their_atoms_in_the_last_fifth_and_in_later_calls(make_settings):
    settings = make_settings(activation="batchtopk")

    def shared(schedule, settings):
        stages = (schedule.stage(step, settings) for step in range(schedule.n_steps))
        return [stage.activation == "batchtopk" for stage in stages]

    anew = Schedule.over(400, anneal_k=True)
    assert shared(anew, settings) == [step >= 320 for step in range(400)]
    assert not any(shared(anew, make_settings()))
    for continued in (
        Schedule.over(400, anneal_k=False),
        Schedule.constant(400),
        Schedule.settled(400, 256),
    ):
        assert all(shared(continued, settings))


def test_penalty_of_a_second_fit_rises_at_once():
    schedule = Schedule.over(400, anneal_k=False)
    assert schedule.alpha(0) > 0
    assert schedule.alpha(20) == pytest.approx(1)
    assert schedule.alpha(399) == 0


@pytest.mark.parametrize("n_steps", [2, 3, 4, 5])
def test_the_first_half_of_the_shortest_fits_has_no_penalty(n_steps):
    schedule = Schedule.over(n_steps, anneal_k=True)
    assert not any(schedule.alpha(step) for step in range((n_steps + 1) // 2))


@pytest.mark.parametrize(("k", "n_components"), [(4, 100), (4, 6), (4, 4), (1, 50)])
def test_k_falls_from_twice_its_value_in_a_fifth_of_the_steps(k, n_components):
    schedule = Schedule.over(200, anneal_k=True)
    start = min(2 * k, n_components)
    found = [schedule.k(step, k, n_components) for step in range(200)]
    expected = [round(start + (k - start) * step / 40) for step in range(40)]
    assert found == expected + 160 * [k]


def test_k_is_constant_without_annealing():
    schedule = Schedule.over(50, anneal_k=False)
    assert {schedule.k(step, 5, 100) for step in range(50)} == {5}


def test_constant_schedule_changes_nothing():
    schedule = Schedule.constant(30)
    for step in range(30):
        assert schedule.learning_rate(step) == 1
        assert schedule.alpha(step) == pytest.approx(1)
        assert schedule.k(step, 5, 100) == 5
        assert not schedule.falls_at(step + 1)


def test_final_fall_begins_with_its_first_step():
    schedule = Schedule.over(100, anneal_k=True)
    # After so many steps.
    assert [step for step in range(101) if schedule.falls_at(step)][0] == 51


@pytest.mark.parametrize("step", [1, 40, 100, 300])
def test_early_fall_is_that_of_a_schedule_of_twice_the_steps(step):
    planned = Schedule.over(1000, anneal_k=True)
    early, shorter = planned.fall_from(step), Schedule.over(2 * step, anneal_k=True)
    assert early.n_steps == shorter.n_steps == 2 * step
    for each in range(step, 2 * step):
        assert early.learning_rate(each) == shorter.learning_rate(each)
        assert early.alpha(each) == shorter.alpha(each)
        assert early.k(each, 5, 100) == 5


def test_early_fall_ends_no_later_than_planned():
    schedule = Schedule.over(100, anneal_k=False).fall_from(90)
    assert schedule.n_steps == 100
    assert schedule.learning_rate(99) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("losses", "ends"),
    [
        ([1.0, 0.5, 0.2], [False, False, False]),
        ([1.0, 0.95, 0.92], [False, False, True]),  # gains below tol
        ([1.0, 1.0, 0.5, 0.5, 0.5], [False, False, False, False, True]),
        ([1.0, 2.0, 3.0], [False, False, True]),
        # A slow fall gains on the best loss so far, never on the last one alone.
        ([1.0, 2.0, 1.5], [False, False, True]),
    ],
)
def test_plateau_ends_after_patience_losses_without_gain(losses, ends):
    plateau = Plateau(tol=0.1, patience=2)
    assert [plateau.ends_with(loss) for loss in losses] == ends


def test_plateau_counts_anew_after_its_end():
    plateau = Plateau(tol=0.1, patience=2)
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    ends = [False, False, True, False, True, False, False, True]
    assert [plateau.ends_with(loss) for loss in losses] == ends


@pytest.mark.parametrize("n_steps", [1, 2, 30])
def test_settled_schedule_is_the_last_of_a_final_fall(n_steps):
    schedule = Schedule.settled(n_steps, 256)
    rates = [schedule.learning_rate(step) for step in range(n_steps)]
    expected = SETTLED * np.arange(n_steps, 0, -1) / n_steps
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    for step in range(n_steps):
        assert schedule.alpha(step) == 0
        assert schedule.k(step, 5, 100) == 5
        assert schedule.finishing(step)
        assert schedule.falls_at(step)
    # The noise of a gradient falls with the root of the samples.
    few = Schedule.settled(n_steps, 16)
    assert few.learning_rate(0) == pytest.approx(SETTLED / 4, rel=1e-2)
    assert Schedule.settled(n_steps, 4096) == schedule
