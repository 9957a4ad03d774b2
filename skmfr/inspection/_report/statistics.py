"""Statistics of each atom on some data, computed in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from ..._data.moments import fvu_of_blocks
from ..._data.sources import Source
from ..._sae.top import TopCodes

# Bins of a histogram on each side of 0, a power of 2.
N_BINS = 32
# Exponent of a bin that is too narrow for any number.
NARROWEST = -1100


class AtomStatistics(NamedTuple):
    """Statistics of each atom on some data."""

    n_samples: int
    fvu: float
    """FVU of the reconstruction"""
    n_active: np.ndarray
    """(n_components,), number of samples in which the atom is active"""
    total: np.ndarray
    """(n_components,), sum of the codes"""
    energy: np.ndarray
    """(n_components,), sum of the squared contributions to reconstructions"""
    examples: np.ndarray
    """(n_components, n_examples), samples with the largest codes, in descending order;
    -1 if there are fewer"""
    codes: np.ndarray
    """(n_components, n_examples), their codes; 0 if there are fewer"""
    histograms: Histograms

    @property
    def l0(self) -> float:
        """Mean number of active atoms per sample."""
        return float(self.n_active.sum() / self.n_samples)

    @property
    def density(self) -> np.ndarray:
        """(n_components,), share of the samples in which the atom is active."""
        return self.n_active / self.n_samples

    @property
    def mean(self) -> np.ndarray:
        """(n_components,), mean code where the atom is active; 0 if never active."""
        return self.total / np.maximum(self.n_active, 1)

    @property
    def largest(self) -> np.ndarray:
        """(n_components,), largest code; 0 if none is positive."""
        return self.codes[:, 0]

    @property
    def usage(self) -> np.ndarray:
        """(n_components,), share in the squared contributions to reconstructions."""
        return self.energy / (self.energy.sum() or 1.0)


class Histogram(NamedTuple):
    """Counts of the codes of one atom, where it is active."""

    start: float
    """start of the first bin"""
    width: float
    """width of each bin"""
    counts: np.ndarray
    """(n_bins,)"""


class Histograms:
    """Histograms of the nonzero codes of all atoms, from blocks of samples.

    The bins of an atom have the smallest width, a power of 2, at which `N_BINS` of them
    reach its largest code.  They double when a larger code comes, so the result equals
    that from all codes at once.
    """

    def __init__(self, n_components: int):
        self.exponents = np.full(n_components, NARROWEST)
        """(n_components,), exponent of the width of each atom's bins"""
        self.counts = np.zeros((n_components, 2 * N_BINS), dtype=int)

    def add(self, atoms: np.ndarray, values: np.ndarray) -> None:
        """Count nonzero codes.

        Parameters
        ----------
        atoms : ndarray of shape (n_codes,), int
        values : ndarray of shape (n_codes,), float64
        """
        size = np.zeros(len(self.exponents))
        np.maximum.at(size, atoms, np.abs(values))
        mantissa, exponents = np.frexp(size / N_BINS)
        exponents[mantissa == 0.5] -= 1
        self._widen(np.where(size > 0, exponents, NARROWEST))
        places = np.floor(np.ldexp(values, -self.exponents[atoms]))
        # The largest code may lie on the last edge, which belongs to the last bin.
        places = np.minimum(places.astype(int), N_BINS - 1)
        np.add.at(self.counts, (atoms, places + N_BINS), 1)

    def _widen(self, exponents: np.ndarray) -> None:
        atoms = np.flatnonzero(exponents > self.exponents)
        # After the last bit, there is nothing left to shift.
        shift = np.minimum(exponents[atoms] - self.exponents[atoms], 62)
        places = np.arange(-N_BINS, N_BINS) >> shift[:, None]
        wider = np.zeros((len(atoms), 2 * N_BINS), dtype=int)
        rows = np.arange(len(atoms))[:, None]
        np.add.at(wider, (rows, places + N_BINS), self.counts[atoms])
        self.counts[atoms] = wider
        self.exponents[atoms] = exponents[atoms]

    def of(self, atom: int) -> Histogram:
        """Histogram from 0, or the smallest code if negative, to the largest."""
        (filled,) = np.nonzero(self.counts[atom])
        first = min(filled, default=N_BINS)
        first, stop = min(first, N_BINS), max(N_BINS, max(filled, default=0) + 1)
        width = float(np.ldexp(1.0, self.exponents[atom]))
        return Histogram((first - N_BINS) * width, width, self.counts[atom, first:stop])


def atom_statistics(
    estimator, X: np.ndarray | Source, n_examples: int, max_norm: float | None = None
) -> AtomStatistics:
    """Statistics of each atom on X, which is read and coded block by block.

    Parameters
    ----------
    estimator : MFRSparseAutoencoder
        Fitted estimator.
    X : ndarray or Source of shape (n_samples, n_features)
        Checked data.
    n_examples : int
        Number of samples to keep for each atom.
    max_norm : float, optional
        Samples with a larger norm are left out.

    Raises
    ------
    ValueError
        If no sample is left.
    """
    n_components = len(estimator.components_)
    total, energy = np.zeros((2, n_components))
    # Equal to 1, up to rounding, except for atoms of other packages.
    squared_norms = np.square(estimator.components_, dtype=float).sum(axis=1)
    histograms = Histograms(n_components)
    best = TopCodes(n_components, n_examples)
    n_counting: list[int] = []

    def count(codes: sparse.csr_array, start: int) -> None:
        _, atoms, values = sparse.find(codes)
        values = values.astype(float)
        total[:] += np.bincount(atoms, values, n_components)
        squares = np.square(values) * squared_norms[atoms]
        energy[:] += np.bincount(atoms, squares, n_components)
        histograms.add(atoms, values)
        best.add(codes, start, np.ones(codes.shape[0], dtype=int))

    def reconstructed() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import torch

        from ..._sae.arrays import as_csr, coded_blocks, coder_of

        coder, start = coder_of(estimator, X), 0
        for block, codes in coded_blocks(coder, X):
            counting = np.ones(len(block), dtype=bool)
            if max_norm is not None:
                counting = np.linalg.norm(block, axis=1) <= max_norm
                # Without active atoms they do not count; others keep their indices.
                left_out = torch.from_numpy(~counting).to(codes.values.device)
                codes.values[left_out] = 0
            count(as_csr(codes, n_components), start)
            start += len(block)
            n_counting.append(int(counting.sum()))
            if n_counting[-1]:
                X_hat = coder.decode(codes).cpu().numpy()
                yield block[counting], X_hat[counting]
        if not any(n_counting):
            raise ValueError("max_norm_ratio leaves out all samples of X: raise it.")

    fvu = fvu_of_blocks(reconstructed())
    return AtomStatistics(
        sum(n_counting),
        fvu,
        best.n_active,
        total,
        energy,
        best.inputs,
        best.codes,
        histograms,
    )
