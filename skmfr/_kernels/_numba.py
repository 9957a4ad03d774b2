"""What a step does past the encoder's product, as Numba kernels.

What counts on a CPU are rows read from its last cache, n * k of them for the codes of n
samples, and for the search instructions per score.

- :func:`residual_products` reads the atoms of a sample twice, but the second time,
  right after the first, from the cache of its core.
- Four rows are read at a time, which keeps more requests under way, and what they are
  added to is read and written a fourth as often.
- :func:`largest` compares whole vectors of scores with a threshold and counts, where
  PyTorch's selection moves them and branches on each.
- :func:`adam_step` is bound by memory, and goes through atoms once, where projection,
  optimiser and normalising do so one after the other.

All kernels treat rows one by one, the same way in any number of threads.  They copy
rows number by number, for assigning slices would take a second more to compile.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

# What a sum of floats must allow to be made in vectors.  NaN and infinity stay what
# they are, as long as no other order of the sum takes infinity from infinity.
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


def _run(kernel: Callable, in_parts: Callable, n_rows: int, *arguments) -> None:
    """Call a kernel for all rows, in the threads of PyTorch."""
    arrays = [
        each.contiguous().numpy() if isinstance(each, Tensor) else each
        for each in arguments
    ]
    n_parts = min(torch.get_num_threads(), n_rows)
    if n_parts > 1:
        in_parts(n_parts, *arrays)
    else:
        kernel(0, 1, *arrays)


def residual_products(
    X: Tensor, values: Tensor, indices: Tensor, dictionary: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`.._sae.codes.residual_products`."""
    residual = X.new_empty(X.shape)
    products = X.new_empty(indices.shape)
    _run(
        _residual_products,
        _residual_products_in_parts,
        len(X),
        X,
        values,
        indices,
        dictionary,
        residual,
        products,
    )
    return residual, products


def gather_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """As :func:`.._sae.codes.gather_dot`."""
    products = X.new_empty(indices.shape)
    _run(_gather_dot, _gather_dot_in_parts, len(X), X, indices, atoms, products)
    return products


def bag_sums(
    X: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor, out: Tensor, add: bool
) -> None:
    """As :func:`.._sae.codes.bag_sums`, into ``out``."""
    _run(_bag_sums, _bag_sums_in_parts, len(out), X, rows, offsets, weights, out, add)


