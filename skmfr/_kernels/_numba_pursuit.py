"""Matching pursuit in Numba, one sample at a time.

The products r of all atoms with the residual of a sample follow from p, the products
with the sample, and from the Gram matrix G, the products between atoms::

    r = p - sum over the support of z_t G_t

Each step therefore reads a row of G for each atom of the support, mostly from the
core's cache.  For k atoms it reads k^2 / 2 rows, as many numbers as with k^2 / 2
features.  Of many atoms, `_numba_search` first reads rows in 16 bits, which mostly
leaves one atom.

Everything that rounding could decide is decided in float64 from the atoms and samples
themselves, with sums in a fixed order: the largest of nearly equal products, and
whether an atom depends on others.  At the end, coefficients are corrected until they
equal those of float64.

Each type of an argument compiles a function again, and all that it calls: constants are
therefore variables with a type.
"""

import numpy as np

from ._numba_calls import after, four_rows, inner, kernel, row, width
from ._numba_search import (
    FINEST,
    MOST,
    Short,
    find_high,
    peaks_of,
    search_short,
    shorten,
    tallest,
)
from ._numba_solve import (
    MORE,
    Sample,
    _contains,
    _copy,
    _dot,
    _factor_row,
    _factor_rows,
    _feasible,
    _less_atoms,
    _settle,
    _solve,
    _space,
)
from .batched import TRIES


@inner(fastmath={"contract"})
def _less_four(t, whole, sample, support, z, r):
    """Subtract a combination of four rows of the Gram matrix."""
    g0, g1, g2, g3 = four_rows(sample.gram, sample.width, support, t)
    z0, z1, z2, z3 = z[t], z[t + 1], z[t + 2], z[t + 3]
    for f in range(whole):
        r[f] = r[f] - z0 * g0[f] - z1 * g1[f] - z2 * g2[f] - z3 * g3[f]


@inner(fastmath={"contract"})
def _less_eight(t, whole, sample, support, z, r):
    """Subtract a combination of eight rows of the Gram matrix."""
    g0, g1, g2, g3 = four_rows(sample.gram, sample.width, support, t)
    g4, g5, g6, g7 = four_rows(sample.gram, sample.width, support, t + 4)
    z0, z1, z2, z3 = z[t], z[t + 1], z[t + 2], z[t + 3]
    z4, z5, z6, z7 = z[t + 4], z[t + 5], z[t + 6], z[t + 7]
    for f in range(whole):
        r[f] = (
            r[f]
            - z0 * g0[f]
            - z1 * g1[f]
            - z2 * g2[f]
            - z3 * g3[f]
            - z4 * g4[f]
            - z5 * g5[f]
            - z6 * g6[f]
            - z7 * g7[f]
        )


@inner(fastmath={"contract"})
def _products(n, whole, sample, support, z, r):
    """Products with the sample minus a combination of rows of the Gram matrix.

    z is padded with zeros.  Most time goes to loads, and eight rows at once need fewer.
    Four at the beginning and the end read fewer rows of padding.
    """
    p = sample.products
    g0, g1, g2, g3 = four_rows(sample.gram, sample.width, support, np.int64(0))
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    for f in range(whole):
        r[f] = p[f] - z0 * g0[f] - z1 * g1[f] - z2 * g2[f] - z3 * g3[f]
    t = np.int64(4)
    while n - t > 4:
        _less_eight(t, whole, sample, support, z, r)
        t += 8
    if t < n:
        _less_four(t, whole, sample, support, z, r)


@inner(forceinline=True)
def _without_sign(bits, mask):
    """The height of a float, as a bit pattern."""
    return bits & mask


_peaks = peaks_of(_without_sign)


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
def _search(
    n, support, refused, n_refused, r, bits, whole, mask, margin, positive, peaks,
    heights, n_tiles, tiles, contenders, real,
):  # fmt: skip
    """Find the atoms with the largest product, or one less by at most `margin`.

    Returns their number and the largest product.
    """
    n_found, n_dropped, best = np.int64(0), 1, 0.0
    while n_dropped > 0:
        _peaks(bits, whole, mask, peaks, n_tiles)
        peaks[n_tiles] = tallest(peaks, n_tiles)
        best = np.float64(heights[n_tiles])
        least = real(best - margin)
        n_found = find_high(
            r, whole, positive, heights, n_tiles, least, contenders, tiles
        )
        # Their residual is rounding error, or they were rejected before.
        n_dropped = _drop(contenders, n_found, support, n, r)
        n_dropped += _drop(contenders, n_found, refused, n_refused, r)
    return n_found, best


@inner()
def _compare(n, z, support, sample, positive, margin, n_found, contenders, products):
    """Keep contenders with the largest product, or one less by at most `margin`.

    Returns their number and the largest product.
    """
    best = 0.0
    for c in range(n_found):
        own = after(sample.gram, contenders[c] * sample.width)
        product = np.float64(sample.products[contenders[c]])
        for t in range(n):
            product -= z[t] * own[support[t]]
        products[c] = product if positive else abs(product)
        best = max(best, products[c])
    n_kept = np.int64(0)
    for c in range(n_found):
        contenders[n_kept] = contenders[c]
        n_kept += products[c] >= best - margin
    return n_kept, best


@inner()
def _first_of_largest(left, sample, contenders, n_found, positive):
    """The contender with the largest product with the residual; the first if equal."""
    n_features = sample.n_features
    size, atom = -np.inf, contenders[0]
    for c in range(n_found):
        product = _dot(
            left, after(sample.atoms, contenders[c] * n_features), n_features
        )
        product = product if positive else abs(product)
        first = contenders[c] < atom
        if product > size or (product == size and first):
            size, atom = product, contenders[c]
    return atom


