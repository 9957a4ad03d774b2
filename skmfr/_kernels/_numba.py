"""The kernels in Numba, for CPUs.

On CPUs, the cost is the number of rows read from the last-level cache, n * k for the
codes of n samples, and, for the search, the instructions per score.

- :func:`residual_products` reads the atoms of a sample twice, but the second time,
  right after the first, from the core's own cache.
- Four rows are read at a time. This keeps more requests in flight, and the sums are
  read and written a fourth as often.
- :func:`largest` compares whole vectors of scores with a threshold and counts them.
  PyTorch's selection moves scores and branches on each.
- :func:`adam_step` is limited by memory. It passes over the atoms once; separate
  projection, optimiser and normalisation would each make a pass.

All kernels treat rows independently, in the same way for any number of threads.
They use Numba's threads, which share OpenMP's with PyTorch. Python threads would wait
for a core on which an OpenMP thread still spins, and steps took 1.3 to 1.6 times as
long.

The first fit on a machine waits for the compiler, so little is compiled: only int64
indices, and pointers to rows instead of arrays.  `_numba_calls` compiles one function
that calls all kernels in parts.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch
from torch import Tensor

from . import as_integers, batched
from ._numba_calls import after, call, four_rows, inner, kernel, row, width
from .dense import lengths, linear, passing_linear, rounding

if TYPE_CHECKING:
    from ._numba_search import Gram

# Fast-math flags that a sum of floats needs to be vectorised.  NaN and infinity are
# kept, unless a reordered sum subtracts infinity from infinity.
IN_VECTORS = {"contract", "nsz", "reassoc"}


# Padding between the rows of a Gram matrix. A cache holds few lines whose addresses
# differ by a multiple of 4096 bytes, and rows often have such a length.
GAP = 16
# Nanoseconds of work that justify another thread and its compilation; and the time that
# a kernel needs to read, search or move one number.
WORTH_A_THREAD = 300_000
READ, SEARCHED, MOVED = 0.17, 2.0, 3.0


def try_all(device: torch.device) -> None:
    """Check for a threading layer that several Python threads may use at once.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    # Numba sets this on import without declaring it.
    if vars(numba.config)["THREADING_LAYER"] != "workqueue":
        for layer in ("omp", "tbb"):
            try:
                import_module(f"numba.np.ufunc.{layer}pool")
            except ImportError:
                continue
            return
    raise RuntimeError(
        "Numba has only its workqueue threading layer here, which aborts the process "
        "if two threads use it at once: install OpenMP or the package tbb."
    )


def residual_products(
    X: Tensor, values: Tensor, indices: Tensor, dictionary: Tensor
) -> tuple[Tensor, Tensor]:
    """As in `_torch`."""
    residual, products = X.new_empty(X.shape), X.new_empty(indices.shape)
    inputs = [each.contiguous() for each in (X, values, dictionary, indices)]
    time = 2 * READ * indices.numel() * X.shape[1]
    numbers = *inputs[:3], residual, products
    call(_residual_products, _bounds(len(X), time), numbers, inputs[3:])
    return residual, products


def gather_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """As in `_torch`."""
    products = X.new_empty(indices.shape)
    time = READ * indices.numel() * X.shape[1]
    numbers = X.contiguous(), atoms.contiguous(), products
    call(_gather_dot, _bounds(len(X), time), numbers, [indices.contiguous()])
    return products


