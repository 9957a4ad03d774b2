"""Checkpoints that come back whole, or not at all."""

import io
import json
import os
import pickle
from copy import copy
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZipFile

import numpy as np
import pytest
import torch

from skmfr._data.batches import Batches
from skmfr._data.standardiser import Standardiser
from skmfr._training.checkpoint import FORMAT_VERSION, Checkpoints, to_arrays
from skmfr._training.initial import untrained
from skmfr._training.loop import train
from skmfr._training.schedule import Plateau, Schedule
from skmfr._training.state import new_state


def state_after(n_steps, settings):
    X = np.random.default_rng(0).standard_normal((60, 4))
    batches = Batches(X, np.arange(60), 20, True, settings.seed)
    standardiser = Standardiser.of(X)
    state = new_state(untrained(standardiser, settings), settings)
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


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "fits", {"k": 3, "alpha": 0.1})


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("matching", ["hungarian", "max"])
def test_state_comes_back_from_disk_as_it_was(
    checkpoints, make_settings, tied, matching
):
    settings = make_settings(
        n_saes=3, n_witnesses=1, alpha=0.1, tied=tied, matching=matching
    )
    state = state_after(12, settings)
    state.n_reinits[1] = 2
    state.plateau.ends_with(0.5)
    state.activity.dead = [torch.arange(i) + 1 for i in (3, 0, 1, 4)]
    checkpoints.save(state)
    loaded = checkpoints.load(settings)

    assert_same(to_arrays(loaded), to_arrays(state))
    assert loaded.schedule == state.schedule
    assert loaded.plateau == state.plateau
    assert (loaded.step, loaded.n_steps) == (12, 12)
    assert loaded.ensemble.tied == tied
    assert [atoms.tolist() for atoms in loaded.activity.dead] == [
        [1, 2, 3],
        [],
        [1],
        [1, 2, 3, 4],
    ]
    pull, expected = (
        each.matches.graph(each.activity.rates) for each in (loaded, state)
    )
    for one, other in zip(pull, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_state_before_the_first_step_comes_back(checkpoints, settings):
    state = state_after(1, settings)
    fresh = new_state(state.ensemble, settings)
    checkpoints.save(fresh)
    assert_same(to_arrays(checkpoints.load(settings)), to_arrays(fresh))


def test_loaded_parameters_are_those_that_the_optimiser_changes(checkpoints, settings):
    checkpoints.save(state_after(3, settings))
    state = checkpoints.load(settings)
    for i in range(2):
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias")
        for name, parameter in zip(names, state.parameters(i), strict=True):
            own = getattr(state.ensemble, name)[i]
            assert parameter.data_ptr() == own.data_ptr()


def test_no_file_is_no_state(checkpoints, settings):
    assert checkpoints.load(settings) is None


def test_the_newest_two_are_kept_and_the_newest_is_taken(checkpoints, settings):
    for n_steps in (3, 6, 9, 12):
        checkpoints.save(state_after(n_steps, settings))
    assert checkpoints.paths() == [checkpoints.path(12), checkpoints.path(9)]
    assert sorted(checkpoints.folder.iterdir()) == sorted(checkpoints.paths())
    assert checkpoints.load(settings).step == 12


def test_what_a_killed_fit_left_is_removed_by_the_next(checkpoints, settings):
    checkpoints.folder.mkdir()
    unfinished = [
        each.path(9).with_name(f"{each.path(9).name}.{'0' * 16}.tmp")
        for each in (checkpoints, Checkpoints(checkpoints.folder, {"k": 4}))
    ]
    for path in unfinished:
        path.touch()
        os.utime(path, (0, 0))
    checkpoints.save(state_after(3, settings))
    # Another fit's is for that to remove.
    assert set(checkpoints.folder.iterdir()) == {checkpoints.path(3), unfinished[1]}


def test_copies_of_a_checkpoint_are_left_alone(checkpoints, settings):
    checkpoints.save(state_after(3, settings))
    content = checkpoints.path(3).read_bytes()
    copies = [
        checkpoints.folder / checkpoints.path(3).name.replace(old, new)
        for old, new in [("000000003", "best"), (".npz", " (copy).npz")]
    ]
    for copied in copies:
        copied.write_bytes(content)
    for n_steps in (6, 9, 12):
        checkpoints.save(state_after(n_steps, settings))
    assert checkpoints.load(settings).step == 12
    for copied in copies:
        assert copied.read_bytes() == content


@pytest.mark.parametrize(
    "error", [PermissionError("of another user"), MemoryError("64 GB")]
)
def test_what_is_no_damage_is_told_as_it_is(checkpoints, settings, monkeypatch, error):
    for n_steps in (3, 6):
        checkpoints.save(state_after(n_steps, settings))

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(type(error), match=str(error)):
        checkpoints.load(settings)


def test_a_file_that_is_gone_gives_way_to_the_newer_one(
    checkpoints, settings, monkeypatch
):
    """Of another fit with the same configuration."""
    checkpoints.save(state_after(3, settings))
    load = np.load

    def replaced(path, **options):
        monkeypatch.undo()
        path.unlink()
        checkpoints.save(state_after(6, settings))
        return load(path, **options)

    monkeypatch.setattr(np, "load", replaced)
    assert checkpoints.load(settings).step == 6


def test_a_folder_that_cannot_be_is_told_before_training(tmp_path, settings):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "fits"):
        with pytest.raises(OSError, match=f"checkpoint_dir is not a folder.*{folder}"):
            Checkpoints(folder, {"k": 3}).load(settings)


