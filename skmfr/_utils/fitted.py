"""Attributes of estimators that a failing call leaves alone."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unchanged_on_error(estimator) -> Iterator[None]:
    """Whatever is raised inside, the estimator has the attributes that it had before.

    The same names, and the same objects; an interrupt counts as an error.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        # At once: a second interrupt finds all of the one or all of the other.
        estimator.__dict__ = before
        raise
