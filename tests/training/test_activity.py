"""What is kept of the activity of atoms, against a history of all steps."""

import numpy as np
import pytest
import torch

from skmfr._training import activity
from skmfr._training.activity import Activity, atoms_where, mask_of

N_MEMBERS, N_COMPONENTS, RATE = 3, 7, 0.25


def at_start():
    return Activity.at_start(torch.zeros(N_MEMBERS, N_COMPONENTS), RATE)


def history(n_steps, seed=0):
    """Rates of each step, most of them 0."""
    rng = np.random.default_rng(seed)
    shape = n_steps, N_MEMBERS, N_COMPONENTS
    rates = rng.random(shape) * (rng.random(shape) < 0.2)
    return torch.from_numpy(rates).float()


def after(n_steps):
    kept, rates = at_start(), history(n_steps)
    for each in rates:
        kept.renew(each)
    return kept, rates


@pytest.mark.parametrize("window", [1, 3, 10, 30])
def test_dead_atoms_are_active_in_no_step_of_the_window(window):
    kept, rates = after(30)
    expected = (rates[-window:] == 0).all(0)
    assert torch.equal(kept.dead_in(window), expected)


def test_rates_forget_exponentially():
    kept, rates = after(30)
    weights = (1 - 1 / activity.RATE_MEMORY) ** np.arange(30)[::-1]
    expected = RATE * (1 - 1 / activity.RATE_MEMORY) ** 30
    expected += np.tensordot(weights / activity.RATE_MEMORY, rates.numpy(), 1)
    np.testing.assert_allclose(kept.rates, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("samples_of_average", "window"),
    [
        (100.0, activity.DEAD_AFTER_STEPS),
        (4.0, 10),
        (3.9, 11),
        (activity.DEAD_AFTER_SAMPLES / 20, 20),
    ],
)
def test_window_of_the_auxiliary_loss_counts_samples(samples_of_average, window):
    kept, rates = after(30)
    kept.look_for_dead([samples_of_average, 100.0, samples_of_average])
    expected = (rates[-window:] == 0).all(0)
    expected[1] = (rates[-activity.DEAD_AFTER_STEPS :, 1] == 0).all(0)
    assert torch.equal(mask_of(kept.dead, N_COMPONENTS), expected)


def test_what_is_forgotten_begins_anew():
    kept, _ = after(30)
    kept.idle[:] = 50
    kept.look_for_dead([40.0] * N_MEMBERS)
    kept.forget_atoms(1, torch.tensor([2, 5]))
    kept.forget_member(2, 0.5)
    alive = mask_of([torch.arange(0), torch.tensor([2, 5]), torch.arange(7)], 7)
    assert torch.equal(~mask_of(kept.dead, N_COMPONENTS), alive)
    assert torch.equal(kept.idle == 0, alive)
    assert (kept.rates[2] == 0.5).all()
    assert not (kept.rates[:2] == 0.5).any()


def test_masks_and_atoms_are_inverse():
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(mask_of(atoms_where(mask), 9), mask)
