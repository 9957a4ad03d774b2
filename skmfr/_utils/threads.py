"""Threads that compute ahead, limits of threads, and forked processes."""

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")
_forked_with_torch = False


def _take_note() -> None:
    global _forked_with_torch
    _forked_with_torch |= "torch" in sys.modules


# Windows has no fork.  The handler only takes a note and changes nothing, because the
# threads of a forked process do not belong to us.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_take_note)


def without_its_threads() -> bool:
    """Whether this process was forked from a process that had imported torch.

    A forked process inherits OpenMP's records of threads but not the threads. GNU
    OpenMP, which torch uses, would wait for them forever.
    """
    return _forked_with_torch


def computed_ahead(
    compute: Callable[[Item], Result],
    items: Iterable[Item],
    n_threads: int,
    n_ahead: int,
) -> Generator[Result, None, None]:
    """Results of all items, in order, from threads that compute the next ones.

    The items are taken in the thread of the caller, at most `n_ahead` before the
    result of the current one is fetched.  Closing the iterator ends the threads.
    """
    with ThreadPoolExecutor(n_threads, "skmfr ahead") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(compute, item))
                if len(waiting) > n_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class ForAllThreads:
    """A setting of the process, changed while any thread is in this context.

    Parameters
    ----------
    change : callable() -> callable()
        Changes the setting and returns a function that restores it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]):
        self.change = change
        self.restore: Callable[[], object]
        self.lock = Lock()
        self.n_contexts = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.n_contexts:
                self.restore = self.change()
            self.n_contexts += 1
        try:
            yield
        finally:
            with self.lock:
                self.n_contexts -= 1
                if not self.n_contexts:
                    self.restore()


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Limit torch to one thread for calls from this Python thread."""
    import torch

    # The first call in a thread sets the limit of all threads, and must not come later.
    torch.get_num_threads()
    # OpenMP's limit applies to the thread that sets it.  MKL ignores OpenMP's limit if
    # it has its own setting.
    set_threads_of_mkl = _setter_of_mkl()
    with _libraries().limit(limits=1, user_api="openmp"):
        before = set_threads_of_mkl(1)
        try:
            yield
        finally:
            set_threads_of_mkl(before)


@cache
def _libraries() -> ThreadpoolController:
    """Libraries with thread pools; finding them takes longer than coding a sample."""
    return ThreadpoolController()


@cache
def _setter_of_mkl() -> Callable[[int], int]:
    """Function that sets MKL's thread count in this thread and returns the old one."""
    import torch

    library = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        return ctypes.CDLL(str(library)).MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):  # torch without MKL
        return lambda n_threads: 0
