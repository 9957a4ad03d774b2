"""Protect the attributes of estimators from failing calls."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unchanged_on_error(estimator) -> Iterator[None]:
    """Restore the attributes of the estimator if anything is raised inside.

    It then has the same names and the same objects; an interrupt counts as an error.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        # In one assignment, so that a second interrupt cannot find a mixture.
        estimator.__dict__ = before
        raise