@inner()
def _round(n, z, rounded):
    """Coefficients for `_products`; returns the sum of their sizes."""
    weight = 0.0
    for t in range(n):
        rounded[t] = z[t]
        weight += abs(z[t])
    for t in range(n, n + MORE):
        rounded[t] = 0.0
    return weight


@inner()
def _corrected(n, sample, support, exact, factor, scratch, shrink, z):
    """Make coefficients those of float64; returns whether the factor is now exact."""
    if not exact and not _settle(n, sample, support, factor, scratch, shrink, z):
        exact = True
        _factor_rows(np.int64(0), n, sample, support, exact, factor)
        _solve(n, factor, factor.y, scratch.rest, z)
    return exact


@kernel(error_model="numpy")
def _pursuit(real):
    # Non-negative floats have the order of their bit patterns.
    integer = np.int32 if real is np.float32 else np.int64
    all_but_sign = integer(np.iinfo(integer).max)

    def compute(part, table):
        bounds, parameters = row(table, 0, 0, np.int64), row(table, 10, 0, np.int64)
        n_features, whole = width(table, 1), width(table, 3)
        # The last place is for the largest.
        n_tiles = width(table, 6) - 1
        k, positive = width(table, 8), parameters[0] != 0
        support, refused = (
            row(table, 11, part, np.int64),
            row(table, 12, part, np.int64),
        )
        contenders, tiles = (
            row(table, 13, part, np.int64),
            row(table, 14, part, np.int64),
        )
        sizes, limits = row(table, 15, 0, np.float64), row(table, 16, 0, np.float64)
        rounding, dependent, nothing = limits[0], limits[1], limits[2]
        z, found, scratch, factor = _space(table, 18, part, k)
        # Drop signs, or make negative numbers smaller than all non-negative ones.
        mask = integer(-1) if positive else all_but_sign
        heights, peaks = row(table, 6, part, real), row(table, 6, part, integer)
        rounded, products = row(table, 7, part, real), row(table, 17, part, np.float64)
        short = Short(
            gram=row(table, 26, 0, np.int16),
            width=width(table, 26),
            n_atoms=width(table, 27),
            products=row(table, 27, part, np.int16),
            scores=row(table, 28, part, np.int16),
            peaks=row(table, 29, part, np.int16),
            n_tiles=n_tiles,
            z=row(table, 30, part, np.int16),
        )
        atoms, gram = row(table, 2, 0, real), row(table, 4, 0, real)
        zero = np.int64(0)
        for i in range(bounds[part], bounds[part + 1]):
            x, p = row(table, 1, i, real), row(table, 3, i, real)
            sample = Sample(x, atoms, n_features, p, gram, width(table, 4))
            n, n_refused, n_added = zero, zero, zero
            exact, nearest = False, 1.0
            quick, unit = short.n_atoms > 0, max(sizes[i] / MOST, FINEST)
            if quick:
                shorten(p, unit, short, real)
            while n < k and n_added < TRIES * k:
                weight = _round(n, z, rounded)
                for t in range(n, n + MORE):
                    support[t] = 0
                # Rounding errors grow as atoms come close to each other.
                margin = rounding * (sizes[i] + weight) / np.sqrt(nearest)
                if quick:
                    n_found, best, unit = search_short(
                        n, z, support, refused, n_refused, sample, unit, margin,
                        positive, short, tiles, contenders, real,
                    )  # fmt: skip
                    quick = n_found > 0 and best > nothing * sizes[i]
                if quick and n_found > 1:
                    n_found, best = _compare(
                        n, z, support, sample, positive, margin, n_found, contenders,
                        products,
                    )  # fmt: skip
                if not quick:
                    if n == 0:
                        r, bits = p, row(table, 3, i, integer)
                    else:
                        r = row(table, 5, part, real)
                        bits = row(table, 5, part, integer)
                        _products(n, whole, sample, support, rounded, r)
                    n_found, best = _search(
                        n, support, refused, n_refused, r, bits, whole, mask, margin,
                        positive, peaks, heights, n_tiles, tiles, contenders, real,
                    )  # fmt: skip
                if n_found == 0 or best <= nothing * sizes[i]:
                    break
                atom = contenders[0]
                if n_found > 1:
                    shrink = rounding * n / nearest
                    _copy(n, z, found)
                    exact = _corrected(
                        n, sample, support, exact, factor, scratch, shrink, found
                    )
                    _less_atoms(n, sample, support, found, scratch.left)
                    atom = _first_of_largest(
                        scratch.left, sample, contenders, n_found, positive
                    )
                n_added += 1
                support[n] = atom
                apart = _factor_row(n, sample, support, exact, factor)
                if apart < 100 * dependent and not exact:
                    exact = True
                    apart = _factor_rows(zero, n + 1, sample, support, exact, factor)
                if apart <= dependent:
                    refused[n_refused] = atom
                    n_refused += 1
                    # The factor is exact now, and z may not be.
                    _solve(n, factor, factor.y, scratch.rest, z)
                    for t in range(n if positive else zero):
                        z[t] = max(z[t], 0.0)
                    continue
                nearest = min(nearest, apart)
                n += 1
                if not positive:
                    _solve(n, factor, factor.y, scratch.rest, z)
                    continue
                z[n - 1] = 0.0
                n = _feasible(n, sample, support, exact, factor, scratch.rest, z, found)
                if n == 0 or support[n - 1] != atom:
                    refused[n_refused] = atom
                    n_refused += 1
            shrink = rounding * n / nearest
            _corrected(n, sample, support, exact, factor, scratch, shrink, z)
            values, indices = row(table, 8, i, real), row(table, 9, i, np.int64)
            for t in range(n):
                indices[t] = support[t]
                values[t] = max(z[t], 0.0) if positive else z[t]

    return compute
