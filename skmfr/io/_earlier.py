"""Files that earlier versions of the native format wrote, in the words of now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, ulp
from typing import Any

import numpy as np

from ._safetensors import number

# What version 3 had in the place of `_training.results.FIELDS_BESIDE`.
BESIDE_VERSION_3 = {
    "mean": "float d",
    "scale": "float",
    "deviation": "float d",
    "seed": "int",
}
# Before the names of arrays that training goes on from: those of `_training.state`.
TRAINING = "training "


def as_version_3(
    arrays: Mapping[str, np.ndarray], attributes: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays of a file of version 1 or 2 as version 3 has them."""
    modern = {
        re.sub("^(trained|standardiser) ", TRAINING, name): array
        for name, array in arrays.items()
    }
    attributes.setdefault("n_steps_", len(arrays["loss_curve_"]))
    if "trained step" in arrays:
        idle = arrays["trained idle"]
        # Before version 2 there was no auxiliary loss.
        modern = {
            f"{TRAINING}unmoved": idle,
            f"{TRAINING}dead": np.zeros(idle.shape, dtype=bool),
        } | modern
        seed = number(attributes, "seed", int, 0, 2**31 - 1)
        scale = number(attributes, "scale", float, ulp(0.0))
        modern[f"{TRAINING}seed"], modern[f"{TRAINING}scale"] = map(
            np.array, (seed, scale)
        )
    return modern


def as_version_4(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file of version 3: its centre and scale stay for good."""
    modern = dict(arrays)
    if f"{TRAINING}scale" in modern:
        scale = modern.pop(f"{TRAINING}scale")
        number({"scale": scale.item()}, "scale", float, ulp(0.0))
        spread = modern.pop(f"{TRAINING}deviation") * scale
        modern[f"{TRAINING}variance"] = np.square(spread, dtype=np.float64)
        modern[f"{TRAINING}n_rows"] = np.array(inf)
    return modern
