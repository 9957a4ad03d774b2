"""Pickles name the version that wrote them, and versions too far apart refuse them."""

import pickle
from typing import Any

VERSION = "_skmfr_version"


class VersionedPickleMixin:
    """Writes the version into pickles, and checks it when they are read.

    Versions that share the first two numbers read each other's pickles.
    """

    def __getstate__(self) -> dict[str, Any]:
        from .. import __version__

        return super().__getstate__() | {VERSION: __version__}  # type: ignore[operator]

    def __setstate__(self, state: dict[str, Any]) -> None:
        check_version(state.get(VERSION))
        kept = {name: value for name, value in state.items() if name != VERSION}
        super().__setstate__(kept)  # type: ignore[misc]


def check_version(found: str | None) -> None:
    """Refuse a pickle of another version; None stands for 0.1.0, which wrote none.

    Raises
    ------
    UnpicklingError
        If the first two numbers of the version differ from those of this version.
    """
    from .. import __version__

    found = "0.1.0" if found is None else found
    if found.split(".")[:2] != __version__.split(".")[:2]:
        raise pickle.UnpicklingError(
            f"The pickle was written by skmfr {found}, which skmfr {__version__} "
            f"cannot read. Load it with skmfr {found} and write it with "
            "skmfr.io.save, whose files later versions read, or fit again."
        )
