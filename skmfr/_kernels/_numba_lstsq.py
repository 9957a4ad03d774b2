"""Least squares in Numba for atoms that are given, one sample at a time.

Most time goes to the products of a sample's atoms with each other.  The atoms are
copied once, and the products then computed in tiles, so that each number that is read
takes part in two or four of them.  Products of float32 atoms are float32, and signed
coefficients are then corrected until they equal those of float64.  Non-negative ones
use float64 throughout, because rounding would decide which of them are 0.
"""

import numpy as np

from ._numba import IN_VECTORS
from ._numba_calls import compiled, inner
from ._numba_solve import (
    MORE,
    _contains,
    _factor_row,
    _feasible,
    _settle,
    _solve,
)
from .batched import TRIES

# Distances of atoms, as multiples of the least one, between which rounding of float32
# could decide.
SURELY_DEPENDENT, SURELY_APART = 0.25, 4.0


@inner()
def _gather(n, i, X, atoms, given, rows):
    """Copy the atoms of a sample, and after them the sample itself."""
    whole = np.uint64(X.shape[1])
    for t in range(n):
        atom = given[t]
        for f in range(whole):
            rows[t, f] = atoms[atom, f]
    for f in range(whole):
        rows[n, f] = X[i, f]


@inner(fastmath=IN_VECTORS)
def _tile(rows, t, u, system):
    """Dot products of two rows with four others."""
    t1, u1 = t + np.uint64(1), u + np.uint64(1)
    u2, u3 = u + np.uint64(2), u + np.uint64(3)
    zero = rows.dtype.type(0)
    p0, p1, p2, p3, q0, q1, q2, q3 = zero, zero, zero, zero, zero, zero, zero, zero
    for f in range(np.uint64(rows.shape[1])):
        x, y = rows[t, f], rows[t1, f]
        x0, x1, x2, x3 = rows[u, f], rows[u1, f], rows[u2, f], rows[u3, f]
        p0, p1, p2, p3 = p0 + x * x0, p1 + x * x1, p2 + x * x2, p3 + x * x3
        q0, q1, q2, q3 = q0 + y * x0, q1 + y * x1, q2 + y * x2, q3 + y * x3
    system[t, u], system[t, u1], system[t, u2], system[t, u3] = p0, p1, p2, p3
    system[t1, u], system[t1, u1], system[t1, u2], system[t1, u3] = q0, q1, q2, q3


@inner()
def _system(n, rows, system):
    """Products of atoms with each other and, as row n, with the sample.

    Eight sums at once, of six rows, keep the processor's registers full, and each has
    the same order.
    """
    for u in range(np.uint64(0), np.uint64(n), np.uint64(4)):
        for t in range(u, np.uint64(n + 1), np.uint64(2)):
            _tile(rows, t, u, system)
    for t in range(n):
        for u in range(t):
            system[u, t] = system[t, u]


@inner()
def _keep_apart(n_given, apart, rows, system, support, exact, L, y):
    """Factor the atoms that are far enough from the span of the atoms before.

    Their products are those of the system, or exact ones of the rows.  Returns their
    number, the smallest distance, and whether rounding could not decide.
    Rounding errors of float32 grow with the inverse of a distance.
    """
    n, nearest, sure = np.int64(0), 1.0, True
    for t in range(n_given):
        support[n] = t
        left = _factor_row(n, n_given, rows, rows, system, system, support, exact, L, y)
        sure &= not SURELY_DEPENDENT * apart < left < SURELY_APART * apart
        if left > apart:
            n, nearest = n + 1, min(nearest, left)
    return n, nearest, sure


@compiled(error_model="numpy")
def _least_squares(
    begin, end, X, atoms, indices, used, limits, nothing, positive, room, values
):
    """See `.batched.least_squares`."""
    k, n_features = indices.shape[1], X.shape[1]
    rounding, apart = limits
    # The atoms of a sample, their places, and those in use as indices among these.
    given, support = np.zeros(k + MORE, np.uint32), np.zeros(k + MORE, np.uint32)
    places, allowed = np.zeros(k, np.uint32), np.zeros(k, np.uint32)
    rows, system = room, np.zeros((k + MORE, k + MORE))
    L, y, z = np.zeros((k, k)), np.zeros(k + MORE), np.zeros(k + MORE)
    rest, found = np.zeros(k + MORE), np.zeros(k + MORE)
    own, left = np.zeros(k + MORE), np.zeros((1, n_features))
    zero, no, yes = np.int64(0), bool(0), bool(1)
    for i in range(begin, end):
        n_given = zero
        for t in range(k):
            values[i, t] = 0.0
            if used[i, t]:
                given[n_given], places[n_given] = indices[i, t], t
                n_given += 1
        _gather(n_given, i, X, atoms, given, rows)
        _system(n_given, rows, system)
        n, nearest, sure = _keep_apart(n_given, apart, rows, system, support, no, L, y)
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
                        gradient = system[n_given, allowed[c]]
                        for t in range(n):
                            gradient -= z[t] * system[allowed[c], support[t]]
                        if gradient > best:
                            best, chosen = gradient, c
                if chosen < 0:
                    break
                support[n], z[n] = allowed[chosen], 0.0
                _factor_row(
                    n, n_given, system, system, system, system, support, no, L, y
                )
                n = _feasible(
                    n + 1,
                    n_given,
                    system,
                    system,
                    system,
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
            shrink = rounding * n / nearest
            if rounding > 0 and not (
                sure
                and _settle(
                    n,
                    n_given,
                    rows,
                    rows,
                    support,
                    L,
                    own,
                    rest,
                    left,
                    found,
                    shrink,
                    z,
                )
            ):
                n = _keep_apart(n_given, apart, rows, system, support, yes, L, y)[0]
                _solve(n, L, y, rest, z)
        for t in range(n):
            values[i, places[support[t]]] = z[t]
