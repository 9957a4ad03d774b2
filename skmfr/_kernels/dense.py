"""Dense products, by the fastest of the libraries that PyTorch brings along."""

from functools import cache

import torch
from torch import Tensor


def linear(X: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As ``torch.nn.functional.linear``: X weight^T + bias.

    PyTorch leaves products of float32 to MKL, which takes 10 % longer than oneDNN on
    the processor of AMD that ours are measured on (docs/speed.md); and oneDNN adds the
    bias while it writes the product.

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


@cache
def _dtypes_of_onednn() -> frozenset[torch.dtype]:
    """What oneDNN computes with, where PyTorch would call MKL."""
    # The operator is for PyTorch's own compiler, and may be called otherwise one day.
    if not (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return frozenset()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return frozenset({torch.float32, torch.bfloat16})
    return frozenset({torch.float32})
