"""Threads of processes that were forked from others."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from threadpoolctl import ThreadpoolController

_forked_with_torch = False


def _take_note() -> None:
    global _forked_with_torch
    _forked_with_torch |= "torch" in sys.modules


# Not on Windows, where nothing forks.  It takes a note, and changes nothing, as the
# threads of a forked process are everybody's.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_take_note)


def without_its_threads() -> bool:
    """Whether this process was forked from one that had imported torch.

    A fork inherits what OpenMP knows of its threads without the threads, and GNU's
    OpenMP, which torch computes with, would wait for them for ever.
    """
    return _forked_with_torch


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Have torch compute in one thread, where this thread of Python calls it."""
    # OpenMP's limit is of the thread that sets it.  MKL, if somebody has told it how
    # many threads it may take, does not ask OpenMP.
    set_threads_of_mkl = _setter_of_mkl()
    with _libraries().limit(limits=1, user_api="openmp"):
        before = set_threads_of_mkl(1)
        try:
            yield
        finally:
            set_threads_of_mkl(before)


@cache
def _libraries() -> ThreadpoolController:
    """Libraries with threads; to find them takes longer than to code a sample."""
    return ThreadpoolController()


@cache
def _setter_of_mkl() -> Callable[[int], int]:
    """Sets how many threads MKL takes in this thread, and gives the number before."""
    import torch

    library = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        return ctypes.CDLL(str(library)).MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):  # torch without MKL
        return lambda n_threads: 0
