"""Least squares on the atoms of one sample, in Numba.

Atoms enter one at a time, each with a row of the Cholesky factor L of their Gram
matrix.  The functions are inner ones of pursuit and of least squares on given atoms.
All arrays are pointers, whose rows follow each other.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from ._numba import IN_VECTORS
from ._numba_calls import after, four_rows, inner, row
from .batched import RIDGE

# Padding after the places of atoms, so that loops take whole groups of atoms.
MORE = 8
# Number of corrections after which coefficients are computed again from a float64
# factor; and the error that may be left, relative to the largest coefficient, a 300th
# of the rounding of float32.
MAX_CORRECTIONS, SETTLED = 5, 2e-10


class Sample(NamedTuple):
    """A sample and its atoms."""

    x: types.CPointer
    """(n_features,)"""
    atoms: types.CPointer
    """(n_atoms, n_features)"""
    n_features: int
    products: types.CPointer
    """(n_atoms,), of the atoms with the sample, rounded"""
    gram: types.CPointer
    """(n_atoms, width), products of the atoms with each other, rounded"""
    width: int


class Factor(NamedTuple):
    """The Cholesky factor of the support's Gram matrix; float64."""

    L: types.CPointer
    """(k, k), with inverses on the diagonal"""
    y: types.CPointer
    """(k,), with L y = products of the support with the sample"""
    k: int


class Scratch(NamedTuple):
    """Space for `_solve` and `_settle`; float64."""

    own: types.CPointer
    """(k + MORE,)"""
    rest: types.CPointer
    """(k + MORE,)"""
    change: types.CPointer
    """(k + MORE,)"""
    left: types.CPointer
    """(n_features,)"""


@inner()
def _exact(table, array, part):
    return row(table, array, part, np.float64)


@inner()
def _space(table, first, part, k):
    """The space of a part: coefficients, coefficients again, and the rest.

    In the table it begins with array `first`.  `_numba._scratch` has the same order.
    """
    z, found = _exact(table, first, part), _exact(table, first + 1, part)
    own, rest = _exact(table, first + 2, part), _exact(table, first + 3, part)
    change, left = _exact(table, first + 4, part), _exact(table, first + 5, part)
    y, L = _exact(table, first + 6, part), _exact(table, first + 7, part)
    return z, found, Scratch(own, rest, change, left), Factor(L, y, k)


@inner(fastmath=IN_VECTORS)
def _dot(x, y, n):
    """Dot product in float64, in an order that depends on the number of terms."""
    total = 0.0
    for f in range(n):
        total += np.float64(x[f]) * np.float64(y[f])
    return total


@inner(fastmath=IN_VECTORS, error_model="numpy")
def _substitute(s, left, product, factor):
    """Replace row s of L by that of the Cholesky factor, and compute y[s].

    The arguments are the atom's products with itself and with the sample; row s has
    those with the support.  Returns the squared distance of the atom to the span of the
    atoms before it.
    """
    y, row = factor.y, after(factor.L, s * factor.k)
    left += RIDGE
    for t in range(s):
        before = after(factor.L, t * factor.k)
        along = row[t]
        for u in range(t):
            along -= before[u] * row[u]
        along *= before[t]
        row[t] = along
        left -= along * along
        product -= along * y[t]
    inverse = 1.0 / np.sqrt(left) if left > 0 else 0.0
    row[s], y[s] = inverse, product * inverse
    return left


@inner()
def _factor_row(s, sample, support, exact, factor):
    """Row s of the Cholesky factor, from given products or from exact ones."""
    atom, n_features = support[s], sample.n_features
    row = after(factor.L, s * factor.k)
    if exact:
        x = after(sample.atoms, atom * n_features)
        for t in range(s):
            other = after(sample.atoms, support[t] * n_features)
            row[t] = _dot(x, other, n_features)
        own, product = _dot(x, x, n_features), _dot(sample.x, x, n_features)
    else:
        # Rows of atoms in use are closer than that of the new one.
        for t in range(s):
            row[t] = sample.gram[support[t] * sample.width + atom]
        own = np.float64(sample.gram[atom * sample.width + atom])
        product = np.float64(sample.products[atom])
    return _substitute(s, own, product, factor)


