"""Run modules from torch.compile uncompiled, because they ignore new hooks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

# The name that torch.compile gives the original module inside its own.
WRAPPED = "_orig_mod"


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module inside one from torch.compile; any other module unchanged."""
    while WRAPPED in module._modules:
        module = module.get_submodule(WRAPPED)
    return module


def without_wrappers(name: str) -> str:
    """Name of a submodule before torch.compile."""
    return ".".join(part for part in name.split(".") if part != WRAPPED)


class _Eager:
    """Number of contexts, over all threads, in which compiled code must not run."""

    lock = Lock()
    n_contexts = 0
    stance: Any = None


@contextmanager
def eager(model: nn.Module, own: bool = True) -> Iterator[None]:
    """Run modules as before torch.compile, hooks included, inside this context.

    Parameters
    ----------
    model : nn.Module
        The model that is about to run.
    own : bool
        Whether only our code runs in the context. Then nothing is compiled in it, and
        importing the compiler, which takes seconds, may be unnecessary.

    Raises
    ------
    ValueError
        If torch is older than 2.6 and parts of the model are compiled.
    """
    if own and "torch._dynamo" not in sys.modules:
        yield
    elif not hasattr(torch.compiler, "set_stance"):
        _check_not_compiled(model)
        yield
    else:
        _begin()
        try:
            yield
        finally:
            _end()


def _begin() -> None:
    with _Eager.lock:
        if not _Eager.n_contexts:
            # Takes effect immediately, without a with statement, and for all threads.
            _Eager.stance = torch.compiler.set_stance("force_eager")
        _Eager.n_contexts += 1


def _end() -> None:
    with _Eager.lock:
        _Eager.n_contexts -= 1
        if not _Eager.n_contexts:
            _Eager.stance.__exit__(None, None, None)


def _check_not_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if (
            WRAPPED in module._modules
            or module._compiled_call_impl is not None
            or hasattr(module.forward, "_torchdynamo_orig_callable")
        ):
            raise ValueError(
                f"module {name!r} comes from torch.compile, which ignores hooks before "
                f"torch 2.6 (this is {torch.__version__}): update torch, or pass the "
                "model without torch.compile."
            )
