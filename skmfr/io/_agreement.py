"""Agreement of atoms beside files of other packages, which know none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._base import BaseSparseAutoencoder
from .._training.attributes import reappearance_without_warning, set_fitted
from ._safetensors import check_arrays, checked_number, opened, write_arrays

AGREEMENT = "agreement.safetensors"
SHAPES = {"feature_agreement": "float m", "trusted": "bool m"}
# Arrays that are present only if they are known.
KNOWN = {"reappearance": "float m"}


class Evidence(NamedTuple):
    """Dictionaries that agreement was measured with."""

    n_witnesses: int | None
    """None if that is not known"""
    under_penalty: bool
    """whether these are SAEs that the mutual penalty makes alike"""


UNKNOWN = Evidence(None, False)


def evidence_of(sae: BaseSparseAutoencoder) -> Evidence:
    """Dictionaries that the atoms of a fitted estimator agree with."""
    known = vars(sae)
    if known.get("_training"):
        n_witnesses = len(sae.witness_dictionaries_)
    elif "_evidence_" in known:
        return Evidence(*known["_evidence_"])
    elif getattr(sae, "n_saes", 1) == 1 and not getattr(sae, "n_witnesses", 0):
        # An SAE of others, whose agreement somebody has assigned.
        return UNKNOWN
    else:
        # It was saved without the other SAEs of its fit, which parameters count.
        n_witnesses = int(sae.n_witnesses)
    return Evidence(n_witnesses, n_witnesses == 0 and bool(sae.alpha > 0))


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
        **evidence_of(sae)._asdict(),
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
        If they are those of another number of atoms, or no cosines and probabilities,
        or if the summary of the file is damaged.
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
        told = json.loads((file.metadata() or {}).get("skmfr", "{}"))
        # It ends like a fitted attribute, so that clones of a `PretrainedSAE` have it.
        found["_evidence_"] = tuple(checked_evidence(told))
    # Cosines may exceed 1 by rounding.
    if not (np.abs(found["feature_agreement_"]) <= 1.001).all():
        raise ValueError(f"feature_agreement in {AGREEMENT} has no cosines.")
    probability = found.get("reappearance_", np.zeros(1))
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(f"reappearance in {AGREEMENT} has no probabilities.")
    set_fitted(sae, found)


def checked_evidence(told) -> Evidence:
    """Dictionaries that the entries of a file describe."""
    if not isinstance(told, dict):
        raise ValueError(f"its evidence is a {type(told).__name__}, expected a dict.")
    if told.get("n_witnesses") is None:
        return UNKNOWN
    n_witnesses = checked_number(told, "n_witnesses", int, 0)
    # Earlier builds did not write it, and wrote 0 witnesses where they knew nothing.
    if "under_penalty" not in told:
        return Evidence(n_witnesses, False) if n_witnesses else UNKNOWN
    return Evidence(n_witnesses, told["under_penalty"] is True)
