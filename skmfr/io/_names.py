"""Feature names, the output container of `transform` and evidence, in files."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._base import BaseSparseAutoencoder
from ._agreement import checked_evidence, evidence_of


def names_of(sae: BaseSparseAutoencoder) -> dict[str, Any]:
    """Names, output container and evidence as JSON stores them, where they are set."""
    names: dict[str, Any] = {}
    if hasattr(sae, "feature_names_in_"):
        names["feature_names_in_"] = sae.feature_names_in_.tolist()
    if hasattr(sae, "_sklearn_output_config"):
        names["set_output"] = sae._sklearn_output_config["transform"]
    # Other SAEs have it in their arrays or parameters.
    if "_evidence_" in vars(sae):
        names["evidence"] = evidence_of(sae)._asdict()
    return names


def set_names(sae: BaseSparseAutoencoder, attributes: dict[str, Any]) -> None:
    """Set the values that :func:`names_of` returned.

    Raises
    ------
    ValueError
        If they have another type or length.
    """
    if "feature_names_in_" in attributes:
        names = attributes["feature_names_in_"]
        if not _is_list_of_str(names) or len(names) != sae.n_features_in_:
            raise ValueError(
                f"feature_names_in_ does not hold {sae.n_features_in_} names."
            )
        sae.feature_names_in_ = np.array(names, dtype=object)
    if "set_output" in attributes:
        output = attributes["set_output"]
        if not isinstance(output, str):
            raise ValueError(f"set_output is {output!r}, expected a name.")
        sae.set_output(transform=output)
    if "evidence" in attributes:
        sae._evidence_ = tuple(checked_evidence(attributes["evidence"]))


def _is_list_of_str(value) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
