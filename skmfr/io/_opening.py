"""SAEs of any known format."""

from __future__ import annotations

from pathlib import Path

from .._base import BaseSparseAutoencoder
from . import _dictionary_learning, _gemma_scope, _sae_lens, _sparsify
from ._native import load

# Each format is recognised by a file in its folder.
FORMATS = {
    _sae_lens.WEIGHTS: _sae_lens.from_sae_lens,
    _gemma_scope.PARAMS: _sae_lens.from_sae_lens,
    _sparsify.WEIGHTS: _sparsify.from_sparsify,
    _dictionary_learning.WEIGHTS: _dictionary_learning.from_dictionary_learning,
}


def open_sae(path) -> BaseSparseAutoencoder:
    """Read an SAE from a folder of another package, or a file of `save`.

    Raises
    ------
    ValueError
        If the format is unknown.
    FileNotFoundError
        If there is no such file or folder.
    """
    path = Path(path)
    if path.is_dir():
        for name, read in FORMATS.items():
            if (path / name).exists():
                return read(path)
        raise ValueError(f"{path} holds no SAE: none of {', '.join(FORMATS)} is there.")
    if path.suffix == ".npz":
        return _sae_lens.from_sae_lens(path)
    if path.suffix == ".pt":
        return _dictionary_learning.from_dictionary_learning(path)
    return load(path)
