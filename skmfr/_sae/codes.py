"""Sparse codes of a batch, and their products with dictionaries.

Only k of the n_components atoms are active in a sample, so past the encoder's matrix
product every operation of a training step touches k atoms per sample.  All of them are
one primitive, a weighted sum of gathered rows (:func:`bag_sums`), on codes sorted by
sample or by atom, or its transpose, a dot product per gathered row.
"""

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import embedding_bag

from .._kernels import kernels_on

INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Number and column are packed into an integer twice as large, and rows of up to so many
# of these are partitioned by NumPy: there its vector instructions make it ten times as
# fast as torch, above it is no faster.
PACKED_COLUMNS = {2: 512, 4: 256}

# PyTorch warns, once in a process, that its CSR tensors may still change.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.zeros(1, 1).to_sparse_csr()


class SparseCodes(NamedTuple):
    """Codes of n_samples samples, k entries each.

    An entry with value 0 is inactive: rows may use fewer than k atoms.
    """

    values: Tensor
    """(n_samples, k), coefficients."""
    indices: Tensor
    """(n_samples, k) int64, the atom of each coefficient, distinct where non-zero."""


class AtomMajor(NamedTuple):
    """The entries of some codes, sorted by atom instead of by sample."""

    order: Tensor
    """(n_entries,), positions of the entries in the flattened codes."""
    rows: Tensor
    """(n_entries,), the sample of each entry."""
    offsets: Tensor
    """(n_components + 1,), where the entries of each atom begin and end."""

    def sort(self, weights: Tensor) -> Tensor:
        """Weights of the entries (n_samples, k) in this order, (n_entries,)."""
        return weights.flatten().index_select(0, self.order)


def top_k(scores: Tensor, k: int) -> SparseCodes:
    """TopK(ReLU(scores), k): the largest k positive scores of each row, unordered.

    Several times faster than ``torch.topk``, see :func:`largest`.

    Parameters
    ----------
    scores : Tensor of shape (n_samples, n_components)
    k : int
        At most n_components.

    Returns
    -------
    SparseCodes of shape (n_samples, k)
        Where a row has fewer than k positive scores, the value is 0 and the atom any.
    """
    # Floats that are not negative are ordered as their bit patterns, below them come
    # the negative ones, and integers compare faster.
    numbers = scores.view(INTEGER_OF_SIZE[scores.itemsize])
    if kernels := kernels_on(numbers.device):
        values, indices = kernels.largest(numbers, k)
    else:
        indices = largest(numbers, k)
        values = numbers.gather(1, indices)
    return SparseCodes(values.view(scores.dtype).clamp_(min=0), indices)


def largest(numbers: Tensor, k: int) -> Tensor:
    """Where the largest k integers of each row are, unordered.

    The columns are dealt into groups.  The k groups with the largest maxima contain
    the k largest numbers: a group that holds one of them has a maximum at least as
    large, and there are at most k such groups.  So the selection, which costs far more
    per element than a maximum, sees few of them.

    Parameters
    ----------
    numbers : Tensor of shape (n_rows, n_columns)
    k : int

    Returns
    -------
    Tensor of shape (n_rows, k), int64
    """
    n_columns, bits = numbers.shape[1], 8 * numbers.itemsize
    on_cpu = numbers.device.type == "cpu"
    n_packed = PACKED_COLUMNS.get(numbers.itemsize, 0) if on_cpu else 0
    if n_columns <= n_packed:
        wider = INTEGER_OF_SIZE[2 * numbers.itemsize]
        columns = torch.arange(n_columns, dtype=wider)
        packed = numbers.to(wider).bitwise_left_shift_(bits).bitwise_or_(columns)
        packed.numpy().partition(n_columns - k, axis=1)
        return packed[:, n_columns - k :].long() & ((1 << bits) - 1)
    # Maxima and candidates are as many when a group holds sqrt(n / k) columns; near
    # that, a size that leaves candidates few enough to be packed, and few columns over.
    ideal = (n_columns / k) ** 0.5
    size = min(
        range(max(1, round(0.7 * ideal)), round(1.25 * ideal) + 1),
        key=lambda size: (
            size * k + n_columns % size > n_packed,
            n_columns % size,
        ),
    )
    if size < 2 or (size == 2 and n_columns > 2 * n_packed):
        return torch.topk(numbers, k, dim=1, sorted=False).indices
    n_groups = n_columns // size
    dealt = n_groups * size
    # Strided groups, so that the maximum runs over contiguous vectors.
    grouped = numbers[:, :dealt].unflatten(1, (size, n_groups))
    groups = largest(grouped.amax(1), k)
    candidates = grouped.gather(2, groups.unsqueeze(1).expand(-1, size, -1)).flatten(1)
    if dealt < n_columns:
        candidates = torch.cat([candidates, numbers[:, dealt:]], dim=1)
    place = largest(candidates, k)
    row = torch.div(place, k, rounding_mode="floor")
    columns = groups.gather(1, place - row * k).add_(row, alpha=n_groups)
    if dealt < n_columns:
        over = place - size * k
        columns = torch.where(over >= 0, dealt + over, columns)
    return columns


