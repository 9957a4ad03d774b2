"""Fitted estimators in files without pickles, and in the formats of other packages."""

from ._native import load, save
from ._sae_lens import from_sae_lens, to_sae_lens
from ._sparsify import from_sparsify, to_sparsify

__all__ = [
    "from_sae_lens",
    "from_sparsify",
    "load",
    "save",
    "to_sae_lens",
    "to_sparsify",
]
