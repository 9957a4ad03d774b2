"""Least squares on the atoms of one sample, in Numba.

Atoms enter one at a time, each with a row of the Cholesky factor L of their Gram
matrix.  The functions are inner ones of pursuit and of least squares on given atoms.
"""

import numpy as np

from ._numba import IN_VECTORS
from ._numba_calls import inner
from .batched import RIDGE

# Places after those of the atoms, so that loops take whole groups of atoms.
MORE = 8
# Number of corrections after which coefficients are computed again from a float64
# factor; and the error that may be left, relative to the largest coefficient, a 300th
# of the rounding of float32.
MAX_CORRECTIONS, SETTLED = 5, 2e-10


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


@inner()
def _contains(numbers, n, number):
    found = False
    for t in range(n):
        found |= numbers[t] == number
    return found


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


@inner(fastmath=IN_VECTORS, error_model="numpy")
def _settle(n, i, X, atoms, support, L, own, rest, left, change, shrink, z):
    """Correct coefficients until they equal those of float64; whether that succeeds.

    A correction leaves a share of the error, at most about `shrink`, the norm of
    (inverse of the Gram matrix) * (rounding error of the Gram matrix).
    """
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
        if largest * shrink <= SETTLED * most:
            return True
    return False
