"""Matching pursuit and least squares in Numba, one sample at a time.

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

from ._numba import IN_VECTORS
from ._numba_calls import compiled, inner
from .batched import RIDGE, TRIES

# Number of columns in which to find the largest at once, and minimum number of such
# tiles.
TILE, MIN_TILES = 64, 16
# Number of corrections after which coefficients are computed again from a float64
# factor; and relative size of a correction below which the next one would be lost.
MAX_CORRECTIONS, SETTLED = 5, 1e-6


@inner(fastmath=IN_VECTORS)
def _dot(X, i, Y, j):
    """Dot product of two rows in float64, in an order that depends on their length."""
    total = 0.0
    for f in range(X.shape[1]):
        total += np.float64(X[i, f]) * np.float64(Y[j, f])
    return total


@inner()
def _products_of_atom(s, gram, support, L):
    """Set row s of L to the products of an atom with the atoms before it."""
    atom = support[s]
    for t in range(s):
        L[s, t] = gram[atom, support[t]]


@inner(fastmath=IN_VECTORS, error_model="numpy")
def _substitute(s, left, product, L, y):
    """Replace row s of L by that of the Cholesky factor, and y[s] in L y = products.

    The arguments are the atom's products with itself and with the sample.  The diagonal
    of L holds inverses.  Returns the squared distance of the atom to the span of the
    atoms before it.
    """
    left += RIDGE
    for t in range(s):
        along = L[s, t]
        for u in range(t):
            along -= L[t, u] * L[s, u]
        along *= L[t, t]
        L[s, t] = along
        left -= along * along
        product -= along * y[t]
    factor = 1.0 / np.sqrt(left) if left > 0 else 0.0
    L[s, s], y[s] = factor, product * factor
    return left


@inner()
def _factor_row(s, i, X, atoms, P, gram, support, exact, L, y):
    """Row s of the Cholesky factor, from given products or from exact ones."""
    atom = support[s]
    if not exact:
        _products_of_atom(s, gram, support, L)
        own, product = np.float64(gram[atom, atom]), np.float64(P[i, atom])
        return _substitute(s, own, product, L, y)
    for t in range(s):
        L[s, t] = _dot(atoms, np.int64(atom), atoms, support[t])
    own, product = _dot(atoms, np.int64(atom), atoms, atom), _dot(X, i, atoms, atom)
    return _substitute(s, own, product, L, y)


@inner()
def _factor_rows(first, end, i, X, atoms, P, gram, support, exact, L, y):
    """Rows of the Cholesky factor; returns the squared distance of the last atom."""
    left = 1.0
    for s in range(first, end):
        left = _factor_row(s, i, X, atoms, P, gram, support, exact, L, y)
    return left


@inner()
def _copy(n, x, copy):
    for t in range(n):
        copy[t] = x[t]


@inner(fastmath=IN_VECTORS)
def _substitute_back(n, L, rest, z):
    """z with L^T z = rest, which is changed."""
    for t in range(n - 1, -1, -1):
        number = rest[t] * L[t, t]
        z[t] = number
        for u in range(t):
            rest[u] -= number * L[t, u]


@inner()
def _solve(n, L, y, rest, z):
    """z with L^T z = y."""
    _copy(n, y, rest)
    _substitute_back(n, L, rest, z)


@inner(error_model="numpy")
def _feasible(n, i, X, atoms, P, gram, support, exact, L, y, rest, z, found):
    """The inner loop of Lawson and Hanson (1974): move from z while it is >= 0.

    z holds non-negative coefficients of n atoms; the last atom is new and has 0.  Atoms
    that reach 0 leave the support.  Returns the number of atoms that stay.
    """
    while True:
        _solve(n, L, y, rest, found)
        step, first = 1.0, -1
        for t in range(n):
            if found[t] <= 0:
                way = z[t] / (z[t] - found[t]) if z[t] > 0 else 0.0
                if first < 0 or way < step:
                    step, first = way, t
        if first < 0:
            for t in range(n):
                z[t] = found[t]
            return n
        for t in range(n):
            z[t] += step * (found[t] - z[t])
        z[first] = 0.0
        n_kept, first = np.int64(0), n
        for t in range(n):
            if z[t] > 0:
                z[n_kept], support[n_kept] = z[t], support[t]
                n_kept += 1
            else:
                first = min(first, t)
        n = n_kept
        _factor_rows(first, n, i, X, atoms, P, gram, support, exact, L, y)


@inner(fastmath={"contract"})
def _products(n, i, P, gram, support, z, r):
    """Row i of P minus a combination of rows of the Gram matrix.

    z is padded with zeros to a multiple of four atoms.
    """
    whole = np.uint64(P.shape[1])
    for f in range(whole):
        r[f] = P[i, f]
    for t in range(0, n, 4):
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


@inner()
def _peaks(bits, mask, peaks):
    """The largest number of each tile, as a bit pattern, at least 0.

    Tiles are strided, so that maxima are taken over contiguous vectors.
    """
    whole, n_tiles = np.uint64(len(bits)), np.uint64(len(peaks))
    for tile in range(n_tiles):
        peaks[tile] = 0
    start = np.uint64(0)
    while start < whole:
        for tile in range(min(n_tiles, whole - start)):
            number = bits[start + tile] & mask[0]
            peaks[tile] = number if number > peaks[tile] else peaks[tile]
        start += n_tiles


@inner()
def _tallest(peaks):
    """The largest of all numbers."""
    high = peaks[0]
    for tile in range(len(peaks)):
        high = peaks[tile] if peaks[tile] > high else high
    return high


@inner()
def _contains(numbers, n, number):
    found = False
    for t in range(n):
        found |= numbers[t] == number
    return found


@inner()
def _find(r, bits, mask, heights, least, found):
    """Find atoms with a product of at least `least`; returns their number."""
    n_found, n_tiles = 0, len(heights)
    for tile in range(n_tiles):
        if heights[tile] >= least:
            for f in range(tile, len(r), n_tiles):
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


@inner(fastmath=IN_VECTORS)
def _less_atoms(n, i, X, atoms, support, z, left):
    """Residual of a sample after a combination of the support's atoms, in float64."""
    for f in range(X.shape[1]):
        left[0, f] = X[i, f]
    for t in range(n, n + 3):
        z[t] = 0.0
    for t in range(0, n, 4):
        j0, j1, j2, j3 = support[t], support[t + 1], support[t + 2], support[t + 3]
        w0, w1, w2, w3 = z[t], z[t + 1], z[t + 2], z[t + 3]
        for f in range(X.shape[1]):
            left[0, f] -= (w0 * atoms[j0, f] + w1 * atoms[j1, f]) + (
                w2 * atoms[j2, f] + w3 * atoms[j3, f]
            )


