"""JumpReLU SAEs of Gemma Scope: a file of arrays without a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ._archives import read_npz
from ._weights import Weights, check_finite

PARAMS = "params.npz"
SHAPES = {
    "W_enc": "floating d m",
    "b_enc": "floating m",
    "W_dec": "floating m d",
    "b_dec": "floating d",
    "threshold": "floating m",
}


def read_params(path: Path) -> Weights:
    """Weights of a ``params.npz``, whose encoder subtracts no bias."""
    arrays = read_npz(path, lambda names: SHAPES)
    arrays = {name: as_single(array) for name, array in arrays.items()}
    check_finite(arrays)
    return Weights(
        arrays["W_enc"].T,
        arrays["b_enc"],
        arrays["W_dec"],
        arrays["b_dec"],
        np.maximum(arrays["threshold"], 0),
    ).subtracting_nothing()


def as_single(array: np.ndarray) -> np.ndarray:
    """Keep float64, and convert other types to float32."""
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
