"""Orthogonal matching pursuit."""

import torch
from torch import Tensor

from .._kernels import backend
from .codes import BlockCoder, SparseCodes
from .encoder import rows_per_block
from .ensemble import Ensemble

# Maximum number of bytes for products of all atoms with each other.  On CPUs, a copy in
# 16 bits comes on top.
MAX_GRAM = 1 << 30


def omp_coder(sae: Ensemble, k: int, positive: bool = False) -> BlockCoder:
    """Orthogonal matching pursuit with k atoms, signed or non-negative.

    See `.._kernels.batched.pursuit`.
    """
    dictionary = sae.decoder[0]
    kernels = backend(dictionary.device)
    n_components = len(dictionary)
    fits = n_components**2 * dictionary.itemsize <= MAX_GRAM
    gram: Tensor | None = None
    n_seen = 0

    def coder(X: Tensor) -> SparseCodes:
        nonlocal gram, n_seen
        # After this many samples, products between all atoms pay off: each step then
        # adds their rows instead of computing a product with all atoms.
        n_seen += len(X)
        if gram is None and fits and n_components <= k * n_seen:
            gram = kernels.gram(dictionary)
        X_centred = X - sae.decoder_bias
        return SparseCodes(*kernels.pursuit(X_centred, dictionary, gram, k, positive))

    return coder


def pursuit_codes(X: Tensor, ensemble: Ensemble, k: int, positive: bool) -> SparseCodes:
    """Matching pursuit codes of each member, with atoms numbered through the ensemble.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, k)
    """
    n_rows = rows_per_block(ensemble.n_components, X.device, X.dtype)
    blocks = []
    for i in range(len(ensemble)):
        coder = omp_coder(ensemble[i : i + 1], k, positive)
        for block in X.split(n_rows):
            codes = coder(block)
            indices = codes.indices + i * ensemble.n_components
            blocks.append(codes._replace(indices=indices))
    return SparseCodes(*(torch.cat(part) for part in zip(*blocks, strict=True)))
