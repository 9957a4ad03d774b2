"""Least squares on the support of other codes."""

import torch
from torch import Tensor

from .codes import SparseCodes
from .encoder import encoder_coder
from .ensemble import Ensemble
from .selection import BlockCoder, block_size

# Squared distance of an atom to the span of others below which it counts as one that
# depends on them: it is no more than rounding of the products of atoms.
DEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}
# Ridge, relative to atoms of norm 1, that keeps least squares finite where atoms of a
# support are linearly dependent.  It runs in float64, where this is no more than noise.
RIDGE = 1e-12


def lstsq_coder(sae: Ensemble, k: int) -> BlockCoder:
    """Least squares on the support of the encoder's codes; signs are free."""
    by_encoder = encoder_coder(sae, k)
    return lambda X: refitted(by_encoder(X), X, sae)


def refitted(codes: SparseCodes, X: Tensor, sae: Ensemble) -> SparseCodes:
    """Least squares on the support of some codes of X.

    Atoms that depend on others of the support get 0, and these their share.
    """
    # Which atom depends on others should not hang on the order of nearly equal codes.
    indices, place = codes.indices.sort(1)
    atoms = sae.decoder[0][indices].double()
    gram = atoms @ atoms.mT
    active = independent(gram, codes.values.gather(1, place) != 0)
    values = least_squares(X - sae.decoder_bias, atoms, gram, active)
    return SparseCodes(values, indices)


def independent(gram: Tensor, active: Tensor) -> Tensor:
    """Active atoms that add something to the span of those before them.

    Parameters
    ----------
    gram : Tensor of shape (n_samples, k, k), float64
        Products of the atoms of each sample.
    active : Tensor of shape (n_samples, k), bool

    Returns
    -------
    Tensor of shape (n_samples, k), bool
    """
    gram, active = gram.clone(), active.clone()
    for step in range(active.shape[1]):
        left = gram[:, step, step]
        active[:, step] &= left > DEPENDENT[gram.dtype]
        factor = torch.where(active[:, step], left, torch.inf).rsqrt()
        along = gram[:, step] * factor.unsqueeze(1)
        gram -= along.unsqueeze(1) * along.unsqueeze(2)
    return active


def least_squares(
    X_centred: Tensor, atoms: Tensor, gram: Tensor, active: Tensor
) -> Tensor:
    """Coefficients of the best approximation of each sample by its own atoms.

    Parameters
    ----------
    X_centred : Tensor of shape (n_samples, n_features)
    atoms : Tensor of shape (n_samples, k, n_features), float64
        Rows of unit norm.
    gram : Tensor of shape (n_samples, k, k)
        Their products.
    active : Tensor of shape (n_samples, k), bool
        Atoms to use; the others get 0.

    Returns
    -------
    Tensor of shape (n_samples, k)
    """
    used = active.unsqueeze(2)
    gram = torch.where(used & used.mT, gram, 0.0)
    gram.diagonal(dim1=1, dim2=2).add_(RIDGE).masked_fill_(~active, 1.0)
    products = torch.where(used, atoms @ X_centred.double().unsqueeze(2), 0.0)
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(products, factor).squeeze(2).to(X_centred.dtype)


def n_rows_with_atoms(sae: Ensemble, k: int) -> int:
    """Samples to code at once where each has k atoms gathered, of bounded memory."""
    n_components, n_features = sae.decoder.shape[1:]
    size = block_size(sae.decoder.device)
    return max(16, size // max(n_components, k * n_features))
