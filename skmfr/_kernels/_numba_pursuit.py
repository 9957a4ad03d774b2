"""Matching pursuit in Numba, one sample at a time.

The products r of all atoms with the residual of a sample follow from p, the products
with the sample, and from the Gram matrix G, the products between atoms::

    r = p - sum over the support of z_t G_t

Each step therefore reads a row of G for each atom of the support, mostly from the
core's cache.  For k atoms it reads k^2 / 2 rows, as many numbers as with k^2 / 2
features.

Everything that rounding could decide is decided in float64 from the atoms and samples
themselves, with sums in a fixed order: the largest of nearly equal products, and
whether an atom depends on others.  At the end, coefficients are corrected until they
equal those of float64.

Functions in the inner loop are short and take no slices of arrays. The compiler then
sees that nothing is freed, and omits reference counts, which take as long as 64
products.  Indices are unsigned where the compiler would otherwise check for negative
ones.  Each type of an argument, and each literal, compiles a function again, and all
that it calls: constants are therefore variables with a type.
"""

import numpy as np

from ._numba_calls import compiled, inner
from ._numba_solve import (
    MORE,
    _contains,
    _copy,
    _dot,
    _factor_row,
    _factor_rows,
    _feasible,
    _less_atoms,
    _settle,
    _solve,
)
from .batched import TRIES

# Number of columns in which to find the largest at once. The number of such tiles is a
# multiple of the second number, because vectors of the compiler's loop have as many.
TILE, TILES = 32, 32


@inner(fastmath={"contract"})
def _less_four(t, whole, gram, support, z, r):
    """Subtract a combination of four rows of the Gram matrix."""
    j0, j1, j2, j3 = support[t], support[t + 1], support[t + 2], support[t + 3]
    z0, z1 = r.dtype.type(z[t]), r.dtype.type(z[t + 1])
    z2, z3 = r.dtype.type(z[t + 2]), r.dtype.type(z[t + 3])
    for f in range(whole):
        r[f] = (
            r[f]
            - z0 * gram[j0, f]
            - z1 * gram[j1, f]
            - z2 * gram[j2, f]
            - z3 * gram[j3, f]
        )


@inner(fastmath={"contract"})
def _less_eight(t, whole, gram, support, z, r):
    """Subtract a combination of eight rows of the Gram matrix."""
    j0, j1, j2, j3 = support[t], support[t + 1], support[t + 2], support[t + 3]
    j4, j5, j6, j7 = support[t + 4], support[t + 5], support[t + 6], support[t + 7]
    z0, z1 = r.dtype.type(z[t]), r.dtype.type(z[t + 1])
    z2, z3 = r.dtype.type(z[t + 2]), r.dtype.type(z[t + 3])
    z4, z5 = r.dtype.type(z[t + 4]), r.dtype.type(z[t + 5])
    z6, z7 = r.dtype.type(z[t + 6]), r.dtype.type(z[t + 7])
    for f in range(whole):
        r[f] = (
            r[f]
            - z0 * gram[j0, f]
            - z1 * gram[j1, f]
            - z2 * gram[j2, f]
            - z3 * gram[j3, f]
            - z4 * gram[j4, f]
            - z5 * gram[j5, f]
            - z6 * gram[j6, f]
            - z7 * gram[j7, f]
        )


@inner(fastmath={"contract"})
def _products(n, i, P, gram, support, z, r):
    """Row i of P minus a combination of rows of the Gram matrix.

    z is padded with zeros.  Most time goes to loads, and eight rows at once need fewer.
    Four at the beginning and the end read fewer rows of padding.
    """
    whole = np.uint64(P.shape[1])
    if n == 0:
        for f in range(whole):
            r[f] = P[i, f]
        return
    j0, j1, j2, j3 = support[0], support[1], support[2], support[3]
    z0, z1 = r.dtype.type(z[0]), r.dtype.type(z[1])
    z2, z3 = r.dtype.type(z[2]), r.dtype.type(z[3])
    for f in range(whole):
        r[f] = (
            P[i, f]
            - z0 * gram[j0, f]
            - z1 * gram[j1, f]
            - z2 * gram[j2, f]
            - z3 * gram[j3, f]
        )
    t = np.int64(4)
    while n - t > 4:
        _less_eight(t, whole, gram, support, z, r)
        t += 8
    if t < n:
        _less_four(t, whole, gram, support, z, r)


@inner()
def _peaks(bits, mask, peaks):
    """The largest number of each tile, as a bit pattern, at least 0.

    Tiles are strided, so that maxima are taken over contiguous vectors.  Four of these
    at once read and write the maxima a fourth as often.
    """
    whole, n_tiles = np.uint64(len(bits)), np.uint64(len(peaks))
    for tile in range(n_tiles):
        peaks[tile] = 0
    start, two, three = np.uint64(0), np.uint64(2) * n_tiles, np.uint64(3) * n_tiles
    while start + n_tiles + three <= whole:
        for tile in range(n_tiles):
            f = start + tile
            a, b = bits[f] & mask[0], bits[f + n_tiles] & mask[0]
            c, d = bits[f + two] & mask[0], bits[f + three] & mask[0]
            peaks[tile] = max(max(max(a, b), max(c, d)), peaks[tile])
        start += n_tiles + three
    while start < whole:
        for tile in range(min(n_tiles, whole - start)):
            peaks[tile] = max(bits[start + tile] & mask[0], peaks[tile])
        start += n_tiles


