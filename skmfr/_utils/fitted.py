"""What a failed fit leaves of an estimator: all that it was."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unchanged_on_error(estimator) -> Iterator[None]:
    """Have an estimator keep its attributes, the same objects, if the body raises.

    Interrupts count as errors.  What raises goes on to the caller.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
