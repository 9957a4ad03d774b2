"""Files that are there as a whole, or not at all."""

import os
from time import time

import pytest

from skmfr._utils.files import ABANDONED, replacing


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [None, "old"])
def test_interrupted_write_leaves_what_was_there(tmp_path, old, error):
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)

    def half_written():
        with replacing(path) as fresh:
            fresh.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        half_written()
    assert [file.read_text() for file in tmp_path.iterdir()] == [old] * bool(old)


def test_whole_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as fresh:
        fresh.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_as_open_to_others_as_any(tmp_path):
    other, path = tmp_path / "other", tmp_path / "file"
    other.touch()
    with replacing(path) as fresh:
        # As libraries do that write a file of their own first.
        fresh.unlink()
        fresh.touch(mode=0o600)
    assert path.stat().st_mode == other.stat().st_mode


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    names = [
        "file[1].0123456789abcdef.tmp",
        "file[1].mine.tmp",
        "file1.0123456789abcdef.tmp",
        "another.0123456789abcdef.tmp",
        "file[1].fedcba9876543210.tmp",
    ]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, time() - ABANDONED - 60))
    (tmp_path / names[-1]).touch()  # somebody writes it
    with replacing(tmp_path / "file[1]") as fresh:
        fresh.write_text("new")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"file[1]", *names[1:]}
