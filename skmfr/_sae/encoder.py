"""Codes by the encoder, for batches in training and for new data.

All kinds of SAEs compute scores ``s = (x - b) E^T + c``. They differ in the codes:

=========  =============================  =======================================
TopK       the k largest positive scores  k, without threshold
ReLU       positive scores                thresholds of 0
JumpReLU   scores above their thresholds  thresholds
gated      scores whose gate is open      thresholds, see `skmfr.io._weights.gated`
=========  =============================  =======================================

Other kinds are equal to one of these after training: BatchTopK and Matryoshka SAEs use
thresholds.  BatchTopK trains with the k largest scores per sample of a whole batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .._kernels import backend
from .._kernels.dense import lengths, linear, passing_linear, rounding, same_dot
from .codes import BlockCoder, SparseCodes, decode, top_k
from .ensemble import Ensemble

# Scores of samples at some atoms each, (n_rows, n), independent of the batch.
Rescore = Callable[[Tensor, Tensor], Tensor]
# Number of candidates in addition to k; at least a quarter of k.  bfloat16 scores are
# off by at most 1/256. In random data, digits and superposed features, no sample got
# other atoms than with k more candidates. With only a quarter of k = 8, one in 300 did.
MORE_CANDIDATES = 8
# Most active atoms of a sample, as a multiple of k, if samples share them.  Without a
# limit, a few tokens of a language model would have nine times k, and FVU would be 5 %
# higher.
MOST_OF_BATCH = 2


def rows_per_block(n_components: int, device: torch.device, dtype: torch.dtype) -> int:
    """Number of samples whose scores are computed and searched at once."""
    if device.type == "cpu":
        # The scores then stay in the last-level cache.  The product is slower with
        # fewer rows (a tenth with 256), and if their number is not a power of two.
        n_rows = (1 << 23) // (n_components * dtype.itemsize)
        return max(512, 1 << n_rows.bit_length() >> 1)
    return max(1024, (1 << 23) // n_components)


def encode(
    X_centred: Tensor, ensemble: Ensemble, k: int, low_precision: bool = False
) -> SparseCodes:
    """TopK(ReLU(X_centred E^T + c), k).

    Parameters
    ----------
    X_centred : Tensor of shape (n_members, n_samples, n_features)
        Samples minus the decoder bias.
    ensemble : Ensemble
    k : int
    low_precision : bool
        Whether to find some more candidates in bfloat16, and compute their scores again
        in full precision.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, k)
        Atoms are numbered through the ensemble.
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
        scores = backend(X_centred.device).gather_dot(
            X_centred.flatten(0, 1), ensemble.encoder.flatten(0, 1), indices
        )
        scores += ensemble.encoder_bias.flatten()[indices]
        values, position = top_k(scores, k)
        indices = indices.gather(1, position)
    return SparseCodes(values, indices)


def encode_batch(
    X_centred: Tensor, ensemble: Ensemble, k: int, low_precision: bool = False
) -> SparseCodes:
    """BatchTopK(ReLU(X_centred E^T + c), k): k active atoms per sample on average.

    Of all positive scores of a batch, the n_samples * k largest stay (Bussmann et al.,
    arXiv 2412.06410), here at most 2 k of one sample.  Parameters are as in
    :func:`encode`.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, min(2 * k, n_components))
    """
    n_members, n_samples, _ = X_centred.shape
    width = min(MOST_OF_BATCH * k, ensemble.n_components)
    codes = encode(X_centred, ensemble, width, low_precision)
    values = codes.values.view(n_members, n_samples * width)
    smallest = smallest_of_largest(values, n_samples * k)
    values.masked_fill_(values < smallest.unsqueeze(1), 0.0)
    return codes


def smallest_of_largest(values: Tensor, n: int) -> Tensor:
    """The smallest of the n largest values of each row; 0 if a row is not longer."""
    if n >= values.shape[1]:
        return values.new_zeros(len(values))
    return values.topk(n, dim=1, sorted=False).values.amin(1)


# Codes of batches in training, by the name of the activation function.
ENCODERS = {"topk": encode, "batchtopk": encode_batch}


def squares_left(
    ensemble: Ensemble, X: Tensor, encode: Callable[..., SparseCodes], k: int
) -> float:
    """Sum of the squares that codes of all members leave of X (n_samples, n_features).

    ``encode`` is one of ENCODERS.
    """
    X_centred = ensemble.centred(X)
    codes = encode(X_centred, ensemble, k)
    decoded = decode(codes, ensemble.decoder.flatten(0, 1))
    return float((X_centred.flatten(0, 1) - decoded).square().sum())


def encoder_coder(
    sae: Ensemble, k: int | None, threshold: Tensor | None = None
) -> BlockCoder:
    """TopK(ReLU((x - b) E^T + c), k), or by thresholds.

    Parameters
    ----------
    sae : Ensemble of one member
    k : int, optional
        May be None if there are thresholds.
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
        Maximum number of these scores to keep, the largest; None keeps all.
    threshold : Tensor of shape (n_components,)
        Non-negative thresholds.
    """
    scores_of = _scorer(sae)

    def coder(X: Tensor) -> SparseCodes:
        scores, margin, rescore = scores_of(X)
        # One pass over all scores; the few near the threshold are checked exactly.
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

        scores.fill_(-torch.inf)[rows, atoms] = values
        return select(scores, k, margin, rescore_active)

    return coder


