"""Imports of packages that only parts of skmfr need."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed_by(user: str, extra: str) -> Iterator[None]:
    """Name the extra of skmfr to install if an import inside fails.

    Raises
    ------
    ImportError
        If an import fails.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{user} needs packages that are not installed ({error}): "
            f'pip install "skmfr[{extra}]".',
            name=error.name,
        ) from error
