"""A step finds gradients, and then moves on."""

import pytest
import torch

from skmfr._data.standardiser import Standardiser
from skmfr._sae.encoder import encode
from skmfr._sae.pursuit import pursuit_codes
from skmfr._training.initial import untrained
from skmfr._training.objective import Gradients, reconstruction_
from skmfr._training.schedule import Plateau, Schedule, Stage
from skmfr._training.state import new_state, to_arrays
from skmfr._training.step import find_gradients, room_for_gradients, take_step


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
    room = room_for_gradients(state)
    find_gradients(state, X, Stage(3, 0.0, 0.01, pursue), room)
    for name, array in to_arrays(state).items():
        assert array.tobytes() == before[name].tobytes(), name


def test_a_step_writes_gradients_where_they_were_and_makes_none(problem, monkeypatch):
    state, X = problem
    room = room_for_gradients(state)
    places = [part.data_ptr() for part in room]
    made = []
    like = Gradients.like.__func__
    monkeypatch.setattr(
        Gradients, "like", classmethod(lambda *args: made.append(args) or like(*args))
    )
    for pursue in (False, True):
        take_step(state, X, Stage(3, 0.0, 0.01, pursue), room)
    assert [part.data_ptr() for part in room] == places
    assert not made


def test_pursuit_moves_decoders_and_the_encoder_its_own(problem):
    state, X = problem
    ensemble = state.ensemble
    room = room_for_gradients(state)
    found = find_gradients(state, X, Stage(3, 0.0, 0.01, pursue=True), room)
    X_centred = ensemble.centred(X)
    by_encoder, by_pursuit = Gradients.like(ensemble), Gradients.like(ensemble)
    codes = encode(X_centred, ensemble, 3)
    reconstruction_(by_encoder, X_centred, codes, ensemble, 8.0)
    pursued = pursuit_codes(X, ensemble, 3)
    fvu, _ = reconstruction_(by_pursuit, X_centred, pursued, ensemble, 8.0)
    torch.testing.assert_close(found.fvu, fvu)
    torch.testing.assert_close(room.encoder, by_encoder.encoder)
    torch.testing.assert_close(room.encoder_bias, by_encoder.encoder_bias)
    torch.testing.assert_close(room.decoder, by_pursuit.decoder)
    torch.testing.assert_close(room.decoder_bias, by_pursuit.decoder_bias)
