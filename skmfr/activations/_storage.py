"""Rows that go to a file while they are made, to be gone on with after a stop."""

from __future__ import annotations

import json
import os
from io import FileIO
from pathlib import Path
from time import monotonic
from typing import IO

import numpy as np

from .._utils.files import replacing

# Between two notes of how far it is.
SECONDS_BETWEEN_NOTES = 10.0


class RowFile:
    """A ``.npy`` file that fills up row by row, in a ``with`` statement.

    Until it is whole it is called ``NAME.part``. What it holds, and how far it is, is
    in ``NAME.json`` beside it. Rows are written and not mapped into memory, where a
    full disk would end the process.

    Parameters
    ----------
    path : path-like
    fingerprint : str
        Of what the rows are made from; a file of anything else is not touched.

    Raises
    ------
    ValueError
        If there is a file already, and it holds something else or nobody knows what.
    """

    def __init__(self, path, fingerprint: str):
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.note = self.path.with_name(self.path.name + ".json")
        self.fingerprint = fingerprint
        self.n_inputs = 0
        """inputs done"""
        self.n_rows = 0
        """rows done"""
        self._file: FileIO | None = None
        self._noted = monotonic()
        if not (self.path.exists() or self.part.exists()):
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
                self._file.close()
                self._file = None

    def append(self, rows: np.ndarray, n_inputs: int) -> None:
        """Add rows of so many more inputs."""
        if self._file is None:
            self._file = self._resumed() if self.n_rows else self._begun(rows)
        left = np.ascontiguousarray(rows).data.cast("B")
        while left:
            left = left[self._file.write(left) :]
        self.n_rows += len(rows)
        self.n_inputs += n_inputs
        if monotonic() - self._noted > SECONDS_BETWEEN_NOTES:
            self._write_note()

    def finish(self) -> None:
        """Say in the file how many rows there are, and give it its name."""
        with open(self.part, "rb+") as file:
            _, (_, width), dtype = _read_header(file)
            file.seek(0)
            _write_header(file, self.n_rows, width, dtype)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.part, self.path)

    def read(self) -> np.memmap:
        """The rows of a complete file, read-only."""
        try:
            return np.lib.format.open_memmap(self.path, mode="r")
        except ValueError as error:
            raise self._damaged(self.path) from error

    def _begun(self, rows: np.ndarray) -> FileIO:
        """A new file, with a note beside it from the beginning."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write_note()
        file = open(self.part, "wb", buffering=0)  # noqa: SIM115
        _write_header(file, 0, rows.shape[1], rows.dtype)
        return file

    def _resumed(self) -> FileIO:
        """The file as it was when the last note was taken."""
        file = open(self.part, "rb+", buffering=0)  # noqa: SIM115
        try:
            begin, (_, width), dtype = _read_header(file)
            end = begin + self.n_rows * width * dtype.itemsize
            if end > os.fstat(file.fileno()).st_size:
                raise ValueError("shorter than its note says")
        except ValueError as error:
            file.close()
            raise self._damaged(self.part) from error
        file.truncate(end)
        file.seek(end)
        return file

    def _read_note(self) -> tuple[str, int, int]:
        try:
            known = json.loads(self.note.read_text())
            return known["fingerprint"], int(known["n_inputs"]), int(known["n_rows"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(self.note) from error

    def _write_note(self) -> None:
        """Write down how far the file is, once that is on disk."""
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


def _write_header(file: IO[bytes], n_rows: int, width: int, dtype: np.dtype) -> None:
    """The header of a ``.npy`` file, as long whatever the number of rows.

    NumPy leaves room there for the first axis to grow.
    """
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (n_rows, width)}
    np.lib.format.write_array_header_1_0(file, header)


def _read_header(file: IO[bytes]) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where the rows begin, shape, and type.

    Raises
    ------
    ValueError
        If there is no header of such a file.
    """
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return file.tell(), shape, dtype
