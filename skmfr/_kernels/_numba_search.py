"""A search of the atom with the largest product with a residual, in 16 bits, in Numba.

Each step of pursuit reads a row of the Gram matrix for each atom in use, mostly from
the core's own cache, whose speed limits it.  In 16 bits, rows are half as long, and the
processor multiplies twice as many numbers at once.  The result, a score for each atom,
has an error of at most about a unit for each atom in use.  Atoms whose score is so
close to the largest are contenders.  Usually there is one; if there are many, because
the residual has become small beside the coefficients, pursuit computes in full
precision.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numba import types
from torch import Tensor

from ._numba_calls import after, inner
from ._numba_solve import MORE, _contains
from .dense import BLOCK_SIZE

# Number of atoms, times k, from which this is faster. Below, there are few rows, or all
# stay in the cache, and other work takes more time.
WORTHWHILE = 12_000
# A product of 1 between atoms. Their norms are 1 up to rounding.
ONE = 32_000
# Unit of coefficients, in units of scores.  A coefficient of one unit times a product
# of 65,536 is then one unit of scores: the upper half of what processors multiply.
RATIO = ONE / 65_536
# Largest score and largest coefficient, in their units.
MOST, MOST_SIZE = 30_000, 32_000
# Number of atoms in use that MOST leaves room for. Each may add a unit of error.
MOST_IN_USE = 2_000
# A unit that must grow becomes this much larger than needed, so that it grows rarely.
GROWTH = 1.25
# Smallest unit. Its inverse is a float32.
FINEST = 1e-37
# Number of contenders whose products take as long as those of all atoms.
CROWD = 32
# Columns are divided into tiles, as in `_numba_pursuit`; vectors are longer here.
TILE, TILES = 32, 64


class Gram:
    """Products of all atoms with each other.

    Parameters
    ----------
    exact : Tensor of shape (n_components, n_components + GAP)
        Rows are padded to spread over cache lines.
    """

    def __init__(self, exact: Tensor):
        self.exact = exact

    @cached_property
    def short(self) -> Tensor:
        """The same in 16 bits."""
        n_components = len(self.exact)
        short = torch.zeros(self.exact.shape, dtype=torch.int16)
        n_rows = max(1, BLOCK_SIZE // n_components)
        blocks = short.split(n_rows), self.exact.split(n_rows)
        for some, products in zip(*blocks, strict=True):
            some[:, :n_components] = (ONE * products[:, :n_components]).round_()
        return short


class Short(NamedTuple):
    """The Gram matrix, and the space of a part of the rows; int16."""

    gram: types.CPointer
    """(n_atoms, width)"""
    width: int
    n_atoms: int
    products: types.CPointer
    """(n_atoms,), of the atoms with the sample"""
    scores: types.CPointer
    """(n_atoms,)"""
    peaks: types.CPointer
    """(n_tiles,)"""
    n_tiles: int
    z: types.CPointer
    """(k + MORE,)"""


@inner(forceinline=True)
def _less(score, z, product):
    """Written so that the compiler sees a product of 16 bits."""
    return np.int16(score - np.int16((z * product) >> 16))


@inner(forceinline=True)
def _less_four(short, support, half):
    """Scores: products with the sample less a combination of the first four rows."""
    g0 = after(short.gram, support[0] * short.width)
    g1 = after(short.gram, support[1] * short.width)
    g2 = after(short.gram, support[2] * short.width)
    g3 = after(short.gram, support[3] * short.width)
    p, r, z = short.products, short.scores, short.z
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    for f in range(short.n_atoms):
        s = np.int16(p[f] + half)
        s = _less(_less(_less(_less(s, z0, g0[f]), z1, g1[f]), z2, g2[f]), z3, g3[f])
        r[f] = s


@inner(forceinline=True)
def _less_eight(t, short, support):
    """Subtract a combination of eight rows from scores."""
    g0 = after(short.gram, support[t] * short.width)
    g1 = after(short.gram, support[t + 1] * short.width)
    g2 = after(short.gram, support[t + 2] * short.width)
    g3 = after(short.gram, support[t + 3] * short.width)
    g4 = after(short.gram, support[t + 4] * short.width)
    g5 = after(short.gram, support[t + 5] * short.width)
    g6 = after(short.gram, support[t + 6] * short.width)
    g7 = after(short.gram, support[t + 7] * short.width)
    r, z = short.scores, short.z
    z0, z1, z2, z3 = z[t], z[t + 1], z[t + 2], z[t + 3]
    z4, z5, z6, z7 = z[t + 4], z[t + 5], z[t + 6], z[t + 7]
    for f in range(short.n_atoms):
        s = r[f]
        s = _less(_less(_less(_less(s, z0, g0[f]), z1, g1[f]), z2, g2[f]), z3, g3[f])
        s = _less(_less(_less(_less(s, z4, g4[f]), z5, g5[f]), z6, g6[f]), z7, g7[f])
        r[f] = s


@inner(forceinline=True)
def _height(score, positive):
    return score if positive else np.int16(abs(score))


@inner(forceinline=True)
def _peaks(short, positive):
    """The largest score of each tile, at least 0; returns the largest of all."""
    scores, peaks, n_tiles = short.scores, short.peaks, short.n_tiles
    for tile in range(n_tiles):
        peaks[tile] = 0
    start = np.int64(0)
    while start + 4 * n_tiles <= short.n_atoms:
        s0, s1 = after(scores, start), after(scores, start + n_tiles)
        s2, s3 = after(s0, 2 * n_tiles), after(s1, 2 * n_tiles)
        for tile in range(n_tiles):
            first = max(_height(s0[tile], positive), _height(s1[tile], positive))
            second = max(_height(s2[tile], positive), _height(s3[tile], positive))
            peaks[tile] = max(max(first, second), peaks[tile])
        start += 4 * n_tiles
    while start < short.n_atoms:
        rest = after(scores, start)
        for tile in range(min(n_tiles, short.n_atoms - start)):
            peaks[tile] = max(_height(rest[tile], positive), peaks[tile])
        start += n_tiles
    high = peaks[0]
    for tile in range(n_tiles):
        high = max(peaks[tile], high)
    return np.int64(high)


@inner(forceinline=True)
def _find(short, positive, least, tiles, found):
    """Find atoms with a score of at least `least`; returns their number."""
    n_high, n_found = np.int64(0), np.int64(0)
    for tile in range(short.n_tiles):
        tiles[n_high] = tile
        n_high += short.peaks[tile] >= least
    for t in range(n_high):
        f = tiles[t]
        while f < short.n_atoms:
            found[n_found] = f
            n_found += _height(short.scores[f], positive) >= least
            f += short.n_tiles
    return n_found


@inner()
def shorten(products, unit, short, real):
    """Round products with the sample to units."""
    inverse = real(1.0 / unit)
    for f in range(short.n_atoms):
        short.products[f] = np.int16(np.int32(products[f] * inverse))


@inner(forceinline=True)
def _score(n, z, support, unit, short):
    """Scores of all atoms, with errors of less than n + 2 units.

    Coefficients and the Gram matrix are rounded to the nearest number, and so wrong by
    up to a quarter of a unit of scores each, their products by up to a half.
    """
    inverse = 1.0 / (RATIO * unit)
    for t in range(n):
        short.z[t] = np.int16(np.floor(z[t] * inverse + 0.5))
    for t in range(n, n + MORE):
        short.z[t] = 0
    # Products are rounded down, on average by a half.
    _less_four(short, support, np.int16(-(n >> 1)))
    for t in range(4, n, 8):
        _less_eight(t, short, support)


@inner(forceinline=True)
def search_short(
    n, z, support, refused, n_refused, sample, unit, margin, positive, short, tiles,
    contenders, real,
):  # fmt: skip
    """Find the atoms whose product may be the largest, or less by up to `margin`.

    Returns their number, 0 if this search does not serve; a bound that the largest
    product reaches; and the unit.
    """
    most = 0.0
    for t in range(n):
        most = max(most, abs(z[t]))
    if most > unit * RATIO * MOST_SIZE:
        unit = GROWTH * most / (RATIO * MOST_SIZE)
        shorten(sample.products, unit, short, real)
    _score(n, z, support, unit, short)
    high = _peaks(short, positive)
    error = n + 3 + np.int64(min(margin / unit, MOST))
    bound, least = (high - error) * unit, high - 2 * error
    # The products of atoms in use are 0.
    n_found = _find(short, positive, least, tiles, contenders) if least > error else 0
    if n_found > CROWD:
        n_found = 0
    for c in range(n_found if n_refused > 0 else 0):
        if _contains(refused, n_refused, contenders[c]):
            n_found = 0
    return n_found, bound, unit
