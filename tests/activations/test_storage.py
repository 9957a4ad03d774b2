"""Files that fill up row by row, of which two runs may write the same one."""

import subprocess
import sys

import numpy as np
import pytest

from skmfr.activations._storage import RowFile

ROWS = np.arange(24.0).reshape(8, 3)
BUSY = "is being written by another process or thread"
# It ends like a killed process, in the middle of its rows.
KILLED = """
import os, sys
import numpy as np
from skmfr.activations import _storage

_storage.SECONDS_BETWEEN_NOTES = 0
with _storage.RowFile(sys.argv[1], "same") as file:
    file.append(np.arange(12.0).reshape(4, 3), 4)
    sys.stdin.readline()
    os._exit(0)
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rows.npy"


def fill(file: RowFile) -> None:
    with file:
        file.append(ROWS[file.n_rows :], len(ROWS) - file.n_inputs)
    file.finish()


@pytest.mark.parametrize("together", [True, False])
def test_a_second_writer_is_refused_and_changes_nothing(out, together):
    first, others = RowFile(out, "same"), [RowFile(out, "other")]
    if together:
        others.append(RowFile(out, "same"))
    with first:
        first.append(ROWS[:5], 5)
        if not together:
            first._write_note()
            others.append(RowFile(out, "same"))
        for other in others:
            with pytest.raises(ValueError, match=BUSY), other:
                other.append(ROWS[5:], 3)
        first.append(ROWS[5:], 3)
    first.finish()
    # Another process has completed it since the others looked.
    for other in others:
        with pytest.raises(ValueError, match=BUSY), other:
            other.append(ROWS[5:], 3)
    assert np.array_equal(RowFile(out, "same").read(), ROWS)


def test_a_process_writes_until_it_is_killed(out):
    command = [sys.executable, "-c", KILLED, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        while not RowFile(out, "same").n_rows:
            assert other.poll() is None
        with pytest.raises(ValueError, match=BUSY):
            fill(RowFile(out, "same"))
        other.communicate(b"\n")
    file = RowFile(out, "same")
    assert file.n_rows == 4
    fill(file)
    assert np.array_equal(file.read(), ROWS)


def test_rows_of_a_killed_process_are_written_once(out, monkeypatch):
    """It added them after this process had looked at the file."""
    monkeypatch.setattr("skmfr.activations._storage.SECONDS_BETWEEN_NOTES", 0)
    with RowFile(out, "same") as first:
        first.append(ROWS[:2], 2)
    file = RowFile(out, "same")
    with RowFile(out, "same") as killed:
        killed.append(ROWS[2:6], 4)
    fill(file)
    assert np.array_equal(file.read(), ROWS)


def test_an_empty_part_is_begun_again(out):
    """A process may be killed between its creation and that of the note."""
    out.with_name("rows.npy.part").touch()
    file = RowFile(out, "same")
    fill(file)
    assert np.array_equal(file.read(), ROWS)