def test_steps_of_more_than_nine_digits_are_newer(checkpoints, settings):
    state = state_after(3, settings)
    for step in (999_999_998, 999_999_999, 1_000_000_000, 1_000_000_001):
        state.step = step
        checkpoints.save(state)
    assert checkpoints.load(settings).step == 1_000_000_001
    assert checkpoints.paths() == [
        checkpoints.path(step) for step in (1_000_000_001, 1_000_000_000)
    ]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_files_and_no_other(
    checkpoints, settings, monkeypatch, error
):
    for n_steps in (3, 6):
        checkpoints.save(state_after(n_steps, settings))
    before = {path: path.read_bytes() for path in checkpoints.folder.iterdir()}

    def half_written(file, **arrays):
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "savez", half_written)
    state = state_after(9, settings)
    with pytest.raises(type(error)):
        checkpoints.save(state)
    assert {path: path.read_bytes() for path in checkpoints.folder.iterdir()} == before


def test_a_disk_without_room_raises_and_keeps_the_last_checkpoint(
    checkpoints, settings
):
    resource = pytest.importorskip("resource", reason="not on Windows")
    checkpoints.save(state_after(3, settings))
    state = state_after(6, settings)
    (path,) = checkpoints.paths()
    # The system's own refusal, half-way through the file.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(checkpoints.folder.iterdir()) == [path]
    assert checkpoints.load(settings).step == 3
    checkpoints.save(state)
    assert checkpoints.load(settings).step == 6


def test_a_damaged_checkpoint_gives_way_to_the_one_before(checkpoints, settings):
    states = [state_after(n_steps, settings) for n_steps in (3, 6)]
    for state in states:
        checkpoints.save(state)
    newest = checkpoints.path(6)
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(
        UserWarning, match=rf"{newest.name}.*cannot be read.*previous checkpoint"
    ):
        loaded = checkpoints.load(settings)
    assert_same(to_arrays(loaded), to_arrays(states[0]))
    checkpoints.path(3).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match=newest.name),
        pytest.raises(ValueError, match=f"{checkpoints.path(3).name}.*cannot be read"),
    ):
        checkpoints.load(settings)


def test_a_checkpoint_of_another_version_is_refused_by_name(checkpoints, settings):
    arrays = saved_arrays(checkpoints, settings)
    version = FORMAT_VERSION + 1
    checkpoints.path(3).write_bytes(npz(arrays | {"version": np.array(version)}))
    message = f"version {version} .* only from version {FORMAT_VERSION}"
    with pytest.raises(ValueError, match=message):
        checkpoints.load(settings)


def test_a_checkpoint_under_the_name_of_another_is_refused(checkpoints, settings):
    checkpoints.save(state_after(3, settings))
    other = Checkpoints(checkpoints.folder, checkpoints.configuration | {"k": 4})
    assert other.load(settings) is None
    checkpoints.path(3).rename(other.path(3))
    with pytest.raises(ValueError, match=r"with k=3, but this fit has k=4"):
        other.load(settings)


def test_other_circumstances_are_refused_and_named(checkpoints, settings):
    here, there = (
        Checkpoints(
            checkpoints.folder, checkpoints.configuration, {"world_size": world_size}
        )
        for world_size in (2, 3)
    )
    here.save(state_after(3, settings))
    assert here.load(settings).step == 3
    message = "with world_size=2, but this fit has world_size=3"
    with pytest.raises(ValueError, match=message):
        there.load(settings)


def assert_refused(checkpoints, content, settings):
    checkpoints.folder.mkdir(exist_ok=True)
    checkpoints.path(3).write_bytes(content)
    with pytest.raises(ValueError, match="0003.npz.*cannot be read"):
        checkpoints.load(settings)