@inner(fastmath=IN_VECTORS)
def _dot_atoms(n, x, atoms, support, products):
    """Dot products in float64 of x with the support's atoms."""
    for t in range(0, n, 4):
        j0, j1, j2, j3 = support[t], support[t + 1], support[t + 2], support[t + 3]
        p0, p1, p2, p3 = 0.0, 0.0, 0.0, 0.0
        for f in range(x.shape[1]):
            p0 += x[0, f] * np.float64(atoms[j0, f])
            p1 += x[0, f] * np.float64(atoms[j1, f])
            p2 += x[0, f] * np.float64(atoms[j2, f])
            p3 += x[0, f] * np.float64(atoms[j3, f])
        products[t], products[t + 1] = p0, p1
        products[t + 2], products[t + 3] = p2, p3


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


@inner(fastmath=IN_VECTORS, error_model="numpy")
def _settle(n, i, X, atoms, support, L, own, rest, left, change, z):
    """Correct coefficients until they equal those of float64; whether that succeeds."""
    for _ in range(MAX_CORRECTIONS):
        _less_atoms(n, i, X, atoms, support, z, left)
        _dot_atoms(n, left, atoms, support, own)
        for t in range(n):
            product = own[t]
            for u in range(t):
                product -= L[t, u] * own[u]
            own[t] = product * L[t, t]
        _solve(n, L, own, rest, change)
        largest, most = 0.0, 0.0
        for t in range(n):
            z[t] += change[t]
            largest, most = max(largest, abs(change[t])), max(most, abs(z[t]))
        if largest <= SETTLED * most:
            return True
    return False


