"""Fast kernels for the part of a training step after the encoder's product.

Such a step reads the atoms of each sample, and the samples of each atom, several times.
Kernels read them fewer times: in Numba on CPUs (`_numba`), and in Triton on GPUs
(`_triton`).  PyTorch operators (`_torch`) are used everywhere else.  All three modules
have the same functions, which `_torch` and `batched` define:

- ``residual_products(X, values, indices, dictionary)``: residuals of samples, and their
  dot products with the samples' atoms;
- ``gather_dot(X, atoms, indices)``: dot products of samples with some atoms each;
- ``bag_sums(X, rows, offsets, weights, out, add)``: weighted sums of rows;
- ``largest(scores, k)``: the largest positive scores of each row;
- ``adam_step(parameters, gradients, ...)``: one step of Adam on the unit sphere;
- ``gram(atoms)``, ``pursuit(X, atoms, gram, k, positive)``: matching pursuit;
- ``least_squares(X, atoms, indices, used, apart, positive)``: on given supports.
"""

import warnings
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

LIBRARIES = {"cpu": "numba", "cuda": "triton"}
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@cache
def backend(device: torch.device) -> ModuleType:
    """The module to use on a device: `_numba`, `_triton` or `_torch`.

    Numba and Triton are imported here, when they are first needed.  If they do not run,
    `_torch` is used, and a warning is given once per process.
    """
    library = LIBRARIES.get(device.type)
    # Missing requirements raise many kinds of errors: Numba rejects a NumPy that is too
    # new, and Triton needs a C compiler and a recent GPU.
    try:
        if library:
            kernels = import_module(f"._{library}", __name__)
            kernels.try_all(device)
            return kernels
    except Exception as error:
        warnings.warn(
            f"{library} does not run on {device}; the slower PyTorch operators are "
            f"used instead.  To speed up, install what is missing "
            f"(python -m pip install {library}).  {type(error).__name__}: {error}",
            stacklevel=3,
        )
    return import_module("._torch", __name__)


def as_integers(scores: Tensor) -> Tensor:
    """Scores viewed as integers, which kernels compare faster.

    Non-negative floats have the order of their bit patterns; negative ones come below
    them.
    """
    return scores.view(INTEGERS[scores.itemsize])