@lru_cache(maxsize=8)
def entry_layout(n_samples: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the entries of each sample begin, and the sample of each entry."""
    offsets = torch.arange(n_samples + 1, device=device) * k
    return offsets, torch.arange(n_samples, device=device).repeat_interleave(k)


def bag_sums(
    X: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weights: Tensor,
    out: Tensor | None = None,
    add: bool = False,
) -> Tensor:
    """Weighted sums of rows.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_features)
    rows : Tensor of shape (n_entries,), int
        Bag after bag.
    offsets : Tensor of shape (n_bags + 1,), int
        Where the entries of each bag begin and end.
    weights : Tensor of shape (n_entries,)
    out : Tensor of shape (n_bags, n_features), optional
        Where to write them, contiguous.
    add : bool
        Whether to add them to what stands there.

    Returns
    -------
    Tensor of shape (n_bags, n_features)
    """
    if kernels := kernels_on(X.device):
        if out is None:
            out = X.new_empty(len(offsets) - 1, X.shape[1])
        kernels.bag_sums(X, rows, offsets, weights, out, add)
        return out
    sums = embedding_bag(
        rows,
        X,
        offsets,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    if out is None:
        return sums
    return out.add_(sums) if add else out.copy_(sums)


def bag_totals(weights: Tensor, offsets: Tensor) -> Tensor:
    """Sums of the weights (n_entries,) of each bag, always the same, (n_bags,)."""
    # Without a look at the offsets, for which a GPU would be waited for.
    return torch.segment_reduce(weights, "sum", offsets=offsets, unsafe=True)


def decode(codes: SparseCodes, dictionary: Tensor) -> Tensor:
    """Product of codes and dictionary.

    Parameters
    ----------
    codes : SparseCodes of shape (n_samples, k)
    dictionary : Tensor of shape (n_components, n_features)

    Returns
    -------
    Tensor of shape (n_samples, n_features)
    """
    offsets, _ = entry_layout(*codes.indices.shape, codes.indices.device)
    # Of codes of one atom, flattening makes a strided view.
    values, indices = (part.flatten().contiguous() for part in codes)
    return bag_sums(dictionary, indices, offsets, values)


def gather_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """Dot product of each sample with some atoms of its own.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    atoms : Tensor of shape (n_components, n_features)
    indices : Tensor of shape (n_samples, k), int64

    Returns
    -------
    Tensor of shape (n_samples, k)
    """
    if kernels := kernels_on(X.device):
        return kernels.gather_dot(X, atoms, indices)
    offsets, samples = entry_layout(*indices.shape, indices.device)
    # Two ways to do it without writing out the gathered atoms, which are n_samples * k
    # * n_features numbers: as entries of a matrix product, and as the backward pass of
    # `decode` for its values, which on the CPU takes nearly twice as long.
    if X.device.type == "cpu":
        wanted = torch.sparse_csr_tensor(
            offsets,
            indices.flatten(),
            X.new_zeros(indices.numel()),
            (len(X), len(atoms)),
            check_invariants=False,
        )
        dots = torch.sparse.sampled_addmm(wanted, X, atoms.T, beta=0.0)
        return dots.values().view_as(indices)
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        X, atoms, indices.flatten().contiguous(), offsets[:-1], samples, 0
    )
    return dots.view_as(indices)


def residual_products(
    X: Tensor, codes: SparseCodes, dictionary: Tensor
) -> tuple[Tensor, Tensor]:
    """What codes leave of samples, and its dot product with the atom of each code.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    codes : SparseCodes of shape (n_samples, k)
    dictionary : Tensor of shape (n_components, n_features)

    Returns
    -------
    residual : Tensor of shape (n_samples, n_features)
    products : Tensor of shape (n_samples, k)
    """
    if kernels := kernels_on(X.device):
        return kernels.residual_products(X, *codes, dictionary)
    residual = decode(codes, dictionary)
    torch.sub(X, residual, out=residual)
    return residual, gather_dot(residual, dictionary, codes.indices)


def by_atom(indices: Tensor, n_components: int) -> AtomMajor:
    """Sort the entries of codes by atom, in linear time on the CPU.

    Parameters
    ----------
    indices : Tensor of shape (n_samples, k)
    n_components : int

    Returns
    -------
    AtomMajor
        Entries of one atom in the order of the samples.
    """
    n_samples, k = indices.shape
    if indices.device.type == "cpu":
        entries = sparse.csr_array(
            (
                np.arange(n_samples * k, dtype=np.int32),
                indices.flatten().to(torch.int32).numpy(),
                np.arange(0, n_samples * k + 1, k, dtype=np.int32),
            ),
            shape=(n_samples, n_components),
        ).tocsc()
        return AtomMajor(
            *(
                torch.from_numpy(array)
                for array in (entries.data, entries.indices, entries.indptr)
            )
        )
    # Numbers of 32 bits take half as many passes as those of 64.
    atoms, order = torch.sort(indices.flatten().int(), stable=True)
    bounds = torch.arange(n_components + 1, device=indices.device, dtype=torch.int32)
    return AtomMajor(order, order // k, torch.searchsorted(atoms, bounds))


def row_dot(X: Tensor, Y: Tensor) -> Tensor:
    """Dot product of the rows of two matrices, (n_rows, 1)."""
    return gather_dot(X, Y, torch.arange(len(X), device=X.device).unsqueeze(1))


def n_active(codes: SparseCodes, n_components: int) -> Tensor:
    """In how many samples each atom is active, (n_components,) of the codes' dtype."""
    active = (codes.values > 0).to(codes.values.dtype)
    counts = active.new_zeros(n_components)
    return counts.index_add_(0, codes.indices.flatten(), active.flatten())
