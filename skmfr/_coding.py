"""Codes of new data: encoder, least squares on its support, or matching pursuit.

All three are functions of one sample: where rounding, which in a matrix product depends
on the rest of the batch, could decide which atom enters, the scores are computed again
sample by sample, and equal ones go to the atom that comes first.  What matching pursuit
makes of the chosen atoms it computes in float64, since atoms that are nearly dependent
make much of any rounding.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ._codes import SparseCodes, decode, gather_dot, top_k
from ._dense import linear
from ._ensemble import Ensemble, rows_per_block

# Ridge, relative to atoms of norm 1, that keeps least squares finite where atoms of a
# support are linearly dependent.  It runs in float64, where this is no more than noise.
RIDGE = 1e-12
# Squared distance of an atom to the span of others below which it counts as one that
# depends on them: it is no more than rounding of the products of atoms.
DEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}
# Dictionaries up to this size have products of all atoms made (256 MB in float32).
MAX_GRAM = 8192
# Numbers in the largest intermediate array, 64 MB in float32; on GPUs, where a block
# takes as many launches whatever its size, 512 MB.
BLOCK_SIZE, BLOCK_SIZE_ON_GPU = 1 << 24, 1 << 27

# Codes of samples (n_samples, n_features), by what was prepared for all of them.
Coder = Callable[[Tensor], SparseCodes]


def n_rows_per_block(algorithm: str, sae: Ensemble, k: int) -> int:
    """Samples to code at once, for intermediate arrays of bounded size."""
    n_components, n_features = sae.decoder.shape[1:]
    device = sae.decoder.device
    if algorithm == "encoder":
        most = rows_per_block(n_components, device, sae.decoder.dtype)
        return min(most, max(16, block_size(device) // n_features))
    return max(16, block_size(device) // max(n_components, k * n_features))


def block_size(device: torch.device) -> int:
    return BLOCK_SIZE if device.type == "cpu" else BLOCK_SIZE_ON_GPU


def encoder_coder(sae: Ensemble, k: int) -> Coder:
    """TopK(ReLU((x - b) E^T + c), k).

    Parameters
    ----------
    sae : Ensemble of one member
    k : int
    """
    encoder, bias = sae.encoder[0], sae.encoder_bias[0]
    size = lengths(encoder).max()
    offset = 8 * torch.finfo(bias.dtype).eps * bias.abs().max()

    def coder(X: Tensor) -> SparseCodes:
        X_centred = X - sae.decoder_bias

        def rescore(rows: Tensor, atoms: Tensor) -> Tensor:
            return same_dot(X_centred[rows], encoder, atoms) + bias[atoms]

        margin = rounding(X) * lengths(X_centred) * size + offset
        return select(linear(X_centred, encoder, bias), k, margin, rescore)

    return coder


def lstsq_coder(sae: Ensemble, k: int) -> Coder:
    """Least squares on the support of the encoder's codes; signs are free."""
    by_encoder = encoder_coder(sae, k)
    return lambda X: refitted(by_encoder(X), X, sae)


def refitted(codes: SparseCodes, X: Tensor, sae: Ensemble) -> SparseCodes:
    """Least squares on the support of some codes of X.

    Atoms that depend on others of the support get 0, and these their share.
    """
    # Which atom depends on others should not hang on the order of nearly equal codes.
    indices, place = codes.indices.sort(1)
    atoms = sae.decoder[0].double()[indices]
    gram = atoms @ atoms.mT
    active = independent(gram, codes.values.gather(1, place) != 0)
    values = least_squares(X - sae.decoder_bias, atoms, gram, active)
    return SparseCodes(values, indices)


