"""One SAE in a folder of another package: a configuration, and a file of weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._estimator import MFRSparseAutoencoder, set_fitted
from .._utils.files import replacing
from ..agreement import random_agreement
from ._safetensors import check_arrays, opened, write_arrays

CONFIG = "cfg.json"
# Norms that differ no more than this, relative to them, count as equal.
SAME_NORM = 1e-3


class Weights(NamedTuple):
    """``z = TopK(ReLU((x - b) E^T + c), k)``, reconstructed as ``z D + b``."""

    encoder: np.ndarray
    """(n_components, n_features), E"""
    encoder_bias: np.ndarray
    """(n_components,), c"""
    decoder: np.ndarray
    """(n_components, n_features), D"""
    decoder_bias: np.ndarray
    """(n_features,), b"""


def weights_of(sae: MFRSparseAutoencoder) -> Weights:
    """Weights of the reference SAE."""
    return Weights(
        sae.encoder_weights_, sae.encoder_bias_, sae.components_, sae.decoder_bias_
    )


def write_folder(
    folder, config: dict[str, Any], name: str, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a configuration and a file of weights of that name."""
    folder = Path(folder)
    text = json.dumps(config, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    # The configuration last: without it, no package takes the folder for an SAE.
    write_arrays(folder / name, arrays)
    with replacing(folder / CONFIG) as fresh:
        fresh.write_text(text, encoding="utf-8")


def read_config(
    folder,
    expected: Mapping[str, tuple],
    modern: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Read a configuration.

    Parameters
    ----------
    folder : path-like
    expected : mapping from str to tuple
        Values that entries may have. The first is what it means to lack the entry.
    modern : callable(config) -> dict
        Says in the words of now what the file has in those of an earlier version.

    Returns
    -------
    dict
        With the entries that were lacking.

    Raises
    ------
    ValueError
        If an entry has another value.
    """
    config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} holds a {type(config).__name__}, expected a dict.")
    config = {name: values[0] for name, values in expected.items()} | modern(config)
    for name, values in expected.items():
        check_entry(config, name, *values)
    return config


def check_entry(config: Mapping[str, Any], name: str, *values) -> None:
    """Refuse a configuration in which an entry has none of some values."""
    value = config.get(name)
    # 1 == True, and a list may hold anything.
    if not any(type(value) is type(each) and value == each for each in values):
        wanted = " or ".join(map(repr, values))
        raise ValueError(f"{CONFIG} has {name}={value!r}, expected {wanted}.")


def read_weights(
    folder, name: str, expected: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], float]:
    """Read a file of weights.

    Parameters
    ----------
    folder : path-like
    name : str
    expected : mapping from str to str
        See :func:`._safetensors.check_arrays`.

    Returns
    -------
    arrays : dict from str to ndarray
        float64 where the file has that, float32 otherwise.
    norm_tolerance : float
        How far norms of atoms may differ that were equal before they were rounded.

    Raises
    ------
    ValueError
        If there are other arrays, they have other shapes, or not all is finite.
    """
    import torch

    from .._utils.ambient import undisturbed

    arrays, norm_tolerance = {}, SAME_NORM
    # NumPy has no bfloat16.
    with undisturbed(), opened(Path(folder) / name, "pt") as file:
        check_arrays(file, expected)
        for name in expected:
            tensor = file.get_tensor(name)
            norm_tolerance = max(norm_tolerance, torch.finfo(tensor.dtype).eps)
            arrays[name] = (tensor if tensor.itemsize == 8 else tensor.float()).numpy()
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has numbers that are not finite.")
    return arrays, norm_tolerance


def estimator_of(weights: Weights, k, norm_tolerance: float) -> MFRSparseAutoencoder:
    """A fitted estimator of one SAE, with atoms of unit norm.

    Norms go from the atoms to the encoder. What is selected stays the same if norms are
    part of what it was selected by, or are the same for all atoms.

    Parameters
    ----------
    weights : Weights
    k : int
        As the configuration has it.
    norm_tolerance : float
        How far norms of atoms may differ, relative to them: infinitely, where
        activations are multiplied by them before TopK.

    Raises
    ------
    ValueError
        If k is none, or what is selected would not stay the same.
    """
    n_components, n_features = weights.decoder.shape
    if type(k) is not int or not 1 <= k <= n_components:
        raise ValueError(
            f"{CONFIG} has k={k!r}, expected an integer from 1 to {n_components}."
        )
    norms = np.linalg.norm(weights.decoder, axis=1)
    if not norms.all():
        raise ValueError(f"{(norms == 0).sum()} of {n_components} atoms are zero.")
    if norms.max() > (1 + norm_tolerance) * norms.min():
        raise ValueError(
            f"the norms of its atoms are {norms.min():.4g} to {norms.max():.4g}, "
            "expected equal ones: its TopK takes no account of norms, while that of "
            "atoms of unit norm would."
        )
    sae = MFRSparseAutoencoder(n_components, n_saes=1, k=k, n_witnesses=0)
    atoms = weights.decoder / norms[:, None]
    unknown = np.full_like(norms, np.nan)
    set_fitted(
        sae,
        {
            "components_": atoms,
            "dictionaries_": atoms[None],
            "witness_dictionaries_": atoms[None][:0],
            "reference_sae_": 0,
            "encoder_weights_": weights.encoder * norms[:, None],
            "encoder_bias_": weights.encoder_bias * norms,
            "decoder_bias_": weights.decoder_bias,
            "feature_agreement_": unknown,
            "mutual_agreement_": unknown[None],
            "agreement_null_": random_agreement(n_features, n_components),
            "trusted_": np.zeros(n_components, dtype=bool),
            "median_norm_": float("nan"),
            "n_outliers_": 0,
            "inlier_fvu_": None,
            "outlier_fvu_": None,
            "n_iter_": 0,
            "n_steps_": 0,
            "loss_curve_": norms[:0],
            "history_": [],
            "n_reinits_": np.zeros(1, dtype=int),
            "n_features_in_": n_features,
        },
    )
    # No state of training to go on from.
    sae._training = {}
    return sae
