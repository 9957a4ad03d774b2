"""Modules from torch.compile, which see no hooks that come later: run uncompiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

# What torch.compile calls the module inside its own.
WRAPPED = "_orig_mod"


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that one from torch.compile was made of; any other as it is."""
    while WRAPPED in module._modules:
        module = module.get_submodule(WRAPPED)
    return module


def without_wrappers(name: str) -> str:
    """Name of a submodule as it was before torch.compile."""
    return ".".join(part for part in name.split(".") if part != WRAPPED)


class _Eager:
    """How many contexts of all threads want compiled code not to run."""

    lock = Lock()
    n_contexts = 0
    stance: Any = None


@contextmanager
def eager(model: nn.Module, own: bool = True) -> Iterator[None]:
    """Context in which modules run as they were before torch.compile, hooks and all.

    Parameters
    ----------
    model : nn.Module
        Which is about to run.
    own : bool
        Whether no code but ours runs in the context: then nothing is compiled in it,
        and there may be no need to import the compiler, which takes seconds.

    Raises
    ------
    ValueError
        If this torch, before 2.6, cannot do so and parts of the model are compiled.
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
            # Holds from here, not from a with statement, and for all threads.
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
