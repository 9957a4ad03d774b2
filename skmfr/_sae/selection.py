"""The largest scores of a sample, whatever the rest of its batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from .codes import SparseCodes, top_k

# Codes of a block of samples (n_samples, n_features), by what was prepared for all.
BlockCoder = Callable[[Tensor], SparseCodes]


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


def in_order(codes: SparseCodes) -> SparseCodes:
    """Codes in descending order of value, equal values as they stood."""
    values, place = torch.sort(codes.values, dim=1, descending=True, stable=True)
    return SparseCodes(values, codes.indices.gather(1, place))
