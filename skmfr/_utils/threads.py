"""Threads of this process, and of those that are forked from it."""

import os
from functools import cache, partial

from threadpoolctl import threadpool_limits


@cache
def let_forks_compute() -> None:
    """Have processes that are forked from this one compute in one thread.

    To be called before torch computes.  A fork inherits what OpenMP knows of its
    threads without the threads, and GNU's OpenMP, which torch computes with, would wait
    for them for ever.
    """
    # Not on Windows, where nothing forks.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(threadpool_limits, 1))
