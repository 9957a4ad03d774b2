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

from ._numba_calls import after, four_rows, inner
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
# Number of columns in which to find the largest at once. The number of such tiles is a
# multiple of the second number, because vectors of the compiler's loop have as many.
TILE, TILES = 32, 32


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
    g0, g1, g2, g3 = four_rows(short.gram, short.width, support, np.int64(0))
    p, r, z = short.products, short.scores, short.z
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    for f in range(short.n_atoms):
        s = np.int16(p[f] + half)
        s = _less(_less(_less(_less(s, z0, g0[f]), z1, g1[f]), z2, g2[f]), z3, g3[f])
        r[f] = s


@inner(forceinline=True)
def _less_eight(t, short, support):
    """Subtract a combination of eight rows from scores."""
    g0, g1, g2, g3 = four_rows(short.gram, short.width, support, t)
    g4, g5, g6, g7 = four_rows(short.gram, short.width, support, t + 4)
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


def peaks_of(height):
    """A function that finds the largest height(score, how) of each tile, at least 0.

    Tiles are strided, so that maxima are taken over contiguous vectors.  Four of these
    at once read and write the maxima a fourth as often.
    """

    @inner()
    def find_peaks(scores, n_atoms, how, peaks, n_tiles):
        for tile in range(n_tiles):
            peaks[tile] = 0
        start = np.int64(0)
        while start + 4 * n_tiles <= n_atoms:
            s0, s1 = after(scores, start), after(scores, start + n_tiles)
            s2, s3 = after(s0, 2 * n_tiles), after(s1, 2 * n_tiles)
            for tile in range(n_tiles):
                first = max(height(s0[tile], how), height(s1[tile], how))
                second = max(height(s2[tile], how), height(s3[tile], how))
                peaks[tile] = max(max(first, second), peaks[tile])
            start += 4 * n_tiles
        while start < n_atoms:
            rest = after(scores, start)
            for tile in range(min(n_tiles, n_atoms - start)):
                peaks[tile] = max(height(rest[tile], how), peaks[tile])
            start += n_tiles

    return find_peaks


_peaks = peaks_of(_height)


@inner()
def tallest(peaks, n_tiles):
    """The largest of all numbers."""
    high = peaks[0]
    for tile in range(n_tiles):
        high = peaks[tile] if peaks[tile] > high else high
    return high


@inner()
def find_high(scores, n_atoms, positive, peaks, n_tiles, least, found, tiles):
    """Find atoms with a score of at least `least`, above 0; returns their number.

    Rejected numbers are overwritten, which avoids branches.
    """
    n_high, n_found = np.int64(0), np.int64(0)
    for tile in range(n_tiles):
        tiles[n_high] = tile
        n_high += peaks[tile] >= least
    for t in range(n_high):
        f = tiles[t]
        while f < n_atoms:  # a range would divide, to count its steps
            height = scores[f] if positive else abs(scores[f])
            found[n_found] = f
            n_found += (height > 0) & (height >= least)
            f += n_tiles
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
    scores, peaks, n_tiles = short.scores, short.peaks, short.n_tiles
    _peaks(scores, short.n_atoms, positive, peaks, n_tiles)
    high = np.int64(tallest(peaks, n_tiles))
    error = n + 3 + np.int64(min(margin / unit, MOST))
    bound, least = (high - error) * unit, high - 2 * error
    n_found = 0
    if least > error:  # the products of atoms in use are 0
        n_found = find_high(
            scores, short.n_atoms, positive, peaks, n_tiles, least, contenders, tiles
        )
    if n_found > CROWD:
        n_found = 0
    for c in range(n_found if n_refused > 0 else 0):
        if _contains(refused, n_refused, contenders[c]):
            n_found = 0
    return n_found, bound, unit
