"""Pool all positions of an input to one row."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._utils.ambient import undisturbed

POOLINGS = ("last", "mean", "max", "all")
# Number of activations to code at once if their codes are pooled and not kept.
ROWS_TO_CODE = 8192


@undisturbed()
def pool(activations: Tensor, mask: np.ndarray | None, positions: str | int) -> Tensor:
    """Rows of one batch.

    Parameters
    ----------
    activations : Tensor of shape (n_inputs, n_positions, width)
    mask : ndarray of shape (n_inputs, n_positions), bool, or None
        Positions that count; None if all do.
    positions : {"last", "mean", "max", "all"} or int
        An integer indexes the positions that count.

    Returns
    -------
    Tensor of shape (n_inputs, width), or (n_counting, width) for "all"

    Raises
    ------
    ValueError
        If an input does not have that position.
    """
    if mask is None or mask.all():
        if positions == "all":
            return activations.flatten(0, 1)
        if positions == "mean":
            return activations.mean(1)
        if positions == "max":
            return activations.amax(1)
        mask = np.ones(activations.shape[:2], dtype=bool)
    counting = torch.from_numpy(mask).to(activations.device)
    if positions == "all":
        return activations[counting]
    if positions == "mean":
        weights = counting.to(activations.dtype)
        weights /= weights.sum(1, keepdim=True)
        return torch.einsum("np,npw->nw", weights, activations)
    if positions == "max":
        return activations.masked_fill(~counting.unsqueeze(2), -torch.inf).amax(1)
    chosen = torch.from_numpy(nth_counting(mask, positions)).to(activations.device)
    return activations[torch.arange(len(chosen), device=chosen.device), chosen]


def row_norms(rows: np.ndarray) -> np.ndarray:
    """Euclidean norms, (n_rows,), computed without storing squares of all rows."""
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))


def bounded(
    rows: np.ndarray, lengths: np.ndarray, max_norm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with norms up to a bound, and the number of each input.

    Parameters
    ----------
    rows : ndarray of shape (n_positions, width)
        Input by input.
    lengths : ndarray of shape (n_inputs,), int
        Number of positions of each input.
    max_norm : float
    """
    kept = row_norms(rows) <= max_norm
    if kept.all():
        return rows, lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return rows[kept], np.bincount(owner[kept], minlength=len(lengths))


def check_left(lengths: np.ndarray, positions: str | int, start: int = 0) -> None:
    """Check that enough positions are left for the requested rows.

    Parameters
    ----------
    lengths : ndarray of shape (n_inputs,), int
        Number of remaining positions of each input.
    positions : str or int
        See :func:`pool`.
    start : int
        Index of the first input.

    Raises
    ------
    ValueError
        If an input has none, or, for "all", if there are none at all.
    """
    lost = lengths == 0
    if positions == "all" and lost.all():
        raise nothing_left("all inputs", f"positions={positions!r}")
    if positions != "all" and lost.any():
        raise nothing_left(f"X[{start + lost.argmax()}]", f"positions={positions!r}")


def nothing_left(whose: str, needing: str) -> ValueError:
    """Error for inputs whose positions are all left out."""
    return ValueError(
        f"skip_first and max_norm_ratio leave out all positions of {whose}, but "
        f"{needing} needs one: leave out fewer, or drop short inputs."
    )


def pool_rows(
    rows: np.ndarray, lengths: np.ndarray, positions: str | int
) -> np.ndarray:
    """The same as :func:`pool`, for activations of consecutive inputs.

    Parameters
    ----------
    rows : ndarray of shape (n_positions, width)
    lengths : ndarray of shape (n_inputs,), int
        Number of positions of each input.
    positions : {"last", "mean", "max", "all"} or int
    """
    if positions == "all":
        return rows
    begins = np.cumsum(lengths) - lengths
    if positions == "mean":
        sums = np.add.reduceat(rows, begins, dtype=np.float64)
        return (sums / lengths[:, None]).astype(rows.dtype)
    if positions == "max":
        return np.maximum.reduceat(rows, begins)
    return rows[begins + nth(lengths, positions)]


