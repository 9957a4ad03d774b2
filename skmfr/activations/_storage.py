"""Rows that go to a file while they are made, to be gone on with after a stop."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import monotonic

import numpy as np

# Between two notes of how far it is.
SECONDS_BETWEEN_NOTES = 10.0


class RowFile:
    """A ``.npy`` file that fills up row by row.

    Until it is whole it is called ``NAME.part``.  What it holds, and how far it is, is
    in ``NAME.json`` beside it.

    Parameters
    ----------
    path : path-like
    fingerprint : str
        Of what the rows are made from; a file of anything else is not touched.

    Raises
    ------
    ValueError
        If there is a file already, and it holds something else.
    """

    def __init__(self, path, fingerprint: str):
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.note = self.path.with_name(self.path.name + ".json")
        self.fingerprint = fingerprint
        self.rows: np.memmap | None = None
        """(n_rows, width)"""
        self.n_inputs = 0
        """inputs done"""
        self.n_rows = 0
        """rows done"""
        self._noted = monotonic()
        exists = self.path.exists() or self.part.exists()
        known = json.loads(self.note.read_text()) if self.note.exists() else {}
        if exists and known.get("fingerprint") != fingerprint:
            raise ValueError(
                f"out={os.fspath(path)!r} exists, and holds something else than these "
                "inputs give at this layer of this model: remove it or name another "
                "file."
            )
        if self.part.exists():
            self.n_inputs, self.n_rows = known["n_inputs"], known["n_rows"]
            self.rows = np.lib.format.open_memmap(self.part, mode="r+")

    @property
    def complete(self) -> bool:
        return self.path.exists()

    def append(self, rows: np.ndarray, n_inputs: int, n_rows: int) -> None:
        """Add rows of so many more inputs, of a file that will have n_rows rows."""
        if self.rows is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.write_note()
            self.rows = np.lib.format.open_memmap(
                self.part, mode="w+", dtype=rows.dtype, shape=(n_rows, rows.shape[1])
            )
        self.rows[self.n_rows : self.n_rows + len(rows)] = rows
        self.n_rows += len(rows)
        self.n_inputs += n_inputs
        if monotonic() - self._noted > SECONDS_BETWEEN_NOTES:
            self.write_note()

    def write_note(self) -> None:
        """Write down how far the file is, once that is on disk."""
        if self.rows is not None:
            self.rows.flush()
        known = {
            "fingerprint": self.fingerprint,
            "n_inputs": self.n_inputs,
            "n_rows": self.n_rows,
        }
        fresh = self.note.with_name(self.note.name + ".tmp")
        fresh.write_text(json.dumps(known))
        os.replace(fresh, self.note)
        self._noted = monotonic()

    def finish(self) -> None:
        """Give the file its name."""
        self.write_note()
        self.rows = None
        os.replace(self.part, self.path)

    def read(self) -> np.memmap:
        """The rows of a complete file, read-only."""
        return np.load(self.path, mmap_mode="r")