def _scorer(sae: Ensemble) -> Callable[[Tensor], tuple[Tensor, Tensor, Rescore]]:
    """A function that returns scores (x - b) E^T + c, their error, and exact scores."""
    encoder, bias = sae.encoder[0], sae.encoder_bias[0]
    size = lengths(encoder).max()
    offset = 8 * torch.finfo(bias.dtype).eps * bias.abs().max()
    # Their scores are 0 without rounding, but would be within that of others.
    never = ((encoder == 0).all(1) & (bias <= 0)).nonzero()[:, 0]

    def scores_of(X: Tensor) -> tuple[Tensor, Tensor, Rescore]:
        X_centred = X - sae.decoder_bias

        def rescore(rows: Tensor, atoms: Tensor) -> Tensor:
            return same_dot(X_centred[rows], encoder, atoms) + bias[atoms]

        norms = lengths(X_centred)
        # Scores of a zero row are the biases.
        margin = torch.where(norms > 0, rounding(X) * norms * size + offset, 0.0)
        scores = passing_linear(X_centred, encoder, bias)
        if len(never):
            scores.index_fill_(1, never, -torch.inf)
        return scores, margin, rescore

    return scores_of


def side_by_side(
    rows: Tensor, atoms: Tensor, values: Tensor, counts: Tensor
) -> SparseCodes:
    """Codes of samples with different numbers of active atoms.

    Parameters
    ----------
    rows, atoms, values : Tensor of shape (n_entries,)
        Sample by sample.
    counts : Tensor of shape (n_samples,)
        Number of entries of each sample.

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
    """The largest k positive scores, regardless of rounding.

    Parameters
    ----------
    scores : Tensor of shape (n_samples, n_components)
    k : int
    margin : Tensor of shape (n_samples,)
        Scores that differ by at most this may be in either order.
    rescore : callable(rows, atoms) -> scores
        Computes the scores of some samples at some atoms each, (n_rows, n),
        independently of the batch.

    Returns
    -------
    SparseCodes of shape (n_samples, k), unordered
    """
    largest = backend(scores.device).largest
    if k == scores.shape[1]:
        values, indices = largest(scores, k)
    else:
        values, indices = largest(scores, k + 1)
        # The smallest of these goes to the last place, which takes less than sorting.
        left_out, place = values.min(1, keepdim=True)
        for each in (values, indices):
            each.scatter_(1, place, each[:, k:].clone())
        values, indices = values[:, :k], indices[:, :k]
        close = values.amin(1) - left_out[:, 0] <= margin
        settle_last_(values, indices, close, scores, margin, rescore)
    # Whether a score is positive decides whether its atom is in use.
    rows, places = (values.abs() <= margin.unsqueeze(1)).nonzero(as_tuple=True)
    if len(rows):
        exact = rescore(rows, indices[rows, places].unsqueeze(1))[:, 0]
        values[rows, places] = exact.to(values.dtype)
    return SparseCodes(values.clamp_(min=0), indices)


def settle_last_(
    values: Tensor,
    indices: Tensor,
    close: Tensor,
    scores: Tensor,
    margin: Tensor,
    rescore: Rescore,
) -> None:
    """Choose again, in place, where rounding may have decided which score is the last.

    Parameters
    ----------
    values, indices : Tensor of shape (n_samples, k)
    close : Tensor of shape (n_samples,), bool
        Where the last of these and the first of the others are within the margin.
    scores, margin, rescore
        As in :func:`select`.
    """
    k, smallest = values.shape[1], values.amin(1)
    rows = (close & (smallest > -margin)).nonzero()[:, 0]
    if len(rows):
        scores = scores[rows]
        smallest, margin = smallest[rows].unsqueeze(1), margin[rows].unsqueeze(1)
        n_candidates = int((scores >= smallest - margin).sum(1).max())
        # Atoms far enough above the smallest are in, whatever the order of the others.
        n_in = k - int((values[rows] <= smallest + margin).sum(1).max())
        ordered = in_order(top_k(scores, max(n_candidates, k)))
        candidates = ordered.indices[:, n_in:].sort(1).values
        settled = in_order(
            SparseCodes(rescore(rows, candidates).clamp_(min=0), candidates)
        )
        for each, first, rest in zip((values, indices), ordered, settled, strict=True):
            chosen = rest[:, : k - n_in].to(each.dtype)
            each[rows] = torch.cat([first[:, :n_in], chosen], dim=1)


def in_order(codes: SparseCodes) -> SparseCodes:
    """Codes in descending order of value, with a stable order of equal values."""
    values, place = torch.sort(codes.values, dim=1, descending=True, stable=True)
    return SparseCodes(values, codes.indices.gather(1, place))
