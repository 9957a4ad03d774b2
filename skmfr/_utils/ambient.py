"""What a user has told PyTorch, put aside while we compute."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from .threads import in_one_thread, without_its_threads


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute the same whatever PyTorch was told in this thread.

    That is autocast, a default device, and the modes of gradients.  All that computes
    with tensors for a public call does it inside, or has this for a decorator.  The
    default dtype is not put aside, for all threads share it: no tensor may be made
    without a dtype.
    """
    with ExitStack() as stack:
        for context in _remedies():
            stack.enter_context(context)
        # After inference mode, the end of which switches gradients on.
        stack.enter_context(torch.no_grad())
        yield


def _remedies() -> Iterator[AbstractContextManager]:
    """For what is not as usual."""
    if without_its_threads():
        yield in_one_thread()
    if torch.is_inference_mode_enabled():
        # Tensors that are kept for other calls would be of no use to them.
        yield torch.inference_mode(False)
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            yield torch.autocast(kind, enabled=False)
    if torch.empty(0).device.type != "cpu":
        yield torch.device("cpu")
