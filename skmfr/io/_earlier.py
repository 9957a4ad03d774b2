"""Files of earlier versions of the format: what they hold, and how it is updated.

| version | since then |
|---|---|
| 2 | auxiliary loss: `dead` |
| 3 | each array once, and one prefix for the state of training |
| 4 | centre and scale follow the rows: `variance`, `n_rows` |
| 5 | no resampling: neither `resample_every` nor `unmoved` |
"""

import re
from collections.abc import Iterable
from math import inf, ulp
from typing import Any

import numpy as np

from ._safetensors import checked_number

# Prefix of the arrays that training resumes from.
TRAINING = "training "
# Arrays of version 3 in the place of `_training.results.FIELDS_BESIDE`.
BESIDE_VERSION_3 = {
    "mean": "float d",
    "scale": "float",
    "deviation": "float d",
    "seed": "int",
}
STANDARDISER_VERSION_2 = {
    "standardiser mean": "float d",
    "standardiser deviation": "float d",
}
# Arrays that some files of version 4 lack.
NEW_BESIDE = {"disjoint", "along"}


def prefix_in(version: int) -> str:
    return TRAINING if version > 2 else "trained "


def layouts_in(
    version: int, state: dict[str, str], names: Iterable[str]
) -> dict[str, str]:
    """Layouts of the arrays that training resumes from, in a file of this version.

    Parameters
    ----------
    version : int
    state : dict of str
        The layouts of today, from `_training.state.layouts`.
    names : iterable of str
        Of the arrays in the file, without prefix.
    """
    from .._training.results import FIELDS_BESIDE

    state = dict(state)
    if version == 1:
        del state["dead"]
    elif version < 5:
        state["unmoved"] = state["idle"]
    if version == 3:
        state |= BESIDE_VERSION_3
    elif version > 3:
        left_out = NEW_BESIDE.difference(names)
        state |= {n: each for n, each in FIELDS_BESIDE.items() if n not in left_out}
    state = {f"{prefix_in(version)}{name}": each for name, each in state.items()}
    return state if version > 2 else state | STANDARDISER_VERSION_2


def update(
    parameters: dict[str, Any],
    attributes: dict[str, Any],
    arrays: dict[str, np.ndarray],
    version: int,
) -> None:
    """Turn the content of a file of this version into that of today, in place.

    Raises
    ------
    ValueError
        If a number is not what it has to be.
    """
    if version < 3:
        to_version_3(attributes, arrays)
    if version < 4:
        to_version_4(parameters, arrays)
    if version < 5:
        parameters.pop("resample_every", None)
        arrays.pop(f"{TRAINING}unmoved", None)


def to_version_3(attributes: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    attributes.setdefault("n_steps_", len(arrays["loss_curve_"]))
    for name in [*arrays]:
        modern = re.sub("^(trained|standardiser) ", TRAINING, name)
        arrays[modern] = arrays.pop(name)
    if f"{TRAINING}step" in arrays:
        idle = arrays[f"{TRAINING}idle"]
        # Before version 2 there was no auxiliary loss.
        arrays.setdefault(f"{TRAINING}dead", np.zeros(idle.shape, dtype=bool))
        seed = checked_number(attributes, "seed", int, 0, 2**31 - 1)
        scale = checked_number(attributes, "scale", float, ulp(0.0))
        arrays[f"{TRAINING}seed"] = np.array(seed)
        arrays[f"{TRAINING}scale"] = np.array(scale)


def to_version_4(parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Centre and scale of the file stay for good."""
    # This was the default, which no fit reached.
    if parameters.get("max_iter") == 1000:
        parameters["max_iter"] = None
    if f"{TRAINING}scale" in arrays:
        scale = arrays.pop(f"{TRAINING}scale")
        checked_number({"scale": scale.item()}, "scale", float, ulp(0.0))
        spread = arrays.pop(f"{TRAINING}deviation") * scale
        arrays[f"{TRAINING}variance"] = np.square(spread, dtype=np.float64)
        arrays[f"{TRAINING}n_rows"] = np.array(inf)
