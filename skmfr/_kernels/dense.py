"""Dense products, by the fastest library or with reproducible rounding."""

from functools import cache
from threading import local

import torch
from torch import Tensor

# Numbers in the largest intermediate array, 64 MB in float32. On GPUs 512 MB, because a
# block needs as many kernel launches at any size.
BLOCK_SIZE, BLOCK_SIZE_ON_GPU = 1 << 24, 1 << 27
# Bytes of a product at most that each thread keeps for the next one.
MOST_KEPT = 1 << 25
# Rows with norms between this and its inverse have squares in the range of float32.
SMALL = 1e-12


def linear(X: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As ``torch.nn.functional.linear``: X weight^T + bias.

    PyTorch uses MKL for float32 products. On an AMD processor with AVX-512
    (docs/speed.md) it takes 10 % longer than oneDNN, which also adds the bias while it
    writes the product. On an AMD processor without AVX-512, oneDNN takes 15 % longer,
    and on the Intel processor a third.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    weight : Tensor of shape (n_components, n_features)
    bias : Tensor of shape (n_components,), optional

    Returns
    -------
    Tensor of shape (n_samples, n_components)
    """
    if X.device.type == "cpu" and X.dtype in _dtypes_of_onednn():
        return torch.ops.mkldnn._linear_pointwise(X, weight, bias, "none", [], "")
    return torch.nn.functional.linear(X, weight, bias)


def passing_linear(X: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As :func:`linear`, in memory that the next such product of the thread overwrites.

    Fresh pages of memory take up to a tenth of the time of the product.
    """
    shape = len(X), len(weight)
    size = shape[0] * shape[1] * X.itemsize
    by_onednn = X.dtype in _dtypes_of_onednn()
    if X.device.type != "cpu" or by_onednn or size > MOST_KEPT:
        return linear(X, weight, bias)
    if _kept.product.nbytes < size:
        _kept.product = torch.empty(size, dtype=torch.uint8)
    out = _kept.product[:size].view(X.dtype).view(shape)
    if bias is None:
        return torch.mm(X, weight.T, out=out)
    return torch.addmm(bias, X, weight.T, out=out)


class _Kept(local):
    """Memory that each thread keeps."""

    product = torch.empty(0, dtype=torch.uint8)


_kept = _Kept()


@cache
def _dtypes_of_onednn() -> frozenset[torch.dtype]:
    """Dtypes that oneDNN computes with where PyTorch would call MKL."""
    if not _has_both():
        return frozenset()
    dtypes = set() if _suits_mkl() else {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.add(torch.bfloat16)
    return frozenset(dtypes)


def _has_both() -> bool:
    """Whether PyTorch has both libraries, and the operator of oneDNN."""
    # It is meant for PyTorch's compiler, and its signature may change.
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _suits_mkl() -> bool:
    """Whether MKL is the faster one on this processor, as far as PyTorch knows it."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an old PyTorch
        return False
    able = torch.cpu.get_capabilities()
    return "Intel" in str(able.get("cpu_name")) or not able.get("avx512_f", True)


def lengths(X: Tensor) -> Tensor:
    """Norm of each row, in float64, in which squares of float32 cannot overflow.

    Relative errors are at most a few units in the last place of X.
    """
    if X.device.type != "cpu" or X.dtype != torch.float32:
        return torch.linalg.vector_norm(X, dim=1, dtype=torch.float64)
    # Ten times as fast in float32, whose range is enough for the squares of most rows.
    norms = torch.linalg.vector_norm(X, dim=1).double()
    odd = ((norms < SMALL) | (norms > 1 / SMALL)).nonzero()[:, 0]
    norms[odd] = torch.linalg.vector_norm(X[odd], dim=1, dtype=torch.float64)
    return norms


def rounding(X: Tensor) -> float:
    """A bound on the rounding error of products between unit vectors.

    It is seven times the average error when n_features numbers with one sign are
    summed; other sums have smaller errors.
    """
    return 2 * torch.finfo(X.dtype).eps * X.shape[1] ** 0.5


def block_size(device: torch.device) -> int:
    """Number of values that an intermediate array may have."""
    return BLOCK_SIZE if device.type == "cpu" else BLOCK_SIZE_ON_GPU


def same_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """Dot product of each sample with its own selection of atoms, (n_samples, n).

    On CPUs the result has the same bits wherever sample and atom are stored. Matrix
    products, and BLAS's dot product of two vectors, do not guarantee this, because they
    add in an order that depends on shapes and addresses.  On GPUs the order differs for
    a handful of sums.
    """
    n_rows = max(1, block_size(X.device) // (indices.shape[1] * X.shape[1]))
    return torch.cat(
        [
            (samples.unsqueeze(1) * atoms[chosen]).sum(2)
            for samples, chosen in zip(
                X.split(n_rows), indices.split(n_rows), strict=True
            )
        ]
    )
