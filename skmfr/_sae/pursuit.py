"""Orthogonal matching pursuit."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .._kernels.dense import linear
from .codes import SparseCodes, decode, gather_dot
from .ensemble import Ensemble
from .lstsq import DEPENDENT, RIDGE, least_squares, n_rows_with_atoms
from .selection import BlockCoder, lengths, rounding, same_dot, select

# Dictionaries up to this size have products of all atoms made (256 MB in float32).
MAX_GRAM = 8192


def omp_coder(sae: Ensemble, k: int) -> BlockCoder:
    """Orthogonal matching pursuit: k atoms, one at a time; signs are free.

    Each step adds the atom with the largest absolute product with the residual, and
    removes from the residual what it adds to the span (Pati, Rezaiifar, Krishnaprasad
    1993).  A sample that is reconstructed up to rounding gets no more atoms.

    The span's orthonormal basis is kept as combinations of its atoms, so that what a
    step costs beside the products does not depend on n_features.
    """
    dictionary = sae.decoder[0]
    exact = dictionary.double()
    gram = cache(lambda: linear(dictionary, dictionary))

    def coder(X: Tensor) -> SparseCodes:
        X_centred = X - sae.decoder_bias
        n_samples = len(X)
        products = _products(X_centred, dictionary, gram, k)
        X_exact = X_centred.double()
        indices = torch.zeros(n_samples, k, dtype=torch.int64, device=X.device)
        active = torch.zeros(n_samples, k, dtype=torch.bool, device=X.device)
        values = X_exact.new_zeros(n_samples, k)
        basis = X_exact.new_zeros(n_samples, k, k)
        size = lengths(X_exact)
        # What the ridge leaves behind of a sample is not worth an atom either.
        nothing = (rounding(X) + 100 * RIDGE) * size
        for step in range(k):
            support = indices[:, :step]
            codes = SparseCodes(values[:, :step], support)
            # What is in the support stays out of the race, at no more than rounding.
            scores = products(codes).abs_().scatter_(1, support, 0.0)

            def rescore(rows: Tensor, candidates: Tensor, codes=codes) -> Tensor:
                own = SparseCodes(*(part[rows] for part in codes))
                residual = X_exact[rows] - decode(own, exact)
                return same_dot(residual, exact, candidates).abs()

            margin = rounding(X) * (size + codes.values.abs().sum(1))
            best = select(scores, 1, margin, rescore)
            atom = best.indices
            # The new atom, less its projection on the span, of unit norm.
            cosine = gather_dot(exact[atom[:, 0]], exact, support)
            along = (basis[:, :step, :step] * cosine.unsqueeze(1)).sum(2)
            left = 1 - along.square().sum(1, keepdim=True)
            useful = (best.values > nothing.unsqueeze(1)) & (left > DEPENDENT[X.dtype])
            factor = torch.where(useful, left, torch.inf).rsqrt()
            row = basis[:, step]
            row[:, :step] = -(along.unsqueeze(2) * basis[:, :step, :step]).sum(1)
            row[:, step] = 1.0
            row *= factor

            indices[:, step : step + 1] = atom
            active[:, step : step + 1] = useful
            product = gather_dot(X_exact, exact, atom)
            product -= (codes.values * cosine).sum(1, keepdim=True)
            values += product * factor * row
        atoms = exact[indices]
        values = least_squares(X_centred, atoms, atoms @ atoms.mT, active)
        return SparseCodes(values, indices)

    return coder


def _products(
    X_centred: Tensor, dictionary: Tensor, gram: Callable[[], Tensor], k: int
) -> Callable[[SparseCodes], Tensor]:
    """Products of the residuals of some codes with all atoms, for matching pursuit.

    Returns
    -------
    callable(codes) -> Tensor of shape (n_samples, n_components)
    """

    def rounded(codes: SparseCodes) -> SparseCodes:
        return codes._replace(values=codes.values.to(dictionary.dtype))

    # Products of all atoms with each other are worth their cost if there are samples
    # enough: a step then adds up rows of theirs instead of a product with all atoms.
    if len(dictionary) <= min(MAX_GRAM, k * len(X_centred)):
        of_samples = linear(X_centred, dictionary)
        return lambda codes: decode(rounded(codes), gram()).neg_().add_(of_samples)
    return lambda codes: linear(
        X_centred - decode(rounded(codes), dictionary), dictionary
    )


def pursuit_codes(X: Tensor, ensemble: Ensemble, k: int) -> SparseCodes:
    """Codes by matching pursuit of each member, atoms numbered through the ensemble.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, k)
    """
    n_rows = n_rows_with_atoms(ensemble, k)
    blocks = []
    for i in range(len(ensemble)):
        coder = omp_coder(ensemble[i : i + 1], k)
        for block in X.split(n_rows):
            codes = coder(block)
            indices = codes.indices + i * ensemble.n_components
            blocks.append(codes._replace(indices=indices))
    return SparseCodes(*(torch.cat(part) for part in zip(*blocks, strict=True)))
