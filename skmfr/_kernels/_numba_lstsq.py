"""Least squares in Numba for atoms that are given, one sample at a time.

Most time goes to the products of a sample's atoms with each other.  The atoms are
copied once, and the products then computed in tiles, so that each number that is read
takes part in two or four of them.  Products of float32 atoms are float32, and signed
coefficients are then corrected until they equal those of float64.  Non-negative ones
use float64 throughout, because rounding would decide which of them are 0.
"""

import numpy as np

from ._numba import IN_VECTORS
from ._numba_calls import after, inner, kernel, row, width
from ._numba_solve import (
    Sample,
    _contains,
    _factor_row,
    _feasible,
    _settle,
    _solve,
    _space,
)
from .batched import TRIES

# Distances of atoms, as multiples of the least one, between which rounding of float32
# could decide.
SURELY_DEPENDENT, SURELY_APART = 0.25, 4.0


@inner()
def _gather(k, x, atoms, n_features, indices, used, places, rows):
    """Copy the atoms of a sample that are in use, and after them the sample itself.

    Returns their number; `places` are theirs among the indices.
    """
    n = np.int64(0)
    for t in range(k):
        if used[t]:
            atom, copy = (
                after(atoms, indices[t] * n_features),
                after(rows, n * n_features),
            )
            for f in range(n_features):
                copy[f] = atom[f]
            places[n] = t
            n += 1
    copy = after(rows, n * n_features)
    for f in range(n_features):
        copy[f] = x[f]
    return n


@inner(fastmath=IN_VECTORS)
def _tile(rows, n_features, t, u, zero, system, width):
    """Dot products of two rows with four others."""
    x, y = after(rows, t * n_features), after(rows, (t + 1) * n_features)
    x0, x1 = after(rows, u * n_features), after(rows, (u + 1) * n_features)
    x2, x3 = after(rows, (u + 2) * n_features), after(rows, (u + 3) * n_features)
    p0, p1, p2, p3, q0, q1, q2, q3 = zero, zero, zero, zero, zero, zero, zero, zero
    for f in range(n_features):
        a, b = x[f], y[f]
        p0, p1, p2, p3 = p0 + a * x0[f], p1 + a * x1[f], p2 + a * x2[f], p3 + a * x3[f]
        q0, q1, q2, q3 = q0 + b * x0[f], q1 + b * x1[f], q2 + b * x2[f], q3 + b * x3[f]
    p, q = after(system, t * width + u), after(system, (t + 1) * width + u)
    p[0], p[1], p[2], p[3] = p0, p1, p2, p3
    q[0], q[1], q[2], q[3] = q0, q1, q2, q3


@inner()
def _system(n, rows, n_features, zero, system, width):
    """Products of atoms with each other and, as row n, with the sample.

    Eight sums at once, of six rows, keep the processor's registers full, and each has
    the same order.
    """
    for u in range(0, n, 4):
        for t in range(u, n + 1, 2):
            _tile(rows, n_features, t, u, zero, system, width)
    for t in range(n):
        for u in range(t):
            system[u * width + t] = system[t * width + u]


@inner()
def _keep_apart(n_given, apart, sample, support, exact, factor):
    """Factor the atoms that are far enough from the span of the atoms before.

    Their products are those of the system, or exact ones of the rows.  Returns their
    number, the smallest distance, and whether rounding could not decide.
    Rounding errors of float32 grow with the inverse of a distance.
    """
    n, nearest, sure = np.int64(0), 1.0, True
    for t in range(n_given):
        support[n] = t
        left = _factor_row(n, sample, support, exact, factor)
        sure &= not SURELY_DEPENDENT * apart < left < SURELY_APART * apart
        if left > apart:
            n, nearest = n + 1, min(nearest, left)
    return n, nearest, sure


@inner()
def _non_negative(n_allowed, sample, nothing, support, allowed, factor, rest, z, found):
    """Non-negative coefficients (Lawson, Hanson 1974) of the atoms of the support.

    Returns the number of atoms with positive ones, which are the new support.
    """
    n, n_tries, exact = np.int64(0), TRIES * factor.k, False
    for t in range(n_allowed):
        allowed[t] = support[t]
    while n_tries > 0:
        n_tries -= 1
        best, chosen = nothing, -1
        for c in range(n_allowed):
            if not _contains(support, n, allowed[c]):
                products = after(sample.gram, allowed[c] * sample.width)
                gradient = sample.products[allowed[c]]
                for t in range(n):
                    gradient -= z[t] * products[support[t]]
                if gradient > best:
                    best, chosen = gradient, c
        if chosen < 0:
            break
        support[n], z[n] = allowed[chosen], 0.0
        _factor_row(n, sample, support, exact, factor)
        n = _feasible(n + 1, sample, support, exact, factor, rest, z, found)
        if n == 0 or support[n - 1] != allowed[chosen]:
            # An atom that left as soon as it entered would enter again.
            n_allowed -= 1
            allowed[chosen] = allowed[n_allowed]
    return n


def _of_atoms(real, exact, positive):
    """A function for samples of a type; products of atoms have the type `exact`."""

    def compute(part, table):
        bounds, n_features = row(table, 0, 0, np.int64), width(table, 1)
        k, n_places = width(table, 3), width(table, 6)
        atoms, rows = row(table, 2, 0, real), row(table, 11, part, exact)
        # The atoms in use, as numbers of those in rows, and the places of these.
        support, places = row(table, 6, part, np.int64), row(table, 7, part, np.int64)
        allowed = row(table, 8, part, np.int64)
        nothing, limits = row(table, 9, 0, np.float64), row(table, 10, 0, np.float64)
        rounding, apart = limits[0], limits[1]
        system = row(table, 12, part, np.float64)
        z, found, scratch, factor = _space(table, 13, part, k)
        y, rest = factor.y, scratch.rest
        for i in range(bounds[part], bounds[part + 1]):
            indices, used = row(table, 4, i, np.int64), row(table, 5, i, np.int64)
            x, values = row(table, 1, i, real), row(table, 3, i, real)
            n_given = _gather(k, x, atoms, n_features, indices, used, places, rows)
            _system(n_given, rows, n_features, exact(0), system, n_places)
            own = after(rows, n_given * n_features)
            products = after(system, n_given * n_places)
            sample = Sample(own, rows, n_features, products, system, n_places)
            n, nearest, sure = _keep_apart(
                n_given, apart, sample, support, False, factor
            )
            if positive:
                n = _non_negative(
                    n, sample, nothing[i], support, allowed, factor, rest, z, found
                )
            else:
                _solve(n, factor, y, rest, z)
                shrink = rounding * n / nearest
                if rounding > 0 and not (
                    sure and _settle(n, sample, support, factor, scratch, shrink, z)
                ):
                    n = _keep_apart(n_given, apart, sample, support, True, factor)[0]
                    _solve(n, factor, y, rest, z)
            for t in range(k):
                values[t] = real(0)
            for t in range(n):
                values[places[support[t]]] = z[t]

    return compute


@kernel(error_model="numpy")
def _signed(real):
    return _of_atoms(real, real, False)


@kernel(error_model="numpy")
def _positive(real):
    return _of_atoms(real, np.float64, True)
