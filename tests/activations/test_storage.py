"""Files that fill up row by row, of which two runs may write the same one."""

import os
import signal
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
from torch import nn

from skmfr.activations import ActivationExtractor
from skmfr.activations._extraction import FileWriter
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_lock_no_file_that_is_closed(out):
    with RowFile(out, "same") as file:
        file.append(ROWS[:5], 5)
        child = os.fork()
        if not child:
            signal.alarm(60)
            signal.pause()
    try:
        fill(file)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert np.array_equal(file.read(), ROWS)


def test_a_file_that_another_process_has_just_completed_is_named(out):
    model = nn.Sequential(nn.Identity())
    extractor = ActivationExtractor(model, "0", out=out).fit(ROWS)

    def completed_before(writer):
        out.touch()
        return writer

    with (
        patch.object(FileWriter, "__enter__", completed_before),
        pytest.raises(ValueError, match=BUSY),
    ):
        extractor.transform(ROWS)


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
