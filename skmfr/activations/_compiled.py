"""Run modules from torch.compile uncompiled, because they ignore new hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from .._utils.threads import ForAllThreads

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
        with _without_compiler():
            yield


def _force_eager() -> Callable[[], object]:
    # Takes effect immediately, without a with statement, and for all threads.
    stance = torch.compiler.set_stance("force_eager")
    return partial(stance.__exit__, None, None, None)


_without_compiler = ForAllThreads(_force_eager)


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
