"""Kernels that take the place of PyTorch's operators, in `_sae.codes` and for Adam.

A step of training reads, past the encoder's product, the atoms of each sample and the
samples of each atom several times over.  The kernels read them fewer times, in Numba on
CPUs and in Triton on GPUs.  Where these are not installed, PyTorch's operators serve.
"""

import warnings
from functools import cache
from importlib import import_module
from types import ModuleType

import torch


def kernels_on(device: torch.device) -> ModuleType | None:
    """The kernels for a device, if they run there.

    Here alone it is chosen between kernels and PyTorch's operators.
    """
    if device.type == "cuda":
        return _for_gpu(device)
    return _for_cpu() if device.type == "cpu" else None


def _for_cpu() -> ModuleType | None:
    cpu = _cpu()
    # PyTorch's operators use all of its threads, in any case.
    if cpu and torch.get_num_threads() > 1 and not cpu.has_threads():
        return None
    return cpu


@cache
def _cpu() -> ModuleType | None:
    return _imported("_numba", "the CPU")


@cache
def _for_gpu(device: torch.device) -> ModuleType | None:
    gpu = _imported("_triton", "the GPU")
    # Triton compiles when a kernel is called, which takes a C compiler and a GPU that
    # is not too old, and what is missing is told in errors of many kinds.
    try:
        if gpu:
            gpu.try_all(device)
    except Exception as error:
        _warn(device, error)
        return None
    return gpu


def _imported(name: str, place: str) -> ModuleType | None:
    """A module of kernels, if the library that they are written in is installed."""
    try:
        return import_module(f".{name}", __name__)
    except ImportError as error:
        # A library may be there, and not what it needs: Numba wants no NumPy that is
        # too new.
        if not (isinstance(error, ModuleNotFoundError) and error.name == name[1:]):
            _warn(place, error)
        return None


def _warn(place: object, error: Exception) -> None:
    warnings.warn(
        f"Kernels do not run on {place}, so that training is slower there: "
        f"{type(error).__name__}: {error}",
        stacklevel=4,
    )
