"""Files that are there as a whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write, which takes its place in the end.

    Whatever stops the writing, the file that was there stays as it was, and no other is
    left behind.
    """
    fresh = path.with_name(f"{path.name}.{token_hex(8)}.tmp")
    try:
        fresh.touch(exist_ok=False)
        mode = fresh.stat().st_mode
        yield fresh
        # Some libraries put a file of their own there, which only its owner may read.
        fresh.chmod(mode)
        with open(fresh, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
