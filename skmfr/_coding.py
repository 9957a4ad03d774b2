"""Codes of new data: encoder, least squares on its support, or matching pursuit.

All three are functions of one sample: where rounding, which in a matrix product depends
on the rest of the batch, could decide which atom enters, the scores are computed again
sample by sample, and equal ones go to the atom that comes first.  (But for matching
pursuit with atoms that are nearly dependent, which make much of any rounding.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ._codes import SparseCodes, decode, gather_dot, top_k
from ._ensemble import BLOCK_ROWS, Ensemble

# Ridge, relative to atoms of norm 1, that keeps least squares finite where atoms of a
# support are linearly dependent.  It runs in float64, where this is no more than noise.
RIDGE = 1e-12
# Squared distance of an atom to the span of others below which it adds to it nothing
# but rounding, of products of atoms and what many atoms make of it.
DEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}
# Dictionaries up to this size have products of all atoms made (256 MB in float32).
MAX_GRAM = 8192
# Numbers in the largest intermediate array, 64 MB in float32.
BLOCK_SIZE = 1 << 24


def n_rows_per_block(algorithm: str, n_features: int, n_components: int, k: int) -> int:
    """Samples to code at once, for intermediate arrays of bounded size."""
    n_rows = BLOCK_SIZE // n_components
    if algorithm == "encoder":
        # Scores that stay in the cache until they are searched, if that leaves as many
        # rows as a matrix product takes to be fast.
        return max(16, min(n_rows, max(BLOCK_ROWS, n_rows // 4)))
    return max(16, min(n_rows, BLOCK_SIZE // (k * n_features)))


def encoder_codes(X: Tensor, sae: Ensemble, k: int) -> SparseCodes:
    """TopK(ReLU((x - b) E^T + c), k).

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    sae : Ensemble of one member
    k : int
    """
    encoder, bias = sae.encoder[0], sae.encoder_bias[0]
    X_centred = X - sae.decoder_bias
    scores = torch.addmm(bias, X_centred, encoder.T)
    size = torch.linalg.vector_norm(encoder, dim=1).max()

    def rescore(rows: Tensor, atoms: Tensor) -> Tensor:
        return same_dot(X_centred[rows], encoder, atoms) + bias[atoms]

    margin = rounding(X_centred, size)
    margin += 8 * torch.finfo(X.dtype).eps * bias.abs().max()
    return select(scores, k, margin, rescore)


def lstsq_codes(X: Tensor, sae: Ensemble, k: int) -> SparseCodes:
    """Least squares on the support of the encoder's codes; signs are free."""
    codes = encoder_codes(X, sae, k)
    atoms = sae.decoder[0][codes.indices]
    values = least_squares(X - sae.decoder_bias, atoms, codes.values > 0)
    return SparseCodes(values, codes.indices)


def omp_codes(X: Tensor, sae: Ensemble, k: int) -> SparseCodes:
    """Orthogonal matching pursuit: k atoms, one at a time; signs are free.

    Each step adds the atom with the largest absolute product with the residual, and
    removes from the residual what it adds to the span (Pati, Rezaiifar, Krishnaprasad
    1993).  A sample that is reconstructed up to rounding gets no more atoms.

    The span's orthonormal basis is kept as combinations of its atoms, so that what a
    step costs beside the products does not depend on n_features.
    """
    dictionary = sae.decoder[0]
    X_centred = X - sae.decoder_bias
    n_samples = len(X)
    indices = torch.zeros(n_samples, k, dtype=torch.int64, device=X.device)
    active = torch.zeros(n_samples, k, dtype=torch.bool, device=X.device)
    values = X.new_zeros(n_samples, k)
    basis = X.new_zeros(n_samples, k, k)
    error = rounding(X_centred, dictionary.new_ones(()))
    # What the ridge leaves behind of a sample is not worth an atom either.
    nothing = error + 100 * RIDGE * X_centred.norm(dim=1)
    products, cosines = _products(X_centred, dictionary, k)
    for step in range(k):
        support = indices[:, :step]
        codes = SparseCodes(values[:, :step], support)
        # What is in the support stays out of the race, at no more than rounding.
        scores = products(codes).abs_().scatter_(1, support, 0.0)

        def rescore(rows: Tensor, candidates: Tensor, codes=codes) -> Tensor:
            own = SparseCodes(*(part[rows] for part in codes))
            residual = X_centred[rows] - decode(own, dictionary)
            return same_dot(residual, dictionary, candidates).abs()

        best = select(scores, 1, error, rescore)
        atom = best.indices
        # The new atom, less its projection on the span, of unit norm.
        cosine = cosines(atom, support)
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
        product = gather_dot(X_centred, dictionary, atom)
        product -= (codes.values * cosine).sum(1, keepdim=True)
        values += product * factor * row
    values = least_squares(X_centred, dictionary[indices], active)
    return SparseCodes(values, indices)


