"""Checkpoints that come back whole, or not at all."""

import io
import pickle

import numpy as np
import pytest

from skmfr._batches import Batches, Standardiser
from skmfr._checkpoint import (
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
    to_arrays,
)
from skmfr._schedule import Plateau, Schedule
from skmfr._state import new_state, untrained
from skmfr._training import train


def state_after(n_steps, settings):
    X = np.random.default_rng(0).standard_normal((60, 4))
    batches = Batches(X, np.arange(60), 20, True, settings.seed)
    standardiser = Standardiser.of(X)
    state = new_state(untrained(batches, standardiser, settings), settings)
    state.begin(Schedule.over(20, anneal_k=True), Plateau(tol=0.1, patience=3))
    train(
        state,
        batches,
        standardiser,
        settings,
        after_step=lambda state: state.step == n_steps,
    )
    return state


@pytest.fixture
def settings(make_settings):
    return make_settings(n_components=6, n_saes=2, alpha=0.1)


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("matching", ["hungarian", "max"])
def test_state_comes_back_from_disk_as_it_was(tmp_path, make_settings, tied, matching):
    settings = make_settings(
        n_saes=3, n_witnesses=1, alpha=0.1, tied=tied, matching=matching
    )
    state = state_after(12, settings)
    state.n_reinits[1] = 2
    state.plateau.ends_with(0.5)
    path = tmp_path / "new folder" / "state.npz"
    save_checkpoint(path, state)
    loaded = load_checkpoint(path, settings)

    assert_same(to_arrays(loaded), to_arrays(state))
    assert loaded.schedule == state.schedule
    assert loaded.plateau == state.plateau
    assert (loaded.step, loaded.n_steps) == (12, 12)
    assert loaded.ensemble.tied == tied
    pull, expected = (each.matches.graph(each.rates) for each in (loaded, state))
    for one, other in zip(pull, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_state_before_the_first_step_comes_back(tmp_path, settings):
    state = state_after(1, settings)
    fresh = new_state(state.ensemble, settings)
    path = tmp_path / "state.npz"
    save_checkpoint(path, fresh)
    assert_same(to_arrays(load_checkpoint(path, settings)), to_arrays(fresh))


def test_loaded_parameters_are_those_that_the_optimiser_changes(tmp_path, settings):
    path = tmp_path / "state.npz"
    save_checkpoint(path, state_after(3, settings))
    state = load_checkpoint(path, settings)
    for i in range(2):
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias")
        for name, parameter in zip(names, state.parameters(i), strict=True):
            own = getattr(state.ensemble, name)[i]
            assert parameter.data_ptr() == own.data_ptr()


def test_no_file_is_no_state(tmp_path, settings):
    assert load_checkpoint(tmp_path / "state.npz", settings) is None


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_file_and_no_other(
    tmp_path, settings, monkeypatch, error
):
    path = tmp_path / "state.npz"
    save_checkpoint(path, state_after(3, settings))
    before = path.read_bytes()

    def half_written(file, **arrays):
        file.write(before[: len(before) // 2])
        raise error

    monkeypatch.setattr(np, "savez", half_written)
    state = state_after(6, settings)
    with pytest.raises(type(error)):
        save_checkpoint(path, state)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_new_checkpoint_replaces_the_old_one(tmp_path, settings):
    path = tmp_path / "state.npz"
    for n_steps in (3, 6):
        save_checkpoint(path, state_after(n_steps, settings))
    assert load_checkpoint(path, settings).step == 6
    assert list(tmp_path.iterdir()) == [path]


def assert_refused(path, content, settings):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="state.npz.*cannot be read"):
        load_checkpoint(path, settings)


def npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_truncated_checkpoint_is_refused(tmp_path, settings):
    path = tmp_path / "state.npz"
    save_checkpoint(path, state_after(3, settings))
    whole = path.read_bytes()
    for length in [0, 1, 2, 4, 100, *range(500, len(whole), 997), len(whole) - 1]:
        assert_refused(path, whole[:length], settings)


def test_checkpoint_with_a_flipped_bit_is_refused_or_as_it_was(tmp_path, settings):
    path = tmp_path / "state.npz"
    state = state_after(3, settings)
    save_checkpoint(path, state)
    whole, expected = path.read_bytes(), to_arrays(state)
    n_refused = 0
    # The directory at the end of the file, where a flip makes an array vanish, and a
    # sample of the rest.
    directory = whole.index(b"PK\x01\x02")
    places = [*range(0, directory, 37), *range(directory, len(whole), 5)]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            loaded = load_checkpoint(path, settings)
        except ValueError as error:
            assert "state.npz" in str(error)  # noqa: PT017
            n_refused += 1
        else:
            # Dates and permissions of the archive's members may be anything.
            assert_same(to_arrays(loaded), expected)
    assert n_refused > len(places) / 2


def test_pickles_are_refused_and_not_run(tmp_path, settings):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "was run").touch, ()

    path = tmp_path / "state.npz"
    arrays = to_arrays(state_after(3, settings))
    harmful = np.array([Harmful()], dtype=object)
    assert_refused(path, npz(arrays | {"n_reinits": harmful}), settings)
    assert_refused(path, pickle.dumps(Harmful()), settings)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [b"no archive at all", npy(np.arange(3)), npz({"other": np.arange(3)}), npz({})],
)
def test_files_of_another_kind_are_refused(tmp_path, settings, content):
    assert_refused(tmp_path / "state.npz", content, settings)


@pytest.mark.parametrize("name", ["schedule", "plateau", "n_reinits", "decoder"])
def test_checkpoint_that_lacks_an_array_is_refused(tmp_path, settings, name):
    arrays = to_arrays(state_after(3, settings))
    del arrays[name]
    assert_refused(tmp_path / "state.npz", npz(arrays), settings)


@pytest.mark.parametrize("name", ["schedule", "plateau"])
def test_checkpoint_with_fewer_numbers_is_refused(tmp_path, settings, name):
    arrays = to_arrays(state_after(3, settings))
    arrays[name] = arrays[name][:-1]
    assert_refused(tmp_path / "state.npz", npz(arrays), settings)


def test_path_tells_parameters_and_data_apart(tmp_path):
    X = np.random.default_rng(0).standard_normal((50, 3))
    other = X.copy()
    other[17, 1] += 1e-15
    paths = {
        checkpoint_path(tmp_path, *content)
        for content in [
            ({"k": 3}, 0, X),
            ({"k": 4}, 0, X),
            ({"k": 3}, 1, X),
            ({"k": 3}, 0, X[:-1]),
            ({"k": 3}, 0, other),
            ({"k": 3}, 0, X.astype(np.float32)),
        ]
    }
    assert len(paths) == 6
    assert checkpoint_path(tmp_path, {"k": 3}, 0, X.copy()) in paths
    assert all(path.parent == tmp_path for path in paths)
