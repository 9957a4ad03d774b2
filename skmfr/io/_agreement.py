"""Agreement of atoms beside files of other packages, which know none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._base import BaseSparseAutoencoder
from .._training.attributes import reappearance_without_warning, set_fitted
from ._safetensors import check_arrays, opened, write_arrays

AGREEMENT = "agreement.safetensors"
SHAPES = {"feature_agreement": "float m", "trusted": "bool m"}
# Arrays that are present only if they are known.
KNOWN = {"reappearance": "float m"}


def summary(sae: BaseSparseAutoencoder) -> dict[str, Any]:
    """Entries of a configuration on agreement; empty if there is none."""
    agreement = sae.feature_agreement_
    if np.isnan(agreement).any():
        return {}
    known = {
        "file": AGREEMENT,
        "mean": float(agreement.mean()),
        "null": float(sae.agreement_null_),
        "trusted_share": float(sae.trusted_.mean()),
        "n_witnesses": len(sae.witness_dictionaries_),
    }
    probability = reappearance_without_warning(sae)
    if not np.isnan(probability).any():
        known["reappearance"] = float(probability.mean())
    return {"skmfr_agreement": known}


def write_agreement(folder, sae: BaseSparseAutoencoder) -> None:
    """Write agreement, trust and probabilities, or remove what an earlier SAE had."""
    path = Path(folder) / AGREEMENT
    known = summary(sae)
    if not known:
        path.unlink(missing_ok=True)
        return
    arrays = {"feature_agreement": sae.feature_agreement_, "trusted": sae.trusted_}
    if "reappearance" in known["skmfr_agreement"]:
        arrays["reappearance"] = sae.reappearance_
    write_arrays(path, arrays, {"skmfr": json.dumps(known["skmfr_agreement"])})


def read_agreement(folder, sae: BaseSparseAutoencoder) -> None:
    """Read agreement, trust and probabilities from the file beside the weights.

    Raises
    ------
    ValueError
        If they are those of another number of atoms, or no cosines and probabilities.
    """
    path = Path(folder) / AGREEMENT
    if not path.exists():
        return
    with opened(path, "np") as file:
        present = [name for name in KNOWN if name in file.keys()]  # noqa: SIM118
        shapes = SHAPES | {name: KNOWN[name] for name in present}
        n_atoms = check_arrays(file, shapes)["m"]
        if n_atoms != len(sae.components_):
            raise ValueError(
                f"{AGREEMENT} has {n_atoms} atoms, expected {len(sae.components_)}."
            )
        found = {f"{name}_": file.get_tensor(name) for name in shapes}
    # Cosines may exceed 1 by rounding.
    if not (np.abs(found["feature_agreement_"]) <= 1.001).all():
        raise ValueError(f"feature_agreement in {AGREEMENT} has no cosines.")
    probability = found.get("reappearance_", np.zeros(1))
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(f"reappearance in {AGREEMENT} has no probabilities.")
    set_fitted(sae, found)
