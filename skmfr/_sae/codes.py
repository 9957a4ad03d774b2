"""Sparse codes of a batch, and their products with dictionaries.

Only k of the n_components atoms are active in a sample. After the encoder's matrix
product, every operation of a training step therefore touches only k atoms per sample.
All operations use one primitive or its transpose: a weighted sum of gathered rows
(:func:`bag_sums`), on codes sorted by sample or by atom, or a dot product with each
gathered row.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import pad

from .._kernels import backend
from .._utils.ambient import undisturbed


class SparseCodes(NamedTuple):
    """Codes of n_samples samples, k entries each.

    An entry with value 0 is inactive: rows may use fewer than k atoms.
    """

    values: Tensor
    """(n_samples, k), coefficients"""
    indices: Tensor
    """(n_samples, k) int64, the atom of each coefficient; distinct where nonzero"""


# Function that codes a block of samples (n_samples, n_features).
BlockCoder = Callable[[Tensor], SparseCodes]


class AtomMajor(NamedTuple):
    """The entries of some codes, sorted by atom instead of by sample."""

    order: Tensor
    """(n_entries,), positions of the entries in the flattened codes"""
    rows: Tensor
    """(n_entries,), the sample of each entry"""
    offsets: Tensor
    """(n_components + 1,), first and last entry of each atom"""

    def sort(self, weights: Tensor) -> Tensor:
        """Weights of the entries (n_samples, k) in this order, (n_entries,)."""
        return weights.flatten().index_select(0, self.order)


def stacked(blocks: list[SparseCodes]) -> SparseCodes:
    """Codes of several blocks of samples, as wide as the widest, (n_samples, k)."""
    width = max(codes.indices.shape[1] for codes in blocks)
    padded = [
        [pad(part, (0, width - part.shape[1])) for part in codes] for codes in blocks
    ]
    return SparseCodes(*(torch.cat(part) for part in zip(*padded, strict=True)))


def top_k(scores: Tensor, k: int) -> SparseCodes:
    """TopK(ReLU(scores), k): the largest k positive scores of each row, unordered.

    Parameters
    ----------
    scores : Tensor of shape (n_samples, n_components)
    k : int
        At most n_components.

    Returns
    -------
    SparseCodes of shape (n_samples, k)
        If a row has fewer than k positive scores, values are 0 with arbitrary atoms.
    """
    values, indices = backend(scores.device).largest(scores, k)
    return SparseCodes(values.clamp_(min=0), indices)


@lru_cache(maxsize=8)
@undisturbed()
def bounds_of_samples(n_samples: int, k: int, device: torch.device) -> Tensor:
    """First and last entry of each sample."""
    return torch.arange(n_samples + 1, device=device) * k


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
        Bag by bag.
    offsets : Tensor of shape (n_bags + 1,), int
        First and last entry of each bag.
    weights : Tensor of shape (n_entries,)
    out : Tensor of shape (n_bags, n_features), optional
        Contiguous output.
    add : bool
        Whether to add the sums to the contents of `out`.

    Returns
    -------
    Tensor of shape (n_bags, n_features)
    """
    if out is None:
        out = X.new_empty(len(offsets) - 1, X.shape[1])
    backend(X.device).bag_sums(X, rows, offsets, weights, out, add)
    return out


def bag_totals(weights: Tensor, offsets: Tensor) -> Tensor:
    """Reproducible sums of the weights (n_entries,) of each bag, (n_bags,)."""
    # Unchecked, because a check of the offsets would wait for the GPU.
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
    offsets = bounds_of_samples(*codes.indices.shape, codes.indices.device)
    # With one atom per sample, flattening returns a strided view.
    values, indices = (part.flatten().contiguous() for part in codes)
    return bag_sums(dictionary, indices, offsets, values)


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
        # One integer type, because Numba compiles again for each type.
        return AtomMajor(
            *(
                torch.from_numpy(array).long()
                for array in (entries.data, entries.indices, entries.indptr)
            )
        )
    # Sorting 32-bit numbers takes half as many passes as 64-bit numbers.
    atoms, order = torch.sort(indices.flatten().int(), stable=True)
    bounds = torch.arange(n_components + 1, device=indices.device, dtype=torch.int32)
    return AtomMajor(order, order // k, torch.searchsorted(atoms, bounds))


def n_active(codes: SparseCodes, n_components: int) -> Tensor:
    """Number of samples in which each atom is active, (n_components,), codes' dtype."""
    active = (codes.values != 0).to(codes.values.dtype)
    counts = active.new_zeros(n_components)
    return counts.index_add_(0, codes.indices.flatten(), active.flatten())
