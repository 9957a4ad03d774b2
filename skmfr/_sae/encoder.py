"""Codes by the encoder, of batches in training and of new data.

Of scores ``s = (x - b) E^T + c``, which codes an SAE of whatever kind has:

=========  =============================  =======================================
TopK       the k largest positive scores  k, no threshold
ReLU       positive scores                thresholds of 0
JumpReLU   scores above a threshold each  thresholds
gated      those whose gate is open       thresholds, see `skmfr.io._weights.gated`
=========  =============================  =======================================

Other kinds are one of these once they are trained: BatchTopK and Matryoshka SAEs are
used with thresholds.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .._kernels.dense import lengths, linear, rounding, same_dot
from .codes import BlockCoder, SparseCodes, gather_dot, top_k
from .ensemble import Ensemble

# Scores of some samples at some atoms of each, (n_rows, n), the same in any batch.
Rescore = Callable[[Tensor, Tensor], Tensor]
# Candidates beside k, or a quarter of k.  Scores of bfloat16 are off by 1/256 at most:
# of random data, digits and superposed features no sample got other atoms with so many
# than with k more, and one in 300 with a quarter of k = 8 alone.
MORE_CANDIDATES = 8


def rows_per_block(n_components: int, device: torch.device, dtype: torch.dtype) -> int:
    """Samples whose pre-activations are made, and searched, at once."""
    if device.type == "cpu":
        # They stay in the last cache, and in memory that is had again without fresh
        # pages, which cost as much as the product.  Of fewer rows a product is slower,
        # and of a number that is no power of two.
        n_rows = (1 << 23) // (n_components * dtype.itemsize)
        return max(256, 1 << n_rows.bit_length() >> 1)
    return max(1024, (1 << 23) // n_components)


def encode(
    X_centred: Tensor, ensemble: Ensemble, k: int, low_precision: bool = False
) -> SparseCodes:
    """TopK(ReLU(X_centred E^T + c), k).

    Parameters
    ----------
    X_centred : Tensor of shape (n_members, n_samples, n_features)
        Samples less the decoder bias.
    ensemble : Ensemble
    k : int
    low_precision : bool
        Whether bfloat16 screens for some more candidates, whose pre-activations are
        then computed again in full precision.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, k)
        Atoms numbered through the ensemble.
    """
    n_members, n_samples, _ = X_centred.shape
    n_components = ensemble.n_components
    dtype = torch.bfloat16 if low_precision else X_centred.dtype
    n_more = max(MORE_CANDIDATES, k // 4) if low_precision else 0
    width = min(k + n_more, n_components)
    X, encoder, bias = (
        part.to(dtype) for part in (X_centred, ensemble.encoder, ensemble.encoder_bias)
    )
    n_rows = rows_per_block(n_components, X.device, dtype)
    blocks = [
        (block, encoder[i], bias[i])
        for i in range(n_members)
        for block in X[i].split(n_rows)
    ]
    # Small members are searched together.
    n_together = max(1, n_rows // n_samples)
    found = []
    for first in range(0, len(blocks), n_together):
        parts = [linear(*block) for block in blocks[first : first + n_together]]
        found.append(top_k(torch.cat(parts) if len(parts) > 1 else parts[0], width))
    values, indices = (torch.cat(part) for part in zip(*found, strict=True))
    if n_members > 1:
        member = torch.arange(n_members, device=indices.device) * n_components
        indices = indices.view(n_members, n_samples, width) + member.view(-1, 1, 1)
        indices = indices.flatten(0, 1)
    if low_precision:
        scores = gather_dot(
            X_centred.flatten(0, 1), ensemble.encoder.flatten(0, 1), indices
        )
        scores += ensemble.encoder_bias.flatten()[indices]
        values, position = top_k(scores, k)
        indices = indices.gather(1, position)
    return SparseCodes(values, indices)


def encoder_coder(
    sae: Ensemble, k: int | None, threshold: Tensor | None = None
) -> BlockCoder:
    """TopK(ReLU((x - b) E^T + c), k), or by thresholds.

    Parameters
    ----------
    sae : Ensemble of one member
    k : int, optional
        There may be none if there are thresholds.
    threshold : Tensor of shape (n_components,), optional
    """
    if threshold is not None:
        return threshold_coder(sae, k, threshold)
    assert k is not None
    scores_of = _scorer(sae)

    def coder(X: Tensor) -> SparseCodes:
        scores, margin, rescore = scores_of(X)
        return select(scores, k, margin, rescore)

    return coder


def threshold_coder(sae: Ensemble, k: int | None, threshold: Tensor) -> BlockCoder:
    """JumpReLU: scores above the threshold of their atom.

    Parameters
    ----------
    sae : Ensemble of one member
    k : int, optional
        How many of them at most, the largest.
    threshold : Tensor of shape (n_components,)
        Not negative.
    """
    scores_of = _scorer(sae)

    def coder(X: Tensor) -> SparseCodes:
        scores, margin, rescore = scores_of(X)
        # One pass over all scores; what is on the edge is settled among the few left.
        near = scores > threshold - margin.max()
        rows, atoms = near.nonzero(as_tuple=True)
        values = scores[rows, atoms]
        edge = (values - threshold[atoms]).abs() <= margin[rows]
        values[edge] = rescore(rows[edge], atoms[edge, None])[:, 0].to(values.dtype)
        active = values > threshold[atoms]
        rows, atoms, values = rows[active], atoms[active], values[active]
        counts = torch.bincount(rows, minlength=len(X))
        if k is None or int(counts.max()) <= k:
            return side_by_side(rows, atoms, values, counts)

        def rescore_active(rows: Tensor, atoms: Tensor) -> Tensor:
            exact = rescore(rows, atoms)
            return exact.masked_fill(exact <= threshold[atoms], 0.0)

        scores.zero_()[rows, atoms] = values
        return select(scores, k, margin, rescore_active)

    return coder


def _scorer(sae: Ensemble) -> Callable[[Tensor], tuple[Tensor, Tensor, Rescore]]:
    """Scores (x - b) E^T + c of samples, what rounding does to them, and exact ones."""
    encoder, bias = sae.encoder[0], sae.encoder_bias[0]
    size = lengths(encoder).max()
    offset = 8 * torch.finfo(bias.dtype).eps * bias.abs().max()

    def scores_of(X: Tensor) -> tuple[Tensor, Tensor, Rescore]:
        X_centred = X - sae.decoder_bias

        def rescore(rows: Tensor, atoms: Tensor) -> Tensor:
            return same_dot(X_centred[rows], encoder, atoms) + bias[atoms]

        margin = rounding(X) * lengths(X_centred) * size + offset
        return linear(X_centred, encoder, bias), margin, rescore

    return scores_of


def side_by_side(
    rows: Tensor, atoms: Tensor, values: Tensor, counts: Tensor
) -> SparseCodes:
    """Codes whose samples are active in different numbers of atoms.

    Parameters
    ----------
    rows, atoms, values : Tensor of shape (n_entries,)
        Sample after sample.
    counts : Tensor of shape (n_samples,)
        Entries of each.

    Returns
    -------
    SparseCodes of shape (n_samples, most entries of a sample)
    """
    width = max(1, int(counts.max()))
    place = torch.arange(len(rows), device=rows.device)
    place -= (counts.cumsum(0) - counts)[rows]
    indices = atoms.new_zeros(len(counts), width)
    padded = values.new_zeros(len(counts), width)
    indices[rows, place], padded[rows, place] = atoms, values
    return SparseCodes(padded, indices)


def select(
    scores: Tensor,
    k: int,
    margin: Tensor,
    rescore: Rescore,
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


def in_order(codes: SparseCodes) -> SparseCodes:
    """Codes in descending order of value, equal values as they stood."""
    values, place = torch.sort(codes.values, dim=1, descending=True, stable=True)
    return SparseCodes(values, codes.indices.gather(1, place))