def omp_coder(sae: Ensemble, k: int) -> Coder:
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
    n_rows = n_rows_per_block("omp", ensemble, k)
    blocks = []
    for i in range(len(ensemble)):
        coder = omp_coder(ensemble[i : i + 1], k)
        for block in X.split(n_rows):
            codes = coder(block)
            indices = codes.indices + i * ensemble.n_components
            blocks.append(codes._replace(indices=indices))
    return SparseCodes(*(torch.cat(part) for part in zip(*blocks, strict=True)))


ALGORITHMS: dict[str, Callable[[Ensemble, int], Coder]] = {
    "encoder": encoder_coder,
    "lstsq": lstsq_coder,
    "omp": omp_coder,
}


def rounding(X: Tensor) -> float:
    """A bound, with room, on what rounding does to products of vectors of norm 1."""
    return 8 * torch.finfo(X.dtype).eps * X.shape[1] ** 0.5


def lengths(X: Tensor) -> Tensor:
    """Norm of each row, in float64, where squares of float32 cannot overflow."""
    return torch.linalg.vector_norm(X, dim=1, dtype=torch.float64)


def select(
    scores: Tensor,
    k: int,
    margin: Tensor,
    rescore: Callable[[Tensor, Tensor], Tensor],
) -> SparseCodes:
    """The largest k positive scores, independently of how they were rounded.

    Parameters
    ----------
    scores : Tensor of shape (n_samples, n_components)
    k : int
    margin : Tensor of shape (n_samples,)
        Scores no further apart than this may be in either order.
    rescore : callable(rows, atoms) -> scores
        Computes the scores of some samples at some atoms of each, (n_rows, n), the
        same way whatever the batch.

    Returns
    -------
    SparseCodes of shape (n_samples, k)
        In descending order.
    """
    n_components = scores.shape[1]
    codes = in_order(top_k(scores, min(k + 1, n_components)))
    values, indices = codes.values[:, :k], codes.indices[:, :k]
    if k == n_components:
        return SparseCodes(values, indices)
    smallest = values[:, -1]
    close = smallest - codes.values[:, k] <= margin
    rows = (close & (smallest > 0)).nonzero()[:, 0]
    if len(rows):
        scores, values, indices = scores[rows], values.clone(), indices.clone()
        smallest, margin = smallest[rows].unsqueeze(1), margin[rows].unsqueeze(1)
        n_candidates = int((scores >= smallest - margin).sum(1).max())
        # Those far enough above the smallest are in, wherever the others end.
        n_in = k - int((values[rows] <= smallest + margin).sum(1).max())
        ordered = in_order(top_k(scores, max(n_candidates, k))).indices
        candidates = ordered[:, n_in:].sort(1).values
        settled = in_order(
            SparseCodes(rescore(rows, candidates).clamp_(min=0), candidates)
        )
        values[rows, n_in:] = settled.values[:, : k - n_in].to(values.dtype)
        indices[rows] = torch.cat(
            [ordered[:, :n_in], settled.indices[:, : k - n_in]], dim=1
        )
    return SparseCodes(values, indices)


def same_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """Dot product of each sample with some atoms of its own, (n_samples, n).

    On CPUs the same bits wherever sample and atom stand, which neither a matrix product
    nor BLAS's dot product of two vectors grants: they add up in an order that depends
    on shapes and addresses.  On GPUs the order is another one for a handful of sums.
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


def in_order(codes: SparseCodes) -> SparseCodes:
    """Codes in descending order of value, equal values as they stood."""
    values, place = torch.sort(codes.values, dim=1, descending=True, stable=True)
    return SparseCodes(values, codes.indices.gather(1, place))


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
    gram.diagonal(dim1=1, dim2=2).add_(torch.where(active, RIDGE, 1.0))
    products = torch.where(used, atoms @ X_centred.double().unsqueeze(2), 0.0)
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(products, factor).squeeze(2).to(X_centred.dtype)


def reconstruct(codes: SparseCodes, sae: Ensemble) -> Tensor:
    """z D + b, (n_samples, n_features)."""
    return decode(codes, sae.decoder[0]) + sae.decoder_bias
