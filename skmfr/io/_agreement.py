"""Agreement of atoms beside files of other packages, which know none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._base import BaseSparseAutoencoder
from .._training.attributes import set_fitted
from ._safetensors import check_arrays, opened, write_arrays

AGREEMENT = "agreement.safetensors"
SHAPES = {"feature_agreement": "float m", "trusted": "bool m"}


def summary(sae: BaseSparseAutoencoder) -> dict[str, Any]:
    """What a configuration may say of agreement; nothing if there is none."""
    agreement = sae.feature_agreement_
    if np.isnan(agreement).any():
        return {}
    return {
        "skmfr_agreement": {
            "file": AGREEMENT,
            "mean": float(agreement.mean()),
            "null": float(sae.agreement_null_),
            "trusted_share": float(sae.trusted_.mean()),
            "n_witnesses": len(sae.witness_dictionaries_),
        }
    }


def write_agreement(folder, sae: BaseSparseAutoencoder) -> None:
    """Write agreement and trust of each atom, or remove what an earlier SAE had."""
    path = Path(folder) / AGREEMENT
    known = summary(sae)
    if not known:
        path.unlink(missing_ok=True)
        return
    arrays = {"feature_agreement": sae.feature_agreement_, "trusted": sae.trusted_}
    write_arrays(path, arrays, {"skmfr": json.dumps(known["skmfr_agreement"])})


def read_agreement(folder, sae: BaseSparseAutoencoder) -> None:
    """Set agreement and trust of each atom, if they stand beside the weights.

    Raises
    ------
    ValueError
        If they are those of another number of atoms, or no cosines.
    """
    path = Path(folder) / AGREEMENT
    if not path.exists():
        return
    with opened(path, "np") as file:
        n_atoms = check_arrays(file, SHAPES)["m"]
        if n_atoms != len(sae.components_):
            raise ValueError(
                f"{AGREEMENT} has {n_atoms} atoms, expected {len(sae.components_)}."
            )
        agreement, trusted = (file.get_tensor(name) for name in SHAPES)
    # Up to rounding.
    if not (np.abs(agreement) <= 1.001).all():
        raise ValueError(f"feature_agreement in {AGREEMENT} has no cosines.")
    set_fitted(sae, {"feature_agreement_": agreement, "trusted_": trusted})
