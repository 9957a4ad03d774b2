"""Keep PyTorch's transformers on the path whose tensors hooks can read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch


class _Disabled:
    """Number of contexts, over all threads, in which the fast path is disabled."""

    lock = Lock()
    n_contexts = 0
    before = True


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Run nn.TransformerEncoder without its fast path, for all threads.

    In evaluation mode, it packs inputs with padding into nested tensors, which layers
    with hooks do not understand.
    """
    mha = torch.backends.mha
    with _Disabled.lock:
        if not _Disabled.n_contexts:
            _Disabled.before = mha.get_fastpath_enabled()
            mha.set_fastpath_enabled(False)
        _Disabled.n_contexts += 1
    try:
        yield
    finally:
        with _Disabled.lock:
            _Disabled.n_contexts -= 1
            if not _Disabled.n_contexts:
                mha.set_fastpath_enabled(_Disabled.before)