def nth_counting(mask: np.ndarray, n: str | int) -> np.ndarray:
    """Index of the n-th position that counts, for each input.

    Parameters
    ----------
    mask : ndarray of shape (n_inputs, n_positions), bool
    n : int or "last"
        Counted from the end if negative.

    Returns
    -------
    ndarray of shape (n_inputs,), int

    Raises
    ------
    ValueError
        If an input has too few positions.
    """
    rank = nth(mask.sum(1), n)
    return np.argmax((np.cumsum(mask, axis=1) == rank[:, None] + 1), axis=1)


def nth(lengths: np.ndarray, n: str | int) -> np.ndarray:
    """Index of the n-th position of each input, from its first, (n_inputs,).

    Parameters
    ----------
    lengths : ndarray of shape (n_inputs,), int
        Number of positions of each input.
    n : int or "last"
        Counted from the end if negative.

    Raises
    ------
    ValueError
        If an input has too few positions.
    """
    n = -1 if n == "last" else int(n)
    rank = n + lengths if n < 0 else np.full(len(lengths), n)
    short = (rank < 0) | (rank >= lengths)
    if short.any():
        raise ValueError(
            f"positions={n}, but an input has only {lengths[short].min()} positions."
        )
    return rank


def code(
    rows: np.ndarray, lengths: np.ndarray, positions: str | int, sae
) -> np.ndarray | sparse.csr_array:
    """Code activations and pool the codes.

    Parameters
    ----------
    rows : ndarray of shape (n_positions, width)
        Activations at all positions, input by input.
    lengths : ndarray of shape (n_inputs,), int
        Number of positions of each input.
    positions : str or int
        See :func:`pool`.
    sae : fitted transformer

    Returns
    -------
    ndarray or CSR array of shape (n_inputs, n_components)
        In the form that `sae` returns; shape (n_positions, n_components) for "all".
    """
    if positions not in ("mean", "max"):
        rows = pool_rows(rows, lengths, positions)
        codes = sae.transform(rows)
        return codes if sparse.issparse(codes) else np.asarray(codes)
    parts: list = []
    ends = np.cumsum(lengths)
    n_inputs = max(1, ROWS_TO_CODE // lengths.max())
    for start in range(0, len(lengths), n_inputs):
        of_these = lengths[start : start + n_inputs]
        end = ends[start + len(of_these) - 1]
        codes = sae.transform(rows[end - of_these.sum() : end])
        pooled = pool_codes(sparse.csr_array(codes), of_these, str(positions))
        parts.append(pooled if sparse.issparse(codes) else pooled.toarray())
    stack = sparse.vstack if sparse.issparse(parts[0]) else np.concatenate
    return stack(parts)


def pool_codes(
    codes: sparse.csr_array, lengths: np.ndarray, positions: str
) -> sparse.csr_array:
    """Pool the codes of all positions of each input.

    Parameters
    ----------
    codes : CSR array of shape (n_positions, n_components)
        Input by input.
    lengths : ndarray of shape (n_inputs,), int
        Number of positions of each input.
    positions : {"mean", "max"}

    Returns
    -------
    CSR array of shape (n_inputs, n_components)
    """
    n_inputs, owner = len(lengths), np.repeat(np.arange(len(lengths)), lengths)
    if positions == "mean":
        weights = (1 / lengths[owner]).astype(codes.dtype)
        averaging = sparse.csr_array(
            (weights, (owner, np.arange(len(owner)))), shape=(n_inputs, len(owner))
        )
        return sparse.csr_array(averaging @ codes)
    rows, atoms = np.repeat(owner, np.diff(codes.indptr)), codes.indices
    order = np.lexsort((atoms, rows))
    rows, atoms, values = rows[order], atoms[order], codes.data[order]
    begins = np.flatnonzero(
        np.append(True, (np.diff(rows) != 0) | (np.diff(atoms) != 0))[: len(rows)]
    )
    if not len(begins):
        return sparse.csr_array((n_inputs, codes.shape[1]), dtype=codes.dtype)
    largest = np.maximum.reduceat(values, begins)
    n_active = np.diff(np.append(begins, len(values)))
    rows, atoms = rows[begins], atoms[begins]
    # An atom that is not active at all positions has a code of 0 at some.
    largest[(n_active < lengths[rows]) & (largest < 0)] = 0
    pooled = sparse.csr_array(
        (largest, (rows, atoms)), shape=(n_inputs, codes.shape[1])
    )
    pooled.eliminate_zeros()
    return pooled
