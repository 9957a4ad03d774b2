"""Checkpoints of training states on disk, from which an interrupted fit resumes."""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import torch

from .._utils.checks import in_python
from .._utils.files import check_archive, remove_abandoned, replacing
from .settings import Settings
from .state import TrainingState, from_arrays, to_arrays

# Format of the files; raised when a fit can no longer resume correctly from older
# files.
FORMAT_VERSION = 3
# The newest file, and the previous one in case the newest is damaged.
N_KEPT = 2
# Errors that can occur with an undamaged file.
NOT_DAMAGE = (
    FileNotFoundError,
    PermissionError,
    MemoryError,
    torch.cuda.OutOfMemoryError,
)


class DamagedCheckpoint(ValueError):
    """A file that is not a checkpoint, or is damaged."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one fit, in a folder that other fits may share."""

    folder: Path
    configuration: dict[str, object]
    """values that determine the fit; file names contain their hash"""
    circumstances: dict[str, object] = field(default_factory=dict)
    """other values that must be unchanged for the fit to resume"""

    def path(self, step: int) -> Path:
        """File for the state after `step` steps."""
        return self.folder / f"{self._stem}-{step:09d}.npz"

    def paths(self) -> list[Path]:
        """The existing files, newest first."""
        # Copies made by the user are not included.
        ours = re.compile(rf"{self._stem}-\d{{9,}}\.npz")
        paths = [
            path
            for path in self.folder.glob("*")
            if ours.fullmatch(path.name) and path.is_file()
        ]
        # Step numbers may have more than nine digits.
        return sorted(paths, key=lambda path: (len(path.name), path.name), reverse=True)

    @property
    def _stem(self) -> str:
        return f"skmfr-{joblib.hash(_as_text(self.configuration))}"

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint; the last good one is kept if this fails.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self._make_folder()
        arrays = to_arrays(state)
        arrays["version"] = np.array(FORMAT_VERSION)
        description = _as_text(self.configuration | self.circumstances)
        arrays["description"] = np.array(json.dumps(description))
        path = self.path(state.step)
        with replacing(path) as fresh, open(fresh, "wb") as file:
            np.savez(file, names=list(arrays), **arrays)  # type: ignore[arg-type]
        for old in self.paths()[N_KEPT:]:
            old.unlink(missing_ok=True)
        remove_abandoned(self.folder, f"{self._stem}-*.npz")

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"checkpoint_dir is not a folder and cannot be made: {error.strerror}",
                str(self.folder),
            ) from error

    def load(self, settings: Settings) -> TrainingState | None:
        """The state in the newest readable file, or None if there is no file.

        Raises
        ------
        ValueError
            If all files are damaged, or if one has another version, configuration or
            circumstances.
        OSError
            If there is no folder and none can be created, or if a file may not be read.

        Warns
        -----
        UserWarning
            If a file is damaged and the previous one is used.
        """
        self._make_folder()
        paths = self.paths()
        try:
            for path in paths[:-1]:
                try:
                    return self._read(path, settings)
                except DamagedCheckpoint as error:
                    warnings.warn(
                        f"{error} Resuming from the previous checkpoint.", stacklevel=8
                    )
            return self._read(paths[-1], settings) if paths else None
        except FileNotFoundError:
            # Meanwhile another fit with this configuration has written a newer file.
            return self.load(settings)

    def _read(self, path: Path, settings: Settings) -> TrainingState:
        with _damage_named(path):
            check_archive(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            # The checksums of a zip file do not cover the names of its members.
            if set(arrays.pop("names")) != set(arrays):
                raise ValueError("arrays are missing or have other names")
            version = int(arrays.pop("version"))
            found = json.loads(str(arrays.pop("description")))
        if version != FORMAT_VERSION:
            raise ValueError(
                f"The checkpoint {path} has version {version} of the format, but this "
                f"version of skmfr resumes only from version {FORMAT_VERSION}: use the "
                "version of skmfr that wrote it, or another checkpoint_dir."
            )
        wanted = _as_text(self.configuration | self.circumstances)
        for name, value in wanted.items():
            if found.get(name) != value:
                raise ValueError(
                    f"The checkpoint {path} was written with {name}="
                    f"{found.get(name)}, but this fit has {name}={value}. Restore the "
                    "earlier value to resume, or use another checkpoint_dir."
                )
        with _damage_named(path):
            return from_arrays(arrays, settings)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except NOT_DAMAGE:
        raise
    # zipfile and NumPy raise errors without a common base class for damaged files.
    except Exception as error:
        raise DamagedCheckpoint(
            f"The checkpoint {path} in checkpoint_dir cannot be read ({error}); remove "
            "it to train without it."
        ) from error


def _as_text(values: dict[str, object]) -> dict[str, str]:
    """Values of parameters as text, the same for numbers from NumPy and Python."""
    return {name: repr(value) for name, value in in_python(values).items()}
