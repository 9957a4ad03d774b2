"""Fitted estimators in files without pickles, and in the formats of other packages."""

from ._dictionary_learning import from_dictionary_learning
from ._huggingface import to_huggingface_folder
from ._native import load, save
from ._neuronpedia import to_neuronpedia
from ._sae_lens import from_sae_lens, to_sae_lens
from ._sparsify import from_sparsify, to_sparsify

__all__ = [
    "from_dictionary_learning",
    "from_sae_lens",
    "from_sparsify",
    "load",
    "save",
    "to_huggingface_folder",
    "to_neuronpedia",
    "to_sae_lens",
    "to_sparsify",
]
