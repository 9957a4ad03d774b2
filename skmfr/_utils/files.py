"""Files that are there as a whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex
from time import time
from zipfile import ZIP_STORED, ZipFile

# Seconds after its last change that an unfinished file is of a process that was killed.
ABANDONED = 3600


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write, which takes its place in the end.

    Whatever stops the writing, the file that was there stays as it was, and no other is
    left behind. A process that is killed leaves its own until the next one writes.
    """
    remove_abandoned(path.parent, escape(path.name))
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


def remove_abandoned(folder: Path, names: str) -> None:
    """Remove unfinished files of processes that were killed.

    Parameters
    ----------
    folder : Path
    names : str
        Glob pattern of the names that the files would have got.
    """
    for fresh in folder.glob(f"{names}.{'[0-9a-f]' * 16}.tmp"):
        # It may be gone by now, or somebody else's.
        with suppress(OSError):
            if time() - fresh.stat().st_mtime > ABANDONED:
                fresh.unlink()


def check_archive(path: Path) -> None:
    """Refuse an archive that is damaged, or takes more memory than it has bytes.

    Raises
    ------
    ValueError
        If it does; zipfile has errors of its own.
    """
    with ZipFile(path) as archive:
        members = archive.infolist()
        if any(each.compress_type != ZIP_STORED for each in members):
            raise ValueError("it is compressed")
        if sum(each.file_size for each in members) > path.stat().st_size:
            raise ValueError("its members claim more bytes than the file has")
        # Before anybody believes what is said about the size of an array.
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {name} does not match")
