"""The largest codes of each atom, found in one pass."""

import numpy as np
from scipy import sparse


class TopCodes:
    """The largest codes of each atom so far, at most one per input."""

    def __init__(self, n_components: int, n_contexts: int):
        shape = n_components, n_contexts
        self.codes = np.zeros(shape)
        self.inputs = np.full(shape, -1)
        self.positions = np.full(shape, -1)
        self.n_active = np.zeros(n_components, dtype=int)
        """number of positions at which each atom is active"""
        self.n_positions = 0

    def add(
        self,
        codes: sparse.csr_array,
        start: int,
        lengths: np.ndarray,
        places: np.ndarray | None = None,
    ) -> None:
        """Include the codes of further inputs.

        Parameters
        ----------
        codes : CSR array of shape (n_positions, n_components)
            Input by input.
        start : int
            Index of the first input.
        lengths : ndarray of shape (n_inputs,), int
            Number of positions of each input.
        places : ndarray of shape (n_positions,), int, optional
            Names of the positions; None numbers them within each input.
        """
        begins = np.cumsum(lengths) - lengths
        row, atoms, values = sparse.find(codes)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        owner = owners[row]
        if places is None:
            places = np.arange(len(owners)) - begins[owners]
        self.n_active += np.bincount(atoms, minlength=codes.shape[1])
        self.n_positions += codes.shape[0]

        better = np.flatnonzero(values > self.codes[atoms, -1])
        # The largest code of each atom and input, and the first among equal codes.
        key = row[better], -values[better], owner[better], atoms[better]
        better = better[np.lexsort(key)]
        atom, input_ = atoms[better], owner[better]
        better = better[(np.diff(atom, prepend=-1) | np.diff(input_, prepend=-1)) != 0]
        self._merge(
            atoms[better],
            (values[better], start + owner[better], places[row[better]]),
        )

    def _merge(self, atoms: np.ndarray, new: tuple[np.ndarray, ...]) -> None:
        """Keep the largest of the old and the new codes of each atom."""
        touched = np.unique(atoms)
        n_contexts = self.codes.shape[1]
        arrays = self.codes, self.inputs, self.positions
        candidates = [
            np.concatenate([kept[touched].ravel(), more])
            for kept, more in zip(arrays, new, strict=True)
        ]
        atoms = np.concatenate([np.repeat(touched, n_contexts), atoms])
        order = np.lexsort((-candidates[0], atoms))
        # Each atom has at least as many candidates as places.
        begins = np.searchsorted(atoms[order], touched)
        chosen = order[begins[:, None] + np.arange(n_contexts)]
        for kept, candidate in zip(arrays, candidates, strict=True):
            kept[touched] = candidate[chosen]
