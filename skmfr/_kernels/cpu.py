"""The products of `_codes`, and the search for the largest scores, as Numba kernels.

What counts on a CPU are rows read from its last cache, n * k of them for the codes of n
samples, and for the search instructions per score.

- :func:`residual_products` reads the atoms of a sample twice, but the second time,
  right after the first, from the cache of its core.
- Four rows are read at a time, which keeps more requests under way, and what they are
  added to is read and written a fourth as often.
- :func:`largest` compares whole vectors of scores with a threshold and counts, where
  PyTorch's selection moves them and branches on each.

All kernels treat rows one by one, the same way in any number of threads.
"""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from .._codes import SparseCodes

# What a sum of floats must allow to be made in vectors; NaN and infinity stay what
# they are.
IN_VECTORS = {"contract", "nsz", "reassoc"}


def compiled(**options) -> Callable:
    """Decorator: compile a function, once for all processes if that can be stored."""

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(function, nogil=True, cache=True, **options)
        except RuntimeError:  # no folder to store it in
            return numba.njit(function, nogil=True, **options)

    return decorate


@cache
def has_threads() -> bool:
    """Whether Numba's threads may be used from several threads of Python at once."""
    _squares_in_parts(np.zeros(2), 2)
    return numba.threading_layer() != "workqueue"


@compiled(parallel=True)
def _squares_in_parts(x, n_parts):
    for part in prange(n_parts):
        x[part] = part * part


def _run(in_one: Callable, in_parts: Callable, n_rows: int, *arguments) -> None:
    """Call a kernel for all rows, in the threads of PyTorch."""
    arrays = [
        each.contiguous().numpy() if isinstance(each, Tensor) else each
        for each in arguments
    ]
    n_parts = min(torch.get_num_threads(), n_rows)
    if n_parts > 1:
        in_parts(n_parts, *arrays)
    else:
        in_one(0, n_rows, *arrays)


