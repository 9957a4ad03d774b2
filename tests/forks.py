"""Processes that tests may kill, fill and measure.

A new process takes four seconds to import what a test needs for a moment.  A fork finds
it imported, but may wait for ever for threads that it has not.  So processes are forked
from one that was forked before the first test, when there were no threads.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from traceback import format_exc
from typing import NamedTuple

from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend.context import set_start_method

# Elsewhere libraries may not survive a fork, and processes are new.
CAN_FORK = sys.platform == "linux"
CONTEXT = get_context("fork" if CAN_FORK else "spawn")


class Ended(NamedTuple):
    """What came of a process."""

    exitcode: int | None
    result: object = None
    """what its function returned, or the traceback of an error"""


def in_process(function: Callable, *arguments) -> Ended:
    """Call a function of a module in a process of its own."""
    results, theirs = Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(theirs, function, *arguments))
    process.start()
    theirs.close()
    try:
        result = results.recv()
    except EOFError:  # killed before
        result = None
    process.join()
    return Ended(process.exitcode, result)


def _answer(results: Connection, function: Callable, *arguments) -> None:
    try:
        results.send(function(*arguments))
    except BaseException:
        results.send(format_exc())
        sys.exit(1)


@contextmanager
def workers_of_joblib() -> Iterator[None]:
    """Those of joblib's default backend are forks too; for a process of its own."""
    if CAN_FORK:
        warnings.simplefilter("ignore", UserWarning)  # that forks may lack threads
        set_start_method("fork", force=True)
    yield
    # It would wait for minutes whether they are needed again.
    get_reusable_executor().shutdown()


class Forebear:
    """A process that only waits to be forked."""

    def __init__(self) -> None:
        self._calls, calls = Pipe()
        self._process = os.fork()
        if self._process:
            calls.close()
            return
        self._calls.close()
        try:
            while True:
                calls.send(in_process(*calls.recv()))
        except EOFError:  # the end of the tests
            pass
        finally:
            os._exit(0)

    def __call__(self, function: Callable, *arguments) -> Ended:
        """As :func:`in_process`."""
        self._calls.send((function, *arguments))
        return self._calls.recv()

    def end(self) -> None:
        self._calls.close()
        os.waitpid(self._process, 0)
