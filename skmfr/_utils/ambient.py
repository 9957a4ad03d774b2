"""Suspend the user's PyTorch settings during our computations."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from .threads import in_one_thread, without_its_threads


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute the same regardless of the user's PyTorch settings in this thread.

    The settings are autocast, a default device, and gradient modes.  Every public call
    that computes with tensors does so inside this context, or uses it as a decorator.
    The default dtype is not suspended, because all threads share it, so every tensor
    must be created with an explicit dtype.
    """
    with ExitStack() as stack:
        for context in _remedies():
            stack.enter_context(context)
        # Last, because leaving inference mode switches gradients on.
        stack.enter_context(torch.no_grad())
        yield


def _remedies() -> Iterator[AbstractContextManager]:
    """Contexts that undo unusual settings."""
    if without_its_threads():
        yield in_one_thread()
    if torch.is_inference_mode_enabled():
        # Other calls could not use inference tensors that are kept for them.
        yield torch.inference_mode(False)
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            yield torch.autocast(kind, enabled=False)
    if torch.empty(0).device.type != "cpu":
        yield torch.device("cpu")