@inner()
def _tallest(peaks):
    """The largest of all numbers."""
    high = peaks[0]
    for tile in range(len(peaks)):
        high = peaks[tile] if peaks[tile] > high else high
    return high


@inner()
def _find(r, bits, mask, heights, least, found):
    """Find atoms with a product of at least `least`; returns their number."""
    n_found, n_tiles, whole = 0, np.uint64(len(heights)), np.uint64(len(r))
    for tile in range(n_tiles):
        if heights[tile] >= least:
            for f in range(tile, whole, n_tiles):
                if (bits[f] & mask[0]) > 0 and abs(r[f]) >= least:
                    found[n_found] = f
                    n_found += 1
    return n_found


@inner()
def _drop(found, n_found, taken, n, r):
    """Set products of atoms in use to 0; returns the number of these."""
    n_dropped = 0
    for c in range(n_found):
        if _contains(taken, n, found[c]):
            r[found[c]] = 0.0
            n_dropped += 1
    return n_dropped


@inner()
def _first_of_largest(left, atoms, contenders, n_found, positive):
    """The contender with the largest product with the residual; the first if equal."""
    size, atom = -np.inf, contenders[0]
    for c in range(n_found):
        product = _dot(left, np.int64(0), atoms, contenders[c])
        product = product if positive else abs(product)
        first = contenders[c] < atom
        if product > size or (product == size and first):
            size, atom = product, contenders[c]
    return atom


@compiled(error_model="numpy")
def _pursuit(
    begin, end, X, atoms, P, gram, sizes, k, positive, limits, room, values, indices
):
    """See `pursuit`."""
    n_features = X.shape[1]
    rounding, dependent, nothing = limits
    r, bits, mask, peaks, heights, refused, contenders = room
    support = np.zeros(k + MORE, np.uint32)
    L, y, z = np.zeros((k, k)), np.zeros(k + MORE), np.zeros(k + MORE)
    rest, found = np.zeros(k + MORE), np.zeros(k + MORE)
    own, change = np.zeros(k + MORE), np.zeros(k + MORE)
    left = np.zeros((1, n_features))
    height = np.zeros(1, bits.dtype)
    largest = height.view(r.dtype)
    zero, no, yes = np.int64(0), bool(0), bool(1)
    for i in range(begin, end):
        n, n_refused, n_added = zero, zero, zero
        exact, nearest = no, 1.0
        while n < k and n_added < TRIES * k:
            weight = 0.0
            for t in range(n):
                weight += abs(z[t])
            for t in range(n, n + MORE):
                z[t], support[t] = 0.0, 0
            _products(n, i, P, gram, support, z, r)
            _peaks(bits, mask, peaks)
            # Rounding errors grow as atoms come close to each other.
            margin = rounding * (sizes[i] + weight) / np.sqrt(nearest)
            while True:
                # Non-negative floats have the order of their bit patterns.
                height[0] = _tallest(peaks)
                best = largest[0]
                least = r.dtype.type(best - margin)
                n_found = _find(r, bits, mask, heights, least, contenders)
                # Their residual is rounding error, or they were rejected before.
                n_dropped = _drop(contenders, n_found, support, n, r)
                n_dropped += _drop(contenders, n_found, refused, n_refused, r)
                if n_dropped == 0:
                    break
                _peaks(bits, mask, peaks)
            if n_found == 0 or best <= nothing * sizes[i]:
                break
            atom = contenders[0]
            if n_found > 1:
                shrink = rounding * n / nearest
                _copy(n, z, found)
                if not exact and not _settle(
                    n, i, X, atoms, support, L, own, rest, left, change, shrink, found
                ):
                    exact = yes
                    _factor_rows(zero, n, i, X, atoms, P, gram, support, exact, L, y)
                    _solve(n, L, y, rest, found)
                _less_atoms(n, i, X, atoms, support, found, left)
                atom = _first_of_largest(left, atoms, contenders, n_found, positive)
            n_added += 1
            support[n] = atom
            apart = _factor_row(n, i, X, atoms, P, gram, support, exact, L, y)
            if apart < 100 * dependent and not exact:
                exact = yes
                apart = _factor_rows(
                    zero, n + 1, i, X, atoms, P, gram, support, exact, L, y
                )
            if apart <= dependent:
                refused[n_refused] = atom
                n_refused += 1
                continue
            nearest = min(nearest, apart)
            n += 1
            if not positive:
                _solve(n, L, y, rest, z)
                continue
            z[n - 1] = 0.0
            n = _feasible(n, i, X, atoms, P, gram, support, exact, L, y, rest, z, found)
            if n == 0 or support[n - 1] != atom:
                refused[n_refused] = atom
                n_refused += 1
        shrink = rounding * n / nearest
        if not exact and not _settle(
            n, i, X, atoms, support, L, own, rest, left, change, shrink, z
        ):
            exact = yes
            _factor_rows(zero, n, i, X, atoms, P, gram, support, exact, L, y)
            _solve(n, L, y, rest, z)
        for t in range(n):
            indices[i, t] = support[t]
            values[i, t] = max(z[t], 0.0) if positive else z[t]
