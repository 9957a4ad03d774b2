"""Files of named arrays, written atomically and checked before they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from .._utils.extras import needed_by
from .._utils.files import replacing

# Names of number types in safetensors, by kind.
DTYPES = {
    "bool": {"BOOL"},
    "int": {"I64", "I32"},
    "float": {"F64", "F32"},
    "floating": {"F64", "F32", "F16", "BF16"},
}


def write_arrays(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a file; an existing file is replaced once the new one is complete."""
    safetensors = _safetensors()
    # safetensors writes memory in the order in which it lies.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with replacing(path) as fresh:
        try:
            safetensors.numpy.save_file(arrays, fresh, metadata)
        except safetensors.SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


@contextmanager
def naming(path) -> Iterator[None]:
    """Add the path of a file or folder to errors about its contents."""
    try:
        yield
    # JSON that nests too deeply raises the second.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error


@contextmanager
def opened(path, framework: str) -> Iterator[Any]:
    """A safetensors file, of arrays of NumPy ("np") or of torch ("pt").

    Raises
    ------
    ValueError
        If the file is incomplete or has another format.
    """
    safetensors = _safetensors()
    # Errors of the system name the path.
    open(path, "rb").close()
    try:
        with safetensors.safe_open(path, framework=framework) as file:
            yield file
    except safetensors.SafetensorError as error:
        name = Path(path).name
        raise ValueError(
            f"{name} is not a complete safetensors file ({error})."
        ) from error


def check_arrays(file, expected: Mapping[str, str]) -> dict[str, int]:
    """Check which arrays a file has, before any is read.

    Parameters
    ----------
    file : from :func:`opened`
    expected : mapping from str to str
        Kind of numbers and axes of each array, such as "float m d". A digit is the
        length of an axis, "*" is any length, and a letter the same one in all arrays;
        m atoms and d features are at least one.

    Returns
    -------
    dict from str to int
        Length of the axes of each letter.

    Raises
    ------
    ValueError
        If the names differ, or an array has another kind or shape.
    """
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    found = {
        name: (each.get_dtype(), tuple(each.get_shape()))
        for name, each in slices.items()
    }
    return check_layouts(found, expected)


def check_layouts(
    found: Mapping[str, tuple[str, tuple[int, ...]]], expected: Mapping[str, str]
) -> dict[str, int]:
    """Check dtypes and shapes, as :func:`check_arrays` does."""
    names = set(found)
    if missing := sorted(expected.keys() - names):
        raise ValueError(f"it lacks {', '.join(missing)}.")
    if unknown := sorted(names - expected.keys()):
        raise ValueError(f"it has unexpected arrays: {', '.join(unknown)}.")
    sizes: dict[str, int] = {}
    for name, description in expected.items():
        dtype, shape = found[name]
        kind, *axes = description.split()
        if dtype not in DTYPES[kind] or not _fits(shape, axes, sizes):
            known = [str(sizes.get(axis, axis)) for axis in axes]
            raise ValueError(
                f"{name} is {dtype} of shape ({', '.join(map(str, shape))}), expected "
                f"{kind} of shape ({', '.join(known)})."
            )
    if 0 in (sizes["m"], sizes.get("d")):
        raise ValueError("it has no atoms, or atoms of no features.")
    return sizes


def _fits(shape: tuple[int, ...], axes: list[str], sizes: dict[str, int]) -> bool:
    if len(shape) != len(axes):
        return False
    for size, axis in zip(shape, axes, strict=True):
        wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
        if axis != "*" and size != wanted:
            return False
    return True


def checked_number(numbers: Mapping[str, Any], name: str, kind: type, low, high=inf):
    """A number of a file, if it is one of this kind from `low` to `high`."""
    value = numbers.get(name)
    if type(value) is not kind or not low <= value <= high:
        raise ValueError(
            f"{name} is {value!r}, expected {kind.__name__} from {low} to {high}."
        )
    return value


def _safetensors():
    with needed_by("skmfr.io", "io"):
        import safetensors.numpy
    return safetensors