def residual_products(
    X: Tensor, codes: SparseCodes, dictionary: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`.._codes.residual_products`."""
    residual = X.new_empty(X.shape)
    products = X.new_empty(codes.indices.shape)
    _run(
        _residual_products,
        _residual_products_in_parts,
        len(X),
        X,
        codes.values,
        codes.indices,
        dictionary,
        residual,
        products,
    )
    return residual, products


def gather_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """As :func:`.._codes.gather_dot`."""
    products = X.new_empty(indices.shape)
    _run(_gather_dot, _gather_dot_in_parts, len(X), X, indices, atoms, products)
    return products


def bag_sums(
    X: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor, out: Tensor, add: bool
) -> None:
    """As :func:`.._codes.bag_sums`."""
    _run(_bag_sums, _bag_sums_in_parts, len(out), X, rows, offsets, weights, out, add)


def largest(numbers: Tensor, k: int) -> Tensor:
    """As :func:`.._codes.largest`."""
    n_rows, n_columns = numbers.shape
    # Twice as many columns in a group as would make maxima and candidates as many: a
    # maximum costs less than a candidate.
    size = max(1, min(int(2 * (n_columns / k) ** 0.5), n_columns // k))
    indices = torch.empty(n_rows, k, dtype=torch.int64)
    _run(_largest, _largest_in_parts, n_rows, numbers, size, indices)
    return indices


@compiled()
def _bounds(part, n_parts, n_rows):
    """Where one of several equal parts of the rows begins and ends."""
    return part * n_rows // n_parts, (part + 1) * n_rows // n_parts


@compiled(fastmath=IN_VECTORS)
def _add_rows(x, X, rows, weights, sign):
    """Add to x, or subtract from it, a weighted sum of rows of X."""
    n_features, n_entries = len(x), len(rows)
    whole = n_entries - n_entries % 4
    for e in range(0, whole, 4):
        x0, x1, x2, x3 = X[rows[e]], X[rows[e + 1]], X[rows[e + 2]], X[rows[e + 3]]
        w0, w1 = sign * weights[e], sign * weights[e + 1]
        w2, w3 = sign * weights[e + 2], sign * weights[e + 3]
        for f in range(n_features):
            x[f] += (w0 * x0[f] + w1 * x1[f]) + (w2 * x2[f] + w3 * x3[f])
    for e in range(whole, n_entries):
        x0, w0 = X[rows[e]], sign * weights[e]
        for f in range(n_features):
            x[f] += w0 * x0[f]


@compiled(fastmath=IN_VECTORS)
def _dot_rows(x, X, rows, products):
    """Dot products of x with rows of X."""
    n_features, n_entries = len(x), len(rows)
    whole = n_entries - n_entries % 4
    zero = x.dtype.type(0)
    for e in range(0, whole, 4):
        x0, x1, x2, x3 = X[rows[e]], X[rows[e + 1]], X[rows[e + 2]], X[rows[e + 3]]
        p0, p1, p2, p3 = zero, zero, zero, zero
        for f in range(n_features):
            p0 += x0[f] * x[f]
            p1 += x1[f] * x[f]
            p2 += x2[f] * x[f]
            p3 += x3[f] * x[f]
        products[e], products[e + 1], products[e + 2], products[e + 3] = p0, p1, p2, p3
    for e in range(whole, n_entries):
        x0, p0 = X[rows[e]], zero
        for f in range(n_features):
            p0 += x0[f] * x[f]
        products[e] = p0


@compiled()
def _residual_products(begin, end, X, values, indices, dictionary, residual, products):
    for i in range(begin, end):
        residual[i] = X[i]
        _add_rows(residual[i], dictionary, indices[i], values[i], X.dtype.type(-1))
        _dot_rows(residual[i], dictionary, indices[i], products[i])


@compiled(parallel=True)
def _residual_products_in_parts(
    n_parts, X, values, indices, dictionary, residual, products
):
    for part in prange(n_parts):
        begin, end = _bounds(part, n_parts, len(X))
        _residual_products(
            begin, end, X, values, indices, dictionary, residual, products
        )


@compiled()
def _gather_dot(begin, end, X, indices, atoms, products):
    for i in range(begin, end):
        _dot_rows(X[i], atoms, indices[i], products[i])


@compiled(parallel=True)
def _gather_dot_in_parts(n_parts, X, indices, atoms, products):
    for part in prange(n_parts):
        begin, end = _bounds(part, n_parts, len(X))
        _gather_dot(begin, end, X, indices, atoms, products)


@compiled()
def _bag_sums(begin, end, X, rows, offsets, weights, sums, add):
    for bag in range(begin, end):
        entries = slice(offsets[bag], offsets[bag + 1])
        if not add:
            sums[bag] = 0
        _add_rows(sums[bag], X, rows[entries], weights[entries], X.dtype.type(1))


@compiled(parallel=True)
def _bag_sums_in_parts(n_parts, X, rows, offsets, weights, sums, add):
    # As many entries to each part, for some bags are large.
    shares = np.arange(1, n_parts) * offsets[-1] // n_parts
    bounds = np.zeros(n_parts + 1, np.int64)
    bounds[1:-1] = np.searchsorted(offsets, shares)
    bounds[-1] = len(sums)
    for part in prange(n_parts):
        _bag_sums(bounds[part], bounds[part + 1], X, rows, offsets, weights, sums, add)


@compiled()
def _threshold(numbers, k):
    """A number that k of these reach; more only where that many are equal to it."""
    low, high = numbers.min(), numbers.max()
    while low < high:
        # Their mean, rounded up; the sum of the two may overflow.
        middle = numbers.dtype.type((low | high) - ((low ^ high) >> 1))
        n_reach = 0
        for number in numbers:
            n_reach += number >= middle
        if n_reach == k:
            return middle
        if n_reach > k:
            low = middle
        else:
            high = numbers.dtype.type(middle - 1)
    return low


@compiled()
def _largest(begin, end, numbers, size, indices):
    # Unsigned, so that indices are not looked at for being negative, which costs more
    # than the rest.  What is not wanted is overwritten, without a branch.
    one, none = np.uint64(1), np.uint64(0)
    n_columns, k = numbers.shape[1], indices.shape[1]
    n_groups = n_columns // size
    maxima = np.empty(n_groups, numbers.dtype)
    groups = np.empty(n_groups + 1, np.uint32)
    candidates = np.empty(n_columns + 1, numbers.dtype)
    columns = np.empty(n_columns + 1, np.uint32)
    for i in range(begin, end):
        row = numbers[i]
        # Strided groups, so that maxima are of contiguous vectors.
        maxima[:] = row[:n_groups]
        for start in range(n_groups, n_groups * size, n_groups):
            part = row[start : start + n_groups]
            for g in range(n_groups):
                number = part[g]
                maxima[g] = number if number > maxima[g] else maxima[g]
        least = _threshold(maxima, k)
        n_chosen = none
        for g in range(n_groups):
            groups[n_chosen] = g
            n_chosen += one if maxima[g] >= least else none
        n_candidates = none
        for start in range(0, n_groups * size, n_groups):
            part = row[start : start + n_groups]
            for g in groups[:n_chosen]:
                candidates[n_candidates] = part[g]
                columns[n_candidates] = start + g
                n_candidates += one if part[g] >= least else none
        for column in range(n_groups * size, n_columns):
            candidates[n_candidates] = row[column]
            columns[n_candidates] = column
            n_candidates += one if row[column] >= least else none

        least = _threshold(candidates[:n_candidates], k)
        found = 0
        for c in range(n_candidates):
            if candidates[c] > least:
                indices[i, found] = columns[c]
                found += 1
        for c in range(n_candidates):
            if candidates[c] == least and found < k:
                indices[i, found] = columns[c]
                found += 1


@compiled(parallel=True)
def _largest_in_parts(n_parts, numbers, size, indices):
    for part in prange(n_parts):
        begin, end = _bounds(part, n_parts, len(numbers))
        _largest(begin, end, numbers, size, indices)
