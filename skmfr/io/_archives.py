"""Arrays in zip archives: NumPy's, and those of torch.save, which executes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from .._utils.files import check_archive
from ._safetensors import check_layouts

# Names of number types in safetensors, as in `_safetensors.DTYPES`.
NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "bool": "BOOL",
}
# Errors that a damaged file does not cause.
NOT_DAMAGE = (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError)
Layouts = Mapping[str, tuple[str, tuple[int, ...]]]


def read_npz(
    path: Path, expected: Callable[[set[str]], Mapping[str, str]]
) -> dict[str, np.ndarray]:
    """Arrays of a ``.npz`` file.

    Parameters
    ----------
    path : Path
    expected : callable(names) -> mapping
        Returns the expected arrays of a file with these names, see
        :func:`._safetensors.check_arrays`.

    Raises
    ------
    ValueError
        If the file is incomplete, or has other arrays.
    """
    with whole(path):
        check_archive(path)
        layouts = _layouts_of_npz(path)
    check_layouts(layouts, expected(set(layouts)))
    with whole(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in layouts}


def _layouts_of_npz(path: Path) -> Layouts:
    """Types and shapes that headers declare, checked against the size of the file."""
    layouts = {}
    with ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, _, dtype = read_header(file)
            if prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} claims more bytes than it has")
            name = member.filename.removesuffix(".npy")
            layouts[name] = NAMES.get(dtype.name, dtype.name), shape
    return layouts


def read_state_dict(
    path: Path, expected: Callable[[set[str]], Mapping[str, str]]
) -> dict[str, np.ndarray]:
    """Tensors of a dict that ``torch.save`` wrote; no other object is made.

    float64 stays as it is; other floating types become float32. Parameters and errors
    are those of :func:`read_npz`.
    """
    import torch

    from .._utils.ambient import undisturbed

    with whole(path):
        # Formats before that of zip archives are read by code with known holes.
        check_archive(path)
        with undisturbed():
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and type(each) in (torch.Tensor, torch.nn.Parameter)
            for name, each in state.items()
        ):
            raise ValueError("it contains other objects than named tensors")
        layouts = {
            name: (_name_of(each.dtype), tuple(each.shape))
            for name, each in state.items()
        }
        for name, each in state.items():
            if each.is_meta:
                raise ValueError(f"{name} has no values: it is on the meta device")
            # One number may stand for many.
            if each.numel() * each.itemsize > each.untyped_storage().nbytes():
                raise ValueError(f"{name} claims more bytes than it has")
    check_layouts(layouts, expected(set(layouts)))
    with undisturbed():
        return {
            name: (
                each.float() if each.is_floating_point() and each.itemsize < 8 else each
            )
            .detach()
            .numpy()
            for name, each in state.items()
        }


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Report any error as that of an incomplete file.

    The errors of zipfile, NumPy and PyTorch for broken files have no common base.
    """
    try:
        yield
    except NOT_DAMAGE:
        raise
    except Exception as error:
        raise ValueError(
            f"{path.name} is incomplete or not in the expected format ({error})."
        ) from error


def _name_of(dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return NAMES.get(name, name)
