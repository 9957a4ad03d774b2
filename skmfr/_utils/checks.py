"""Arrays that users give to functions, checked."""

import numpy as np
from sklearn.utils import check_array


def unit_pair(atoms, others) -> tuple[np.ndarray, np.ndarray]:
    """Two dictionaries that can be matched one to one."""
    atoms = unit_atoms(atoms, "atoms")
    return atoms, unit_atoms(others, "others", *atoms.shape)


def unit_atoms(
    atoms, name: str, n_atoms: int | None = None, n_features: int | None = None
) -> np.ndarray:
    """Rows of unit norm, or of zeros; of the sizes given."""
    atoms = as_matrix(atoms, name)
    for size, expected, what in zip(
        atoms.shape, (n_atoms, n_features), ("atoms", "features"), strict=True
    ):
        if expected is not None and size != expected:
            raise ValueError(
                f"{name} has {size} {what}, expected {expected}, as in the dictionary "
                "to compare it with."
            )
    # By the largest entry first: squares may overflow or vanish.
    largest = np.abs(atoms).max(axis=1, keepdims=True)
    atoms = atoms / np.where(largest > 0, largest, 1)
    # At least 1, but for atoms of zeros, which stay so.
    return atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1)


def as_matrix(array, name: str, accept_sparse=False):
    """Check a matrix of finite numbers, with an error that names the argument."""
    array = as_floats(array, name, accept_sparse)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} has shape {array.shape}, expected a matrix with at least one row "
            "and one column."
        )
    return array


def as_floats(array, name: str, accept_sparse=False):
    """Finite numbers, float32 or float64, in whatever shape."""
    return check_array(
        array,
        accept_sparse=accept_sparse,
        dtype=[np.float64, np.float32],
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=0,
        ensure_min_features=0,
        input_name=name,
    )