def bag_sums(
    X: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor, out: Tensor, add: bool
) -> None:
    """As in `_torch`."""
    rows, offsets = rows.long().contiguous(), offsets.long().contiguous()
    # Parts with about equal numbers of entries.
    entries = _bounds(len(rows), READ * len(rows) * X.shape[1])
    ends = offsets.numpy()
    bounds = [int(np.searchsorted(ends, entry)) for entry in entries]
    bounds[-1] = len(out)
    numbers = X.contiguous(), weights.contiguous(), out
    call(_bag_sums, bounds, numbers, [rows, offsets, [add]])


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As in `_torch`."""
    n_rows, n_columns = scores.shape
    # Groups with twice as many columns as would give as many maxima as candidates,
    # because a maximum costs less than a candidate.
    size = max(1, min(int(2 * (n_columns / k) ** 0.5), n_columns // k))
    found = scores.new_empty(n_rows, k)
    indices = torch.empty(n_rows, k, dtype=torch.int64)
    bounds = _bounds(n_rows, SEARCHED * scores.numel())
    n_parts, n_groups = len(bounds) - 1, n_columns // size
    numbers = as_integers(scores.contiguous())
    # The last place of each row takes rejected entries.
    maxima, candidates = (
        numbers.new_empty(n_parts, n) for n in (n_groups, n_columns + 1)
    )
    groups, columns = (
        indices.new_empty(n_parts, n) for n in (n_groups + 1, n_columns + 1)
    )
    call(
        _largest,
        bounds,
        [numbers, maxima, candidates, as_integers(found)],
        [groups, columns, indices, [size]],
    )
    return found, indices


def adam_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    n_steps: Tensor,
    learning_rates: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    on_sphere: int,
    sources: Sequence[Sequence[Tensor]] | None = None,
) -> None:
    """As in `_torch`, in one pass over all arrays."""
    columns = parameters, gradients, means, squares, *(sources or ())
    arrays = [
        [tensor.view(-1, tensor.shape[-1]) for tensor in tensors]
        for tensors in zip(*columns, strict=True)
    ]
    # Bias correction: means that begin at 0 are divided by 1 - beta^t, as two factors.
    beta, gamma = betas
    correction = 1 - beta ** int(n_steps)
    scale = (1 - gamma ** int(n_steps)) ** -0.5

    for number, (rows, rate) in enumerate(zip(arrays, learning_rates, strict=True)):
        numbers = rows[0].new_tensor(
            [1 - beta, gamma, 1 - gamma, rate / correction, scale, eps]
        )
        bounds = _bounds(len(rows[0]), MOVED * rows[0].numel())
        if sources is None:  # any arrays, which are not read
            rows = [*rows, rows[0], *rows[2:]]
        flags = number == on_sphere, sources is not None
        call(_adam_rows, bounds, [*rows, numbers], [flags])


def gram(atoms: Tensor) -> "Gram":
    """As in `batched`."""
    from ._numba_search import Gram

    n_components = len(atoms)
    exact = atoms.new_empty(n_components, n_components + GAP)
    exact[:, :n_components] = linear(atoms, atoms)
    return Gram(exact)


def pursuit(
    X: Tensor, atoms: Tensor, gram: "Gram | None", k: int, positive: bool
) -> tuple[Tensor, Tensor]:
    """As in `batched`, which is used if there is no Gram matrix."""
    if gram is None:
        return batched.pursuit(X, atoms, gram, k, positive)
    from . import _numba_search as search
    from ._numba_pursuit import _pursuit
    from ._numba_solve import MORE

    (n_samples, n_features), n_components = X.shape, len(atoms)
    values = X.new_zeros(n_samples, k)
    indices = torch.zeros(n_samples, k, dtype=torch.int64)
    limits = rounding(X), batched.DEPENDENT[X.dtype], rounding(X) + batched.NOTHING
    bounds = _bounds(n_samples, READ * k * k * n_components * n_samples)
    n_parts, n_places = len(bounds) - 1, k + MORE
    n_tiles = -(-n_components // (search.TILE * search.TILES)) * search.TILES
    numbers = [
        *(each.contiguous() for each in (X, atoms)),
        passing_linear(X, atoms),
        gram.exact,
        X.new_empty(n_parts, n_components),
        X.new_empty(n_parts, n_tiles + 1),
        X.new_empty(n_parts, n_places),
        values,
    ]
    quick = n_components * k >= search.WORTHWHILE and k <= search.MOST_IN_USE
    n_short = n_components if quick else 0
    widths = n_places, batched.TRIES * k, n_components + 1, n_tiles + 1
    integers: list[Tensor | Sequence[int]] = [
        indices,
        [positive],
        *(indices.new_empty(n_parts, n) for n in widths),
    ]
    sizes = lengths(X)
    exact: list[Tensor | Sequence[float]] = [
        sizes,
        limits,
        sizes.new_empty(n_parts, search.CROWD),
        *_scratch(sizes, n_parts, n_places, n_features, k),
    ]
    widths = n_short, n_short, n_tiles, n_places
    space = (torch.empty(n_parts, n, dtype=torch.int16) for n in widths)
    short = [gram.short if quick else torch.empty(1, 0, dtype=torch.int16), *space]
    call(_pursuit, bounds, numbers, integers, exact, short)
    return values, indices


def least_squares(
    X: Tensor,
    atoms: Tensor,
    indices: Tensor,
    used: Tensor,
    apart: float,
    positive: bool,
) -> Tensor:
    """As in `batched`."""
    from ._numba_lstsq import _positive, _signed
    from ._numba_solve import MORE

    values, n_features, k = X.new_empty(indices.shape), X.shape[1], indices.shape[1]
    bounds = _bounds(len(X), READ * indices.numel() * k * n_features)
    rounded = X.dtype == torch.float32 and not positive
    limits = rounding(X) if rounded else 0.0, apart
    n_parts, n_places = len(bounds) - 1, k + MORE
    numbers = *(each.contiguous() for each in (X, atoms)), values
    integers = [
        indices.contiguous(),
        used.long().contiguous(),
        *indices.new_zeros(3, n_parts, n_places),
    ]
    sizes = lengths(X)
    exact: list[Tensor | Sequence[float]] = [
        batched.NOTHING * sizes,
        limits,
        # For copies of atoms, which may have another type, and for their products.
        sizes.new_zeros(n_parts, n_places * n_features),
        sizes.new_zeros(n_parts, n_places * n_places),
        *_scratch(sizes, n_parts, n_places, n_features, k),
    ]
    call(_positive if positive else _signed, bounds, numbers, integers, exact)
    return values


def _scratch(
    like: Tensor, n_parts: int, n_places: int, n_features: int, k: int
) -> list[Tensor]:
    """The space that `_numba_solve._space` divides, for each part of the rows."""
    widths = *[n_places] * 5, n_features, n_places, k * k
    return [like.new_zeros(n_parts, n) for n in widths]


def _bounds(n_rows: int, time: float) -> list[int]:
    """First and last rows of parts, as n_parts + 1 bounds.

    The number of parts is PyTorch's number of threads, or less if the work, in
    nanoseconds of one thread, does not justify as many.
    """
    most = min(torch.get_num_threads(), n_rows, int(time / WORTH_A_THREAD))
    n_parts = max(1, most)
    return [part * n_rows // n_parts for part in range(n_parts + 1)]


@inner(fastmath=IN_VECTORS)
def _add_rows(x, n_features, X, rows, weights, n_entries, sign):
    """Add to x, or subtract from it, a weighted sum of rows of X."""
    whole = n_entries & -4
    for e in range(0, whole, 4):
        x0, x1, x2, x3 = four_rows(X, n_features, rows, e)
        w0, w1 = sign * weights[e], sign * weights[e + 1]
        w2, w3 = sign * weights[e + 2], sign * weights[e + 3]
        for f in range(n_features):
            x[f] += (w0 * x0[f] + w1 * x1[f]) + (w2 * x2[f] + w3 * x3[f])
    for e in range(whole, n_entries):
        x0, w0 = after(X, rows[e] * n_features), sign * weights[e]
        for f in range(n_features):
            x[f] += w0 * x0[f]


@inner(fastmath=IN_VECTORS)
def _dot_rows(x, n_features, X, rows, products, n_entries, zero):
    """Dot products of x with rows of X."""
    whole = n_entries & -4
    for e in range(0, whole, 4):
        x0, x1, x2, x3 = four_rows(X, n_features, rows, e)
        p0, p1, p2, p3 = zero, zero, zero, zero
        for f in range(n_features):
            p0 += x0[f] * x[f]
            p1 += x1[f] * x[f]
            p2 += x2[f] * x[f]
            p3 += x3[f] * x[f]
        products[e], products[e + 1], products[e + 2], products[e + 3] = p0, p1, p2, p3
    for e in range(whole, n_entries):
        x0, p0 = after(X, rows[e] * n_features), zero
        for f in range(n_features):
            p0 += x0[f] * x[f]
        products[e] = p0


@kernel()
def _residual_products(real):
    def compute(part, table):
        bounds, dictionary = row(table, 0, 0, np.int64), row(table, 3, 0, real)
        n_features, k = width(table, 1), width(table, 6)
        for i in range(bounds[part], bounds[part + 1]):
            x, values = row(table, 1, i, real), row(table, 2, i, real)
            residual, products = row(table, 4, i, real), row(table, 5, i, real)
            indices = row(table, 6, i, np.int64)
            for f in range(n_features):
                residual[f] = x[f]
            _add_rows(residual, n_features, dictionary, indices, values, k, real(-1))
            _dot_rows(residual, n_features, dictionary, indices, products, k, real(0))

    return compute


@kernel()
def _gather_dot(real):
    def compute(part, table):
        bounds, atoms = row(table, 0, 0, np.int64), row(table, 2, 0, real)
        n_features, k = width(table, 1), width(table, 4)
        for i in range(bounds[part], bounds[part + 1]):
            x, products = row(table, 1, i, real), row(table, 3, i, real)
            indices = row(table, 4, i, np.int64)
            _dot_rows(x, n_features, atoms, indices, products, k, real(0))

    return compute


@kernel()
def _bag_sums(real):
    def compute(part, table):
        bounds, n_features = row(table, 0, 0, np.int64), width(table, 1)
        X, weights = row(table, 1, 0, real), row(table, 2, 0, real)
        rows, offsets = row(table, 4, 0, np.int64), row(table, 5, 0, np.int64)
        add = row(table, 6, 0, np.int64)[0]
        for bag in range(bounds[part], bounds[part + 1]):
            sums, first = row(table, 3, bag, real), offsets[bag]
            own, factors = after(rows, first), after(weights, first)
            n_entries = offsets[bag + 1] - first
            if not add:
                for f in range(n_features):
                    sums[f] = 0
            _add_rows(sums, n_features, X, own, factors, n_entries, real(1))

    return compute


@inner()
def _threshold(numbers, n, k, integer):
    """A number that k of these reach; more than k only if several are equal to it."""
    low, high = numbers[0], numbers[0]
    for c in range(n):
        low = numbers[c] if numbers[c] < low else low
        high = numbers[c] if numbers[c] > high else high
    while low < high:
        # Mean of both, rounded up, without their sum, which may overflow.
        middle = integer((low | high) - ((low ^ high) >> 1))
        n_reach = 0
        for c in range(n):
            n_reach += numbers[c] >= middle
        if n_reach == k:
            return middle
        if n_reach > k:
            low = middle
        else:
            high = integer(middle - 1)
    return low


@kernel()
def _largest(integer):
    def compute(part, table):
        bounds, n_columns = row(table, 0, 0, np.int64), width(table, 1)
        n_groups, k = width(table, 2), width(table, 7)
        maxima, candidates = row(table, 2, part, integer), row(table, 3, part, integer)
        groups, columns = row(table, 5, part, np.int64), row(table, 6, part, np.int64)
        # A literal 0 has another type: _threshold would be compiled for it, too.
        size, zero = row(table, 8, 0, np.int64)[0], np.int64(0)
        # Rejected entries are overwritten, which avoids a branch.
        for i in range(bounds[part], bounds[part + 1]):
            numbers = row(table, 1, i, integer)
            found, indices = row(table, 4, i, integer), row(table, 7, i, np.int64)
            # Strided groups, so that maxima are taken over contiguous vectors.
            for g in range(n_groups):
                maxima[g] = numbers[g]
            for member in range(1, size):
                run = after(numbers, member * n_groups)
                for g in range(n_groups):
                    maxima[g] = run[g] if run[g] > maxima[g] else maxima[g]
            least = _threshold(maxima, n_groups, k, integer)
            n_chosen = zero
            for g in range(n_groups):
                groups[n_chosen] = g
                n_chosen += maxima[g] >= least
            n_candidates = zero
            for member in range(size):
                start = member * n_groups
                for c in range(n_chosen):
                    column = start + groups[c]
                    candidates[n_candidates] = numbers[column]
                    columns[n_candidates] = column
                    n_candidates += numbers[column] >= least
            for column in range(n_groups * size, n_columns):
                candidates[n_candidates] = numbers[column]
                columns[n_candidates] = column
                n_candidates += numbers[column] >= least

            least = _threshold(candidates, n_candidates, k, integer)
            n_found = zero
            for c in range(n_candidates):
                if candidates[c] > least:
                    found[n_found] = candidates[c]
                    indices[n_found] = columns[c]
                    n_found += 1
            for c in range(n_candidates):
                if candidates[c] == least and n_found < k:
                    found[n_found] = least
                    indices[n_found] = columns[c]
                    n_found += 1

    return compute


@kernel(fastmath=IN_VECTORS, error_model="numpy")
def _adam_rows(real):
    def compute(part, table):
        bounds, n_features = row(table, 0, 0, np.int64), width(table, 1)
        numbers, flags = row(table, 8, 0, real), row(table, 9, 0, np.int64)
        on_sphere, copy = flags[0], flags[1]
        one, zero = real(1), real(0)
        # Not derived from each other: a square may be infinite, and a difference NaN.
        new_mean, old_square, new_square = numbers[0], numbers[1], numbers[2]
        rate, scale, eps = numbers[3], numbers[4], numbers[5]
        for i in range(bounds[part], bounds[part + 1]):
            p, g = row(table, 1, i, real), row(table, 2, i, real)
            m, v = row(table, 3, i, real), row(table, 4, i, real)
            along, size = zero, zero
            if copy:
                p0, m0 = row(table, 5, i, real), row(table, 6, i, real)
                v0 = row(table, 7, i, real)
                for f in range(n_features):
                    p[f] = p0[f]
                    m[f] = m0[f]
                    v[f] = v0[f]
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

    return compute