def saved_arrays(checkpoints, settings):
    """What is in the file after three steps."""
    checkpoints.save(state_after(3, settings))
    with np.load(checkpoints.path(3)) as file:
        return dict(file)


def npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_truncated_checkpoint_is_refused(checkpoints, settings):
    checkpoints.save(state_after(3, settings))
    whole = checkpoints.path(3).read_bytes()
    for length in [0, 1, 2, 4, 100, *range(500, len(whole), 997), len(whole) - 1]:
        assert_refused(checkpoints, whole[:length], settings)


def test_damaged_checkpoint_is_refused_or_as_it_was(
    checkpoints, settings, count_refused
):
    checkpoints.save(state_after(3, settings))
    path = checkpoints.path(3)
    content = path.read_bytes()
    # Where a flipped bit makes an array vanish.
    directory = slice(content.index(b"PK\x01\x02"), len(content))
    share = count_refused(
        path, lambda: to_arrays(checkpoints.load(settings)), assert_same, directory
    )
    # Dates and permissions of the archive's members may be anything.
    assert share > 0.7


@pytest.mark.parametrize("kind", [ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA])
def test_an_archive_that_grows_is_refused(checkpoints, settings, kind):
    arrays = saved_arrays(checkpoints, settings)
    file = io.BytesIO()
    with ZipFile(file, "w", kind) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(array))
    assert_refused(checkpoints, file.getvalue(), settings)


def test_members_that_share_their_bytes_are_refused(checkpoints, settings):
    arrays = saved_arrays(checkpoints, settings)
    with ZipFile(checkpoints.path(3), "a") as archive:
        # What was one array is a hundred.
        decoder = archive.getinfo("decoder.npy")
        for i in range(100):
            again = copy(decoder)
            again.filename = again.orig_filename = f"decoder {i}.npy"
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
        archive.writestr("more.npy", npy(arrays["losses"]))
    with pytest.raises(ValueError, match="cannot be read") as raised:
        checkpoints.load(settings)
    assert "more bytes than the file has" in str(raised.value.__cause__)


def test_pickles_are_refused_and_not_run(tmp_path, checkpoints, settings):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "was run").touch, ()

    arrays = saved_arrays(checkpoints, settings)
    harmful = np.array([Harmful()], dtype=object)
    assert_refused(checkpoints, npz(arrays | {"n_reinits": harmful}), settings)
    assert_refused(checkpoints, pickle.dumps(Harmful()), settings)
    assert list(tmp_path.iterdir()) == [checkpoints.folder]


@pytest.mark.parametrize(
    "content",
    [b"no archive at all", npy(np.arange(3)), npz({"other": np.arange(3)}), npz({})],
)
def test_files_of_another_kind_are_refused(checkpoints, settings, content):
    assert_refused(checkpoints, content, settings)


@pytest.mark.parametrize(
    "name", ["schedule", "plateau", "n_reinits", "decoder", "version", "description"]
)
def test_checkpoint_that_lacks_an_array_is_refused(checkpoints, settings, name):
    arrays = saved_arrays(checkpoints, settings)
    del arrays[name]
    arrays["names"] = list(set(arrays) - {"names"})
    assert_refused(checkpoints, npz(arrays), settings)


@pytest.mark.parametrize("name", ["schedule", "plateau"])
def test_checkpoint_with_fewer_numbers_is_refused(checkpoints, settings, name):
    arrays = saved_arrays(checkpoints, settings)
    arrays[name] = arrays[name][:-1]
    assert_refused(checkpoints, npz(arrays), settings)


def test_names_tell_configurations_apart(tmp_path):
    usual = {"k": 3, "alpha": 0.1, "matching": "max", "seed": None}
    changes = [{}, {"k": 4}, {"alpha": 0.1 + 1e-15}, {"matching": "hungarian"}]
    changes += [{"seed": 0}, {"alpha": np.float32(0.1)}, {"k": "3"}]
    paths = {Checkpoints(tmp_path, usual | each).path(3) for each in changes}
    assert len(paths) == len(changes)
    # As grids of parameters have them.
    numpy = {"k": np.int64(3), "alpha": np.float64(0.1), "matching": np.str_("max")}
    assert Checkpoints(tmp_path, usual | numpy).path(3) in paths


def test_a_checkpoint_says_what_it_is_of(checkpoints, settings):
    arrays = saved_arrays(checkpoints, settings)
    description = json.loads(str(arrays["description"]))
    assert description == {"k": "3", "alpha": "0.1"}
