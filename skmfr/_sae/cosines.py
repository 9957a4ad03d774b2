"""Cosines of atoms with atoms of other dictionaries: NumPy arrays of unit rows.

PyTorch is imported on first use, so that importing skmfr is fast.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

# Cosine of each atom of the first dictionary with the nearest of the second, by their
# numbers.
Nearest = Mapping[tuple[int, int], np.ndarray]
# A matching that is computed once, to report a number, is exact up to this many atoms
# (9 s, 1.3 GB).
EXACT_ONCE = 8192


def nearest_cosines(
    atoms: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Largest cosine of each unit atom with another dictionary, and its index."""
    from .pairing import largest_cosines

    rows, columns = _as_tensors(*_same_dtype(atoms, others))
    cosine, index = largest_cosines(rows, columns)
    return np.clip(cosine.numpy(), -1.0, 1.0), index.numpy()


def nearest_both_ways(
    atoms: np.ndarray,
    others: np.ndarray,
    device: str,
    after_block: Callable[[int], object] = lambda n: None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """:func:`nearest_cosines` of atoms with others, and of others with atoms.

    It needs memory for a block of cosines, and on the CPU none for copies, which would
    not fit for dictionaries of gigabytes.  ``after_block`` receives the number of atoms
    done.
    """
    from .._utils.devices import on_device
    from .pairing import largest_cosines_both_ways

    rows, columns = (on_device(each, device) for each in (atoms, others))
    return [
        (np.clip(cosine.cpu().numpy(), -1.0, 1.0), index.cpu().numpy())
        for cosine, index in largest_cosines_both_ways(rows, columns, after_block)
    ]


def nearest_of_pairs(dictionaries: Sequence[np.ndarray]) -> Nearest:
    """Cosine of each atom with the nearest atom of each other dictionary.

    Parameters
    ----------
    dictionaries : sequence of ndarray of shape (n_atoms, n_features)

    Returns
    -------
    dict of ndarray of shape (n_atoms,)
        At (i, j), cosines of the atoms of dictionary i with the nearest of j.
    """
    # PyTorch warns when it shares read-only arrays.
    copies, nearest = [np.array(each) for each in dictionaries], {}
    for i, j in combinations(range(len(copies)), 2):
        both = nearest_both_ways(copies[i], copies[j], "cpu")
        nearest[i, j], nearest[j, i] = (cosine for cosine, _ in both)
    return nearest


def named_dictionaries(
    dictionaries: np.ndarray, witnesses: np.ndarray
) -> dict[str, np.ndarray]:
    """All dictionaries by name, the group first."""
    return {f"SAE {i}": atoms for i, atoms in enumerate(dictionaries)} | {
        f"witness {i}": atoms for i, atoms in enumerate(witnesses)
    }


def nearest_elsewhere(
    reference: int, dictionaries: np.ndarray, witnesses: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Nearest atom in each other dictionary for each reference atom.

    Parameters
    ----------
    reference : int
        Index of the dictionary that has the atoms.
    dictionaries : ndarray of shape (n_saes, n_components, n_features)
    witnesses : ndarray of shape (n_witnesses, n_components, n_features)

    Returns
    -------
    dict of (cosine, index)
        As from :func:`nearest_cosines`, by the names of :func:`named_dictionaries`.
    """
    named = named_dictionaries(dictionaries, witnesses)
    atoms = named.pop(f"SAE {reference}")
    return {name: nearest_cosines(atoms, others) for name, others in named.items()}


def mean_nearest_cosine(atoms: np.ndarray, dictionaries) -> np.ndarray:
    """Mean over dictionaries of the largest cosine of each atom; NaN if there is none.

    Parameters
    ----------
    atoms : ndarray of shape (n_components, n_features)
    dictionaries : sequence of ndarray of shape (n_atoms, n_features)

    Returns
    -------
    ndarray of shape (n_components,)
    """
    if not len(dictionaries):
        return np.full(len(atoms), np.nan, dtype=atoms.dtype)
    return np.mean([nearest_cosines(atoms, d)[0] for d in dictionaries], axis=0)


def matched_cosines(
    atoms: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each unit atom with its partner in another dictionary, and the partner.

    Partners are a permutation.
    """
    from .pairing import assign_atoms

    atoms, others = _same_dtype(atoms, others)
    rows, columns = _as_tensors(atoms, others)
    partner = assign_atoms(rows, columns, EXACT_ONCE).numpy()
    return np.clip(np.sum(atoms * others[partner], axis=1), -1.0, 1.0), partner


def at_least(tau: float, cosines: np.ndarray) -> np.ndarray:
    """Whether each cosine is at least tau, up to rounding of sums over features."""
    return cosines >= tau - 64 * np.finfo(cosines.dtype).eps


def share_of_at_least(tau: float, cosines: np.ndarray) -> float:
    """Share of cosines that are at least tau, up to rounding."""
    return float(np.mean(at_least(tau, cosines)))


def _same_dtype(atoms: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    dtype = np.result_type(atoms, others)
    return [array.astype(dtype, copy=False) for array in (atoms, others)]


def _as_tensors(atoms: np.ndarray, others: np.ndarray):
    """Copies on the CPU, because PyTorch warns when it shares read-only arrays."""
    import torch

    return torch.tensor(atoms, device="cpu"), torch.tensor(others, device="cpu")
