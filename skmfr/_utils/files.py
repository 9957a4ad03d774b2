"""Write files completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex
from time import time
from zipfile import ZIP_STORED, ZipFile

# Seconds since its last change after which an unfinished file counts as abandoned.
ABANDONED = 3600


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file that finally replaces ``path``.

    If writing fails for any reason, the old file is kept and the temporary file is
    removed. A killed process leaves its temporary file until the next call.
    """
    remove_abandoned(path.parent, escape(path.name))
    fresh = path.with_name(f"{path.name}.{token_hex(8)}.tmp")
    try:
        fresh.touch(exist_ok=False)
        mode = fresh.stat().st_mode
        yield fresh
        # Some libraries replace the file by one that only its owner may read.
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
        Glob pattern of the final names of the files.
    """
    for fresh in folder.glob(f"{names}.{'[0-9a-f]' * 16}.tmp"):
        # It may have been removed meanwhile, or belong to another user.
        with suppress(OSError):
            if time() - fresh.stat().st_mtime > ABANDONED:
                fresh.unlink()


def check_archive(path: Path) -> None:
    """Refuse an archive that is damaged or would need more memory than its size.

    Raises
    ------
    ValueError
        If so. zipfile also raises its own errors.
    """
    with ZipFile(path) as archive:
        members = archive.infolist()
        if any(each.compress_type != ZIP_STORED for each in members):
            raise ValueError("it is compressed")
        if sum(each.file_size for each in members) > path.stat().st_size:
            raise ValueError("its members claim more bytes than the file has")
        # Verify checksums before trusting the declared size of an array.
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {name} does not match")