def _products(
    X_centred: Tensor, dictionary: Tensor, k: int
) -> tuple[Callable[[SparseCodes], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """What matching pursuit asks of samples and dictionary again and again.

    Returns
    -------
    products : callable(codes) -> Tensor of shape (n_samples, n_components)
        Of the residual of some codes with all atoms.
    cosines : callable(atom, support) -> Tensor of shape (n_samples, n)
        Of an atom of each sample, (n_samples, 1), with others of it, (n_samples, n).
    """
    n_components = len(dictionary)
    # Products of all atoms with each other are worth their cost if there are samples
    # enough: a step then adds up rows of theirs instead of a product with all atoms.
    if n_components <= min(MAX_GRAM, k * len(X_centred)):
        of_samples = X_centred @ dictionary.T
        gram = dictionary @ dictionary.T
        return (
            lambda codes: decode(codes, gram).neg_().add_(of_samples),
            lambda atom, support: gram[atom, support],
        )

    def products(codes: SparseCodes) -> Tensor:
        return (X_centred - decode(codes, dictionary)) @ dictionary.T

    def cosines(atom: Tensor, support: Tensor) -> Tensor:
        return gather_dot(dictionary[atom[:, 0]], dictionary, support)

    return products, cosines


def pursuit_codes(X: Tensor, ensemble: Ensemble, k: int) -> SparseCodes:
    """Codes by matching pursuit of each member, atoms numbered through the ensemble.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, k)
    """
    n_rows = n_rows_per_block("omp", X.shape[1], ensemble.n_components, k)
    blocks = [
        (i, omp_codes(block, ensemble[i : i + 1], k))
        for i in range(len(ensemble))
        for block in X.split(n_rows)
    ]
    return SparseCodes(
        torch.cat([codes.values for _, codes in blocks]),
        torch.cat([codes.indices + i * ensemble.n_components for i, codes in blocks]),
    )


ALGORITHMS: dict[str, Callable[[Tensor, Ensemble, int], SparseCodes]] = {
    "encoder": encoder_codes,
    "lstsq": lstsq_codes,
    "omp": omp_codes,
}


def rounding(X_centred: Tensor, atom_size: Tensor) -> Tensor:
    """A bound, with room, on what rounding does to products with atoms, per sample."""
    n_features = X_centred.shape[1]
    eps = torch.finfo(X_centred.dtype).eps
    return 8 * eps * n_features**0.5 * X_centred.norm(dim=1) * atom_size


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
        values[rows, n_in:] = settled.values[:, : k - n_in]
        indices[rows] = torch.cat(
            [ordered[:, :n_in], settled.indices[:, : k - n_in]], dim=1
        )
    return SparseCodes(values, indices)


def same_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """Dot product of each sample with some atoms of its own, (n_samples, n).

    The same bits wherever sample and atom stand, which neither a matrix product nor
    BLAS's dot product of two vectors grants: they add up in an order that depends on
    shapes and addresses.
    """
    n_rows = max(1, BLOCK_SIZE // (indices.shape[1] * X.shape[1]))
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


def least_squares(X_centred: Tensor, atoms: Tensor, active: Tensor) -> Tensor:
    """Coefficients of the best approximation of each sample by its own atoms.

    Parameters
    ----------
    X_centred : Tensor of shape (n_samples, n_features)
    atoms : Tensor of shape (n_samples, k, n_features)
        Rows of unit norm.
    active : Tensor of shape (n_samples, k), bool
        Atoms to use; the others get 0.

    Returns
    -------
    Tensor of shape (n_samples, k)
    """
    used = active.unsqueeze(2)
    atoms = torch.where(used, atoms, 0.0).double()
    gram = atoms @ atoms.mT
    gram.diagonal(dim1=1, dim2=2).add_(torch.where(active, RIDGE, 1.0))
    products = atoms @ X_centred.double().unsqueeze(2)
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(products, factor).squeeze(2).to(X_centred.dtype)


def reconstruct(codes: SparseCodes, sae: Ensemble) -> Tensor:
    """z D + b, (n_samples, n_features)."""
    return decode(codes, sae.decoder[0]) + sae.decoder_bias