def largest(numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As :func:`.._sae.codes.largest`, with the numbers before the indices."""
    n_rows, n_columns = numbers.shape
    # Twice as many columns in a group as would make maxima and candidates as many: a
    # maximum costs less than a candidate.
    size = max(1, min(int(2 * (n_columns / k) ** 0.5), n_columns // k))
    found = numbers.new_empty(n_rows, k)
    indices = torch.empty(n_rows, k, dtype=torch.int64)
    _run(_largest, _largest_in_parts, n_rows, numbers, size, found, indices)
    return found, indices


def adam_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    n_steps: Tensor,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    on_sphere: int,
) -> None:
    """One step of Adam (Kingma & Ba 2015, algorithm 1), in one pass over its arrays.

    Parameters
    ----------
    parameters, gradients, means, squares : list of Tensor
        Of one shape (n_rows, n_features) or (n_features,) for each parameter.
        Parameters and the running means of gradients and their squares are changed.
    n_steps : Tensor of shape ()
        Of these parameters so far, this one included.
    learning_rate : float
    betas : tuple of two float
    eps : float
    on_sphere : int
        Which of the parameters has rows that stay on the unit sphere.
    """
    arrays = [
        tuple(tensor.view(-1, tensor.shape[-1]).numpy() for tensor in tensors)
        for tensors in (parameters, gradients, means, squares)
    ]
    # Means that begin at 0 are divided by 1 - beta^t, which is left to two factors.
    beta, gamma = betas
    rate = learning_rate / (1 - beta ** int(n_steps))
    scale = (1 - gamma ** int(n_steps)) ** -0.5
    numbers = np.array(
        [1 - beta, gamma, 1 - gamma, rate, scale, eps], arrays[0][0].dtype
    )
    n_rows = max(len(array) for array in arrays[0])
    _run(_adam_step, _adam_step_in_parts, n_rows, *arrays, numbers, on_sphere)


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
def _residual_products(
    part, n_parts, X, values, indices, dictionary, residual, products
):
    n_features = X.shape[1]
    for i in range(*_bounds(part, n_parts, len(X))):
        for f in range(n_features):
            residual[i, f] = X[i, f]
        _add_rows(residual[i], dictionary, indices[i], values[i], X.dtype.type(-1))
        _dot_rows(residual[i], dictionary, indices[i], products[i])


@compiled(parallel=True)
def _residual_products_in_parts(
    n_parts, X, values, indices, dictionary, residual, products
):
    for part in prange(n_parts):
        _residual_products(
            part, n_parts, X, values, indices, dictionary, residual, products
        )


@compiled()
def _gather_dot(part, n_parts, X, indices, atoms, products):
    for i in range(*_bounds(part, n_parts, len(X))):
        _dot_rows(X[i], atoms, indices[i], products[i])


@compiled(parallel=True)
def _gather_dot_in_parts(n_parts, X, indices, atoms, products):
    for part in prange(n_parts):
        _gather_dot(part, n_parts, X, indices, atoms, products)


@compiled()
def _bag_sums(part, n_parts, X, rows, offsets, weights, sums, add):
    begin = _first_bag(offsets, part, n_parts)
    end = _first_bag(offsets, part + 1, n_parts)
    for bag in range(begin, end):
        entries = slice(offsets[bag], offsets[bag + 1])
        if not add:
            sums[bag] = 0
        _add_rows(sums[bag], X, rows[entries], weights[entries], X.dtype.type(1))


@compiled()
def _first_bag(offsets, part, n_parts):
    """The bag that a part begins with, if all parts have as many entries."""
    first, last = 0, len(offsets) - 1
    if part == n_parts:
        return last
    entry = part * offsets[last] // n_parts
    while first < last:
        middle = (first + last) // 2
        if offsets[middle] < entry:
            first = middle + 1
        else:
            last = middle
    return first


@compiled(parallel=True)
def _bag_sums_in_parts(n_parts, X, rows, offsets, weights, sums, add):
    for part in prange(n_parts):
        _bag_sums(part, n_parts, X, rows, offsets, weights, sums, add)


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
def _largest(part, n_parts, numbers, size, found, indices):
    # Unsigned, so that indices are not looked at for being negative, which costs more
    # than the rest.  What is not wanted is overwritten, without a branch.
    one, none = np.uint64(1), np.uint64(0)
    n_columns, k = numbers.shape[1], indices.shape[1]
    n_groups = n_columns // size
    maxima = np.empty(n_groups, numbers.dtype)
    groups = np.empty(n_groups + 1, np.uint32)
    candidates = np.empty(n_columns + 1, numbers.dtype)
    columns = np.empty(n_columns + 1, np.uint32)
    for i in range(*_bounds(part, n_parts, len(numbers))):
        row = numbers[i]
        # Strided groups, so that maxima are of contiguous vectors.
        for g in range(n_groups):
            maxima[g] = row[g]
        for start in range(n_groups, n_groups * size, n_groups):
            run = row[start : start + n_groups]
            for g in range(n_groups):
                number = run[g]
                maxima[g] = number if number > maxima[g] else maxima[g]
        least = _threshold(maxima, k)
        n_chosen = none
        for g in range(n_groups):
            groups[n_chosen] = g
            n_chosen += one if maxima[g] >= least else none
        n_candidates = none
        for start in range(0, n_groups * size, n_groups):
            run = row[start : start + n_groups]
            for g in groups[:n_chosen]:
                candidates[n_candidates] = run[g]
                columns[n_candidates] = start + g
                n_candidates += one if run[g] >= least else none
        for column in range(n_groups * size, n_columns):
            candidates[n_candidates] = row[column]
            columns[n_candidates] = column
            n_candidates += one if row[column] >= least else none

        least = _threshold(candidates[:n_candidates], k)
        n_found = 0
        for c in range(n_candidates):
            if candidates[c] > least:
                found[i, n_found] = candidates[c]
                indices[i, n_found] = columns[c]
                n_found += 1
        for c in range(n_candidates):
            if candidates[c] == least and n_found < k:
                found[i, n_found] = least
                indices[i, n_found] = columns[c]
                n_found += 1


@compiled(parallel=True)
def _largest_in_parts(n_parts, numbers, size, found, indices):
    for part in prange(n_parts):
        _largest(part, n_parts, numbers, size, found, indices)


@compiled(fastmath=IN_VECTORS, error_model="numpy")
def _adam_rows(begin, end, parameter, gradient, mean, square, numbers, on_sphere):
    one, zero = parameter.dtype.type(1), parameter.dtype.type(0)
    # Not one made of the other: a square may be infinite, and a difference of two NaN.
    new_mean, old_square, new_square, rate, scale, eps = numbers
    n_features = parameter.shape[1]
    for i in range(begin, end):
        p, g, m, v = parameter[i], gradient[i], mean[i], square[i]
        along, size = zero, zero
        if on_sphere:
            for f in range(n_features):
                along += p[f] * g[f]
        for f in range(n_features):
            tangent = g[f] - along * p[f]
            m[f] += new_mean * (tangent - m[f])
            v[f] = old_square * v[f] + new_square * (tangent * tangent)
            p[f] -= rate * m[f] / (np.sqrt(v[f]) * scale + eps)
            size += p[f] * p[f]
        if on_sphere:
            factor = one / np.sqrt(size)
            for f in range(n_features):
                p[f] *= factor


@compiled()
def _adam_step(
    part, n_parts, parameters, gradients, means, squares, numbers, on_sphere
):
    for a in range(len(parameters)):
        begin, end = _bounds(part, n_parts, len(parameters[a]))
        _adam_rows(
            begin,
            end,
            parameters[a],
            gradients[a],
            means[a],
            squares[a],
            numbers,
            a == on_sphere,
        )


@compiled(parallel=True)
def _adam_step_in_parts(
    n_parts, parameters, gradients, means, squares, numbers, on_sphere
):
    for part in prange(n_parts):
        _adam_step(
            part, n_parts, parameters, gradients, means, squares, numbers, on_sphere
        )
