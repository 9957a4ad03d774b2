"""Rows written to a file as they are made, to be resumed after an interruption."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from io import FileIO
from pathlib import Path
from time import monotonic
from typing import IO

import numpy as np

from .._utils.files import replacing

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Seconds between two notes of the progress.
SECONDS_BETWEEN_NOTES = 10.0


class RowFile:
    """A ``.npy`` file that fills up row by row, in a ``with`` statement.

    Its name is ``NAME.part`` until it is complete. ``NAME.json`` beside it describes
    its contents and progress. Rows are written instead of mapped into memory, because
    with a memory map a full disk would end the process. While rows are written, the
    file is locked; the system unlocks it when a process ends, however it does.

    Parameters
    ----------
    path : path-like
    fingerprint : str
        Hash of what the rows are made from; a file with another hash is not touched.

    Raises
    ------
    ValueError
        If the file exists and has other or unknown contents, and later if somebody else
        writes it.
    """

    def __init__(self, path, fingerprint: str):
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.note = self.path.with_name(self.path.name + ".json")
        self.fingerprint = fingerprint
        self.n_inputs = 0
        """number of inputs done"""
        self.n_rows = 0
        """number of rows done"""
        self._file: FileIO | None = None
        self._noted = monotonic()
        # An empty file is that of a process that ended before it wrote the note.
        begun = self.part.exists() and self.part.stat().st_size
        if not (self.complete or begun):
            return
        found, n_inputs, n_rows = self._read_note()
        if found != fingerprint:
            raise ValueError(
                f"out={os.fspath(path)!r} exists, but was written from other inputs, "
                "another layer, another model or other hooks: remove it, or name "
                "another file."
            )
        if not self.complete and n_rows:
            self.n_inputs, self.n_rows = n_inputs, n_rows

    @property
    def complete(self) -> bool:
        return self.path.exists()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            try:
                self._write_note()
            finally:
                self._close()

    def append(self, rows: np.ndarray, n_inputs: int) -> None:
        """Append the rows of `n_inputs` more inputs."""
        file = self._file
        if file is None:
            file = self._resume() if self.n_rows else self._begin(rows)
        left = np.ascontiguousarray(rows).data.cast("B")
        while left:
            left = left[file.write(left) :]
        self.n_rows += len(rows)
        self.n_inputs += n_inputs
        if monotonic() - self._noted > SECONDS_BETWEEN_NOTES:
            self._write_note()

    def finish(self) -> None:
        """Write the number of rows to the file, and rename it to its final name."""
        try:
            file = self._resume()
            file.seek(0)
            _, (_, width), dtype = _read_header(file)
            file.seek(0)
            _write_header(file, self.n_rows, width, dtype)
            os.fsync(file.fileno())
            if sys.platform == "win32":  # where open files cannot be renamed
                self._close()
            os.replace(self.part, self.path)
        finally:
            self._close()

    def read(self) -> np.memmap:
        """The rows of a complete file, read-only."""
        try:
            return np.lib.format.open_memmap(self.path, mode="r")
        except ValueError as error:
            raise self._damaged(self.path) from error

    def _begin(self, rows: np.ndarray) -> FileIO:
        """Open a new file, with a note beside it from the beginning."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.part.touch()
        file = self._open()
        self._write_note()
        file.truncate(0)
        _write_header(file, 0, rows.shape[1], rows.dtype)
        return file

    def _resume(self) -> FileIO:
        """Open the file in its state at the time of the last note."""
        file = self._open()
        try:
            begin, (_, width), dtype = _read_header(file)
            end = begin + self.n_rows * width * dtype.itemsize
            if end > os.fstat(file.fileno()).st_size:
                raise ValueError("shorter than its note says")
        except ValueError as error:
            raise self._damaged(self.part) from error
        # A process that has been killed since may have noted more rows.
        self._write_note()
        file.truncate(end)
        file.seek(end)
        return file

    def _open(self) -> FileIO:
        """Open the unfinished file, which nobody else can then write."""
        with suppress(FileNotFoundError):
            file = self._file = open(self.part, "rb+", buffering=0)  # noqa: SIM115
            # Until now, another process may have completed it.
            if _lock(file) and not self.complete:
                return file
            self._close()
        raise ValueError(
            f"out={os.fspath(self.path)!r} is being written by another process or "
            "thread, or was just now: wait for it, or name another file."
        )

    def _close(self) -> None:
        if self._file is not None:
            if sys.platform != "win32":  # where processes that are forked share locks
                with suppress(OSError):
                    fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None

    def _read_note(self) -> tuple[str, int, int]:
        try:
            known = json.loads(self.note.read_text())
            return known["fingerprint"], int(known["n_inputs"]), int(known["n_rows"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(self.note) from error

    def _write_note(self) -> None:
        """Record the progress of the file, after the rows are on disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        known = {
            "fingerprint": self.fingerprint,
            "n_inputs": self.n_inputs,
            "n_rows": self.n_rows,
        }
        with replacing(self.note) as fresh:
            fresh.write_text(json.dumps(known))
        self._noted = monotonic()

    def _damaged(self, file: Path) -> ValueError:
        return ValueError(
            f"out={os.fspath(self.path)!r} cannot be resumed or read, because "
            f"{file.name} is damaged or missing: remove the file, or name another one."
        )


def _lock(file: FileIO) -> bool:
    """Lock a file until it is closed; False if it is locked already.

    Some file systems have no locks, and files there are not locked.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


def _write_header(file: IO[bytes], n_rows: int, width: int, dtype: np.dtype) -> None:
    """Write the header of a ``.npy`` file, whose length is independent of n_rows.

    NumPy reserves space there for the first axis to grow.
    """
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (n_rows, width)}
    np.lib.format.write_array_header_1_0(file, header)


def _read_header(file: IO[bytes]) -> tuple[int, tuple[int, ...], np.dtype]:
    """Offset of the rows, shape, and dtype.

    Raises
    ------
    ValueError
        If the file has no valid header.
    """
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return file.tell(), shape, dtype
