"""Check parameters and the arrays that users pass to functions."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils import _param_validation, check_array

# Floats of at most 32 bits in polars and pandas, and in Arrow (in lower case).
SINGLE = {"Float16", "Float32", "halffloat", "float"}


class Interval(_param_validation.Interval):
    """scikit-learn's interval, except that True and False are not numbers."""

    def is_satisfied_by(self, val) -> bool:
        return not isinstance(val, bool) and super().is_satisfied_by(val)


class Device(_param_validation.Options):
    """Devices that PyTorch can compute on, present or not, and "auto"."""

    def __init__(self):
        super().__init__(str, {"auto", "cpu", "cuda"})

    def is_satisfied_by(self, val) -> bool:
        if super().is_satisfied_by(val):
            return True
        # Imported late, so that importing skmfr is fast.
        import torch

        try:
            device = torch.device(val) if isinstance(val, str) else val
        except RuntimeError:
            return False
        # "meta" accepts tensors but does not store their values.
        return isinstance(device, torch.device) and device.type != "meta"

    def __str__(self) -> str:
        return "'auto' or a device of PyTorch, such as 'cpu' or 'cuda:0'"


def validate_parameters(estimator, *names: str) -> None:
    """Validate parameters of an estimator that may have been set after `fit`.

    Raises
    ------
    InvalidParameterError
        If a parameter is not as described.
    """
    if not get_config()["skip_parameter_validation"]:
        _param_validation.validate_parameter_constraints(
            {name: estimator._parameter_constraints[name] for name in names},
            {name: getattr(estimator, name) for name in names},
            type(estimator).__name__,
        )


def in_python(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with Python's numbers for NumPy's, which overflow and round."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in parameters.items()
    }


def check_weights(sample_weight, n_samples: int) -> np.ndarray:
    """Check weights of samples; return them as (n_samples,) float64.

    Only their ratios matter: they are scaled by a power of two to at most 1.

    Raises
    ------
    ValueError
        If they are not one finite, non-negative number per sample, or are all 0.
    """
    weights = check_array(
        sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
    )
    if weights.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must have shape ({n_samples},), got {weights.shape}."
        )
    if weights.min() < 0 or weights.max() == 0:
        raise ValueError(
            "sample_weight must not be negative and must not be 0 for all samples, got "
            f"values from {weights.min():g} to {weights.max():g}."
        )
    # So that no sum overflows.
    return np.ldexp(weights, -np.frexp(weights.max())[1])


def as_indices(choice, n_items: int) -> np.ndarray:
    """Indices that a boolean mask of (n_items,) selects; another choice as an array."""
    choice = np.asarray(choice)
    if choice.dtype == bool and choice.shape == (n_items,):
        return np.flatnonzero(choice)
    return choice


def unit_pair(atoms, others) -> tuple[np.ndarray, np.ndarray]:
    """Two dictionaries of one size, for one-to-one matching."""
    atoms = unit_atoms(atoms, "atoms")
    return atoms, unit_atoms(others, "others", *atoms.shape)


def unit_dictionaries(dictionaries) -> list[np.ndarray]:
    """Two or more dictionaries of one size, for one-to-one matching."""
    units: list[np.ndarray] = []
    for i, atoms in enumerate(dictionaries):
        size = units[0].shape if units else (None, None)
        units.append(unit_atoms(atoms, f"dictionaries[{i}]", *size))
    if len(units) < 2:
        raise ValueError(
            f"dictionaries must hold at least 2 dictionaries, got {len(units)}."
        )
    return units


def unit_atoms(
    atoms, name: str, n_atoms: int | None = None, n_features: int | None = None
) -> np.ndarray:
    """Scale rows to unit norm (zero rows stay zero), and check their sizes."""
    atoms = as_matrix(atoms, name)
    for size, expected, what in zip(
        atoms.shape, (n_atoms, n_features), ("atoms", "features"), strict=True
    ):
        if expected is not None and size != expected:
            raise ValueError(
                f"{name} has {size} {what}, but the dictionary to compare with has "
                f"{expected}."
            )
    # Divide by the largest entry first, because squares may overflow or vanish.
    largest = np.abs(atoms).max(axis=1, keepdims=True)
    atoms = atoms / np.where(largest > 0, largest, 1)
    # The norm is now at least 1, except for zero atoms, which stay zero.
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


def float_dtypes(X) -> list[type]:
    """Dtypes for scikit-learn's checks; other data are converted to the first.

    float16 becomes float32 and float32 stays, in any container, and all other numbers
    become float64.
    """
    first = X
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if first is not X and getattr(first, "dtype", None) == np.float16:
        X = np.asarray(X)
    dtypes = getattr(X, "dtypes", getattr(X, "dtype", None))
    # A data frame has one dtype per column.
    if all(map(_is_single, dtypes if isinstance(dtypes, Iterable) else [dtypes])):
        return [np.float32, np.float64]
    return [np.float64, np.float32]


def _is_single(dtype) -> bool:
    """Whether a dtype is float32 or smaller."""
    if isinstance(dtype, np.dtype):
        # In any byte order.
        return dtype.kind == "f" and dtype.itemsize <= 4
    return str(dtype).removesuffix("[pyarrow]") in SINGLE


def as_array(X):
    """Torch tensors as NumPy arrays; everything else unchanged.

    scikit-learn's validation would treat a tensor as an array of an unsupported array
    API library.
    """
    if not hasattr(type(X), "detach"):
        return X
    X = X.detach().cpu()
    # NumPy has no bfloat16.
    return (X.float() if X.dtype.is_floating_point and X.itemsize < 4 else X).numpy()


def as_floats(array, name: str, accept_sparse=False):
    """Finite numbers, float32 or float64, of any shape; tensors become arrays."""
    array = as_array(array)
    return check_array(
        array,
        accept_sparse=accept_sparse,
        dtype=float_dtypes(array),
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=0,
        ensure_min_features=0,
        input_name=name,
    )