@inner()
def _factor_rows(first, end, sample, support, exact, factor):
    """Rows of the Cholesky factor; returns the squared distance of the last atom."""
    left = 1.0
    for s in range(first, end):
        left = _factor_row(s, sample, support, exact, factor)
    return left


@inner()
def _copy(n, x, copy):
    for t in range(n):
        copy[t] = x[t]


@inner(fastmath=IN_VECTORS)
def _solve(n, factor, y, rest, z):
    """z with L^T z = y."""
    _copy(n, y, rest)
    for t in range(n - 1, -1, -1):
        row = after(factor.L, t * factor.k)
        number = rest[t] * row[t]
        z[t] = number
        for u in range(t):
            rest[u] -= number * row[u]


@inner(error_model="numpy")
def _feasible(n, sample, support, exact, factor, rest, z, found):
    """The inner loop of Lawson and Hanson (1974): move from z while it is >= 0.

    z holds non-negative coefficients of n atoms; the last atom is new and has 0.  Atoms
    that reach 0 leave the support.  Returns the number of atoms that stay.
    """
    while True:
        _solve(n, factor, factor.y, rest, found)
        step, first = 1.0, -1
        for t in range(n):
            if found[t] <= 0:
                way = z[t] / (z[t] - found[t]) if z[t] > 0 else 0.0
                if first < 0 or way < step:
                    step, first = way, t
        if first < 0:
            _copy(n, found, z)
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
        _factor_rows(first, n, sample, support, exact, factor)


@inner()
def _contains(numbers, n, number):
    found = False
    for t in range(n):
        found |= numbers[t] == number
    return found


@inner(fastmath=IN_VECTORS)
def _less_atoms(n, sample, support, z, left):
    """Residual of a sample after a combination of the support's atoms, in float64."""
    atoms, n_features = sample.atoms, sample.n_features
    for f in range(n_features):
        left[f] = sample.x[f]
    for t in range(n, n + 3):
        z[t], support[t] = 0.0, 0
    for t in range(0, n, 4):
        a0, a1, a2, a3 = four_rows(atoms, n_features, support, t)
        w0, w1, w2, w3 = z[t], z[t + 1], z[t + 2], z[t + 3]
        for f in range(n_features):
            left[f] -= (w0 * a0[f] + w1 * a1[f]) + (w2 * a2[f] + w3 * a3[f])


@inner(fastmath=IN_VECTORS)
def _dot_atoms(n, x, sample, support, products):
    """Dot products in float64 of x with the support's atoms, and with padding."""
    atoms, n_features = sample.atoms, sample.n_features
    for t in range(0, n, 4):
        a0, a1, a2, a3 = four_rows(atoms, n_features, support, t)
        p0, p1, p2, p3 = 0.0, 0.0, 0.0, 0.0
        for f in range(n_features):
            p0 += x[f] * np.float64(a0[f])
            p1 += x[f] * np.float64(a1[f])
            p2 += x[f] * np.float64(a2[f])
            p3 += x[f] * np.float64(a3[f])
        products[t], products[t + 1] = p0, p1
        products[t + 2], products[t + 3] = p2, p3


@inner(fastmath=IN_VECTORS, error_model="numpy")
def _settle(n, sample, support, factor, scratch, shrink, z):
    """Correct coefficients until they equal those of float64; whether that succeeds.

    A correction leaves a share of the error, at most about `shrink`, the norm of
    (inverse of the Gram matrix) * (rounding error of the Gram matrix).
    """
    own, change = scratch.own, scratch.change
    for _ in range(MAX_CORRECTIONS):
        _less_atoms(n, sample, support, z, scratch.left)
        _dot_atoms(n, scratch.left, sample, support, own)
        for t in range(n):
            row, product = after(factor.L, t * factor.k), own[t]
            for u in range(t):
                product -= row[u] * own[u]
            own[t] = product * row[t]
        _solve(n, factor, own, scratch.rest, change)
        largest, most = 0.0, 0.0
        for t in range(n):
            z[t] += change[t]
            largest, most = max(largest, abs(change[t])), max(most, abs(z[t]))
        if largest * shrink <= SETTLED * most:
            return True
    return False
