"""A step finds gradients, and then moves on."""

import pytest
import torch

from skmfr._data.standardiser import Standardiser
from skmfr._sae.encoder import encode, encode_batch
from skmfr._sae.pursuit import pursuit_codes
from skmfr._training.initial import untrained
from skmfr._training.objective import Gradients, reconstruction_
from skmfr._training.schedule import Plateau, Schedule, Stage
from skmfr._training.state import new_state, to_arrays
from skmfr._training.step import (
    Share,
    find_gradients,
    gradient_buffers,
    take_step,
)
from skmfr._utils.workers import Workers


@pytest.fixture
def problem(make_settings):
    """State of three SAEs, and a batch."""
    settings = make_settings(for_pursuit=True)
    X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).double().numpy()
    standardiser = Standardiser.of(X)
    state = new_state(untrained(standardiser, settings), settings)
    state.begin(Schedule.constant(10), Plateau())
    return state, standardiser(X.copy(), "cpu", settings.dtype)


@pytest.mark.parametrize("pursue", [False, True])
def test_finding_gradients_leaves_the_state_as_it_is(problem, pursue):
    state, X = problem
    before = {name: array.copy() for name, array in to_arrays(state).items()}
    room = gradient_buffers(state)
    find_gradients(state, X, Stage(3, "topk", 0.0, 0.01, pursue), room)
    for name, array in to_arrays(state).items():
        assert array.tobytes() == before[name].tobytes(), name


def test_a_step_writes_gradients_where_they_were_and_makes_none(problem, monkeypatch):
    state, X = problem
    room = gradient_buffers(state)
    places = [part.data_ptr() for part in room]
    made = []
    like = Gradients.like.__func__
    monkeypatch.setattr(
        Gradients, "like", classmethod(lambda *args: made.append(args) or like(*args))
    )
    for pursue in (False, True):
        take_step(state, X, Stage(3, "topk", 0.0, 0.01, pursue), room)
    assert [part.data_ptr() for part in room] == places
    assert not made


def test_pursuit_moves_decoders_and_the_encoder_its_own(problem):
    state, X = problem
    ensemble = state.ensemble
    room = gradient_buffers(state)
    found = find_gradients(state, X, Stage(3, "topk", 0.0, 0.01, pursue=True), room)
    X_centred = ensemble.centred(X)
    by_encoder, by_pursuit = Gradients.like(ensemble), Gradients.like(ensemble)
    codes = encode(X_centred, ensemble, 3)
    reconstruction_(by_encoder, X_centred, codes, ensemble, 8.0)
    pursued = pursuit_codes(X, ensemble, 3, positive=False)
    fvu, _ = reconstruction_(by_pursuit, X_centred, pursued, ensemble, 8.0)
    torch.testing.assert_close(found.fvu, fvu)
    torch.testing.assert_close(room.encoder, by_encoder.encoder)
    torch.testing.assert_close(room.encoder_bias, by_encoder.encoder_bias)
    torch.testing.assert_close(room.decoder, by_pursuit.decoder)
    torch.testing.assert_close(room.decoder_bias, by_pursuit.decoder_bias)


def test_samples_that_share_their_atoms_follow_the_codes_of_the_batch(problem):
    state, X = problem
    ensemble, room = state.ensemble, gradient_buffers(state)
    stage = Stage(3, "batchtopk", 0.0, 0.01, pursue=False)
    found = find_gradients(state, X, stage, room)
    codes = encode_batch(ensemble.centred(X), ensemble, 3)
    weights = [
        part.clone().requires_grad_()
        for part in (ensemble.encoder, ensemble.encoder_bias, ensemble.decoder)
    ]
    bias = ensemble.decoder_bias.clone().requires_grad_()
    encoder, encoder_bias, decoder = weights
    centred = X - bias[:, None]
    scores = centred @ encoder.mT + encoder_bias[:, None]
    own = torch.arange(3)[:, None] * ensemble.n_components
    active = torch.zeros(3, 64, ensemble.n_components, dtype=bool)
    indices = codes.indices.view(3, -1) - own
    rows = torch.arange(64).repeat_interleave(codes.indices.shape[1]).expand(3, -1)
    active[torch.arange(3)[:, None], rows, indices] = codes.values.view(3, -1) > 0
    assert active.sum((1, 2)).tolist() == [3 * 64] * 3
    assert len(set(active.sum(2).flatten().tolist())) > 2
    reconstructed = (scores * active) @ decoder + bias[:, None]
    fvu = (X - reconstructed).square().sum((1, 2)) / (64 * 8)
    fvu.sum().backward()
    torch.testing.assert_close(found.fvu, fvu.detach())
    for part, truth in zip(room, (*weights, bias), strict=True):
        torch.testing.assert_close(part, truth.grad)