@compiled(error_model="numpy")
def _pursuit(
    begin, end, X, atoms, P, gram, sizes, k, positive, limits, room, values, indices
):
    """See `pursuit`."""
    n_features = X.shape[1]
    rounding, dependent, nothing = limits
    r, bits, mask, peaks, heights, refused, contenders = room
    # Padded to a multiple of four atoms beyond those of the support.
    support = np.zeros(k + 4, np.uint32)
    L, y, z = np.zeros((k, k)), np.zeros(k + 4), np.zeros(k + 4)
    rest, found = np.zeros(k + 4), np.zeros(k + 4)
    own, change = np.zeros(k + 4), np.zeros(k + 4)
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
            for t in range(n, n + 4):
                z[t], support[t] = 0.0, 0
            _products(n, i, P, gram, support, z, r)
            _peaks(bits, mask, peaks)
            # Rounding errors grow as atoms come close to each other.
            margin = rounding * (sizes[i] + weight) / np.sqrt(nearest)
            while True:
                # Non-negative floats have the order of their bit patterns.
                height[0] = _tallest(peaks)
                best = largest[0]
                n_found = _find(r, bits, mask, heights, best - margin, contenders)
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
                _copy(n, z, found)
                if not exact:
                    exact = not _settle(
                        n, i, X, atoms, support, L, own, rest, left, change, found
                    )
                    if exact:
                        _factor_rows(
                            zero, n, i, X, atoms, P, gram, support, exact, L, y
                        )
                        _solve(n, L, y, rest, found)
                _less_atoms(n, i, X, atoms, support, found, left)
                atom = _first_of_largest(left, atoms, contenders, n_found, positive)
            n_added += 1
            support[n] = atom
            if exact:
                apart = _factor_row(n, i, X, atoms, P, gram, support, exact, L, y)
            else:
                _products_of_atom(n, gram, support, L)
                size, product = np.float64(gram[atom, atom]), np.float64(P[i, atom])
                apart = _substitute(n, size, product, L, y)
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
                _copy(n, y, rest)
                _substitute_back(n, L, rest, z)
                continue
            z[n - 1] = 0.0
            n = _feasible(n, i, X, atoms, P, gram, support, exact, L, y, rest, z, found)
            if n == 0 or support[n - 1] != atom:
                refused[n_refused] = atom
                n_refused += 1
        if not exact and not _settle(
            n, i, X, atoms, support, L, own, rest, left, change, z
        ):
            exact = yes
            _factor_rows(zero, n, i, X, atoms, P, gram, support, exact, L, y)
            _solve(n, L, y, rest, z)
        for t in range(n):
            indices[i, t] = support[t]
            values[i, t] = max(z[t], 0.0) if positive else z[t]


@compiled(error_model="numpy")
def _least_squares(
    begin, end, X, atoms, indices, used, apart, nothing, positive, values
):
    """See `.batched.least_squares`."""
    k, n_features = indices.shape[1], X.shape[1]
    # The atoms of a sample, and their indices among these.
    given, support = np.zeros(k + 4, np.uint32), np.zeros(k + 4, np.uint32)
    system, products = np.zeros((k, k + 4)), np.zeros((1, k + 4))
    allowed = np.zeros(k, np.uint32)
    L, y, z = np.zeros((k, k)), np.zeros(k + 4), np.zeros(k + 4)
    rest, found = np.zeros(k + 4), np.zeros(k + 4)
    row, x = np.zeros(k + 4), np.zeros((1, n_features))
    zero, no = np.int64(0), bool(0)
    for i in range(begin, end):
        n_given, n = zero, zero
        for t in range(k):
            values[i, t] = 0.0
            if used[i, t]:
                given[n_given], n_given = indices[i, t], n_given + 1
        for t in range(n_given, n_given + 4):
            given[t] = 0
        for t in range(n_given + 1):
            for f in range(n_features):
                x[0, f] = X[i, f] if t == n_given else atoms[given[t], f]
            _dot_atoms(min(t + 1, n_given), x, atoms, given, row)
            for u in range(n_given):
                if t == n_given:
                    products[0, u] = row[u]
                elif u <= t:
                    system[t, u] = system[u, t] = row[u]
        # Keep atoms that are far enough from the span of the atoms before.
        for t in range(n_given):
            support[n] = t
            left = _factor_row(
                n, zero, products, system, products, system, support, no, L, y
            )
            if left > apart:
                n += 1
        if positive:
            n_allowed, n_tries = n, TRIES * k
            for t in range(n):
                allowed[t] = support[t]
            n = zero
            while n_tries > 0:
                n_tries -= 1
                best, chosen = nothing[i], -1
                for c in range(n_allowed):
                    if not _contains(support, n, allowed[c]):
                        gradient = products[0, allowed[c]]
                        for t in range(n):
                            gradient -= z[t] * system[allowed[c], support[t]]
                        if gradient > best:
                            best, chosen = gradient, c
                if chosen < 0:
                    break
                support[n], z[n] = allowed[chosen], 0.0
                _factor_row(
                    n, zero, products, system, products, system, support, no, L, y
                )
                n = _feasible(
                    n + 1,
                    zero,
                    products,
                    system,
                    products,
                    system,
                    support,
                    no,
                    L,
                    y,
                    rest,
                    z,
                    found,
                )
                if n == 0 or support[n - 1] != allowed[chosen]:
                    # An atom that left as soon as it entered would enter again.
                    n_allowed -= 1
                    allowed[chosen] = allowed[n_allowed]
        else:
            _solve(n, L, y, rest, z)
        for t in range(n):
            for place in range(k):
                if used[i, place] and indices[i, place] == given[support[t]]:
                    values[i, place] = z[t]