@pytest.mark.parametrize("pursue", [False, True])
def test_penalty_on_encoders_is_a_share_of_the_fvu_of_each_member(problem, pursue):
    state, X = problem
    room = gradient_buffers(state)
    stage = Stage(3, "topk", 0.0, 0.01, pursue)
    found = find_gradients(state, X, stage, room)
    without = [part.clone() for part in room]
    find_gradients(state, X, stage._replace(encoder_penalty=0.5), room)
    active = (found.rates > 0)[:, :, None]
    more = 0.5 * found.fvu[:, None, None] * active * state.ensemble.encoder
    torch.testing.assert_close(room.encoder, without[0] + more)
    for part, before in zip(room[1:], without[1:], strict=True):
        assert torch.equal(part, before)


def gradients_of(state, X, pursue, **options):
    """What a step finds, by name, as copies."""
    room = gradient_buffers(state)
    found = find_gradients(
        state, X, Stage(3, "topk", 0.0, 0.01, pursue), room, **options
    )
    arrays = found._asdict() | room._asdict()
    return {name: array.clone() for name, array in arrays.items()}


@pytest.fixture
def shares():
    """Of the last two of three SAEs: disjoint, of different sizes."""
    rows = torch.arange(40), torch.arange(40, 64)
    return [Share(each, len(each)) for each in rows]


@pytest.mark.parametrize("pursue", [False, True])
def test_a_share_of_a_batch_is_a_batch_to_who_takes_it(problem, shares, pursue):
    state, X = problem
    state.activity.dead = [torch.tensor([0, 5])] * 3
    found = gradients_of(state, X, pursue, shares=shares)
    for i, samples in enumerate([X, *(X[rows] for rows, _ in shares)]):
        expected = gradients_of(state, samples, pursue)
        for name, array in found.items():
            torch.testing.assert_close(array[i], expected[name][i], msg=name)


def test_shares_of_processes_add_up_to_those_of_the_batch(problem, shares):
    state, X = problem
    whole = gradients_of(state, X, False, shares=shares)
    # The second process has nothing for the second SAE.
    parts = []
    for rank, rows in enumerate([slice(0, 40), slice(40, 64)]):
        own = [
            Share(torch.arange(40 if rank == 0 else 0), 40),
            Share(torch.arange(0 if rank == 0 else 24), 24),
        ]
        # Who has more processes than are there to add up.
        workers = Workers(rank, 2)
        object.__setattr__(workers, "add_up_", lambda *parts: None)
        parts.append(gradients_of(state, X[rows], False, shares=own, workers=workers))
    for name, array in whole.items():
        torch.testing.assert_close(array[1:], parts[0][name][1:] + parts[1][name][1:])


def test_without_a_row_nothing_is_learned_of_a_member(problem, shares):
    state, X = problem
    room = gradient_buffers(state)
    stage = Stage(3, "topk", 0.0, 0.01, False)
    take_step(state, X, stage, room, shares=shares)
    nothing = [shares[0], Share(torch.arange(0), 0)]
    take_step(state, X, stage, room, shares=nothing)
    assert all((gradient[2] == 0).all() for gradient in room)
    assert state.losses[1, 2] == state.losses[0, 2] > 0
    assert state.losses[1, 1] != state.losses[0, 1]


def test_atoms_that_see_fewer_samples_are_dead_after_more_steps(problem, shares):
    state, X = problem
    seen = []
    state.activity.look_for_dead = seen.append
    # 64 samples with 3 of 24 atoms each.
    take_step(state, X, Stage(3, "topk", 0.0, 0.01, False), gradient_buffers(state))
    state.n_steps = 0
    take_step(
        state,
        X,
        Stage(3, "topk", 0.0, 0.01, False),
        gradient_buffers(state),
        shares=shares,
    )
    assert seen == [[8, 8, 8], [8, 4, 4]]
