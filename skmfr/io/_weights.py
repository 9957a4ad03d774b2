"""One SAE of another package: a configuration, weights, and the estimator of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .._base import BaseSparseAutoencoder
from .._estimator import MFRSparseAutoencoder
from .._pretrained import PretrainedSAE
from .._sae.levels import random_agreement
from .._training.attributes import set_fitted
from .._utils.files import replacing
from ._agreement import write_agreement
from ._safetensors import check_arrays, opened, write_arrays

SAE = TypeVar("SAE", bound=BaseSparseAutoencoder)
CONFIG = "cfg.json"
# Norms count as equal up to this relative difference.
SAME_NORM = 1e-3


class Weights(NamedTuple):
    """An SAE: see :class:`skmfr.PretrainedSAE` for what it computes."""

    encoder: np.ndarray
    """(n_components, n_features), E"""
    encoder_bias: np.ndarray
    """(n_components,), c"""
    decoder: np.ndarray
    """(n_components, n_features), D"""
    decoder_bias: np.ndarray
    """(n_features,), b"""
    threshold: np.ndarray | None = None
    """(n_components,), of ReLU, JumpReLU and gated SAEs; None for TopK"""

    def subtracting_nothing(self) -> Weights:
        """Convert weights of an encoder that does not subtract the decoder's bias."""
        shift = self.encoder @ self.decoder_bias
        return self._replace(encoder_bias=self.encoder_bias + shift)

    def scaled(self, factor: float) -> Weights:
        """Fold a factor of the samples into the weights; codes stay the same."""
        if factor == 1:
            return self
        return self._replace(
            encoder=self.encoder * factor,
            decoder=self.decoder / factor,
            decoder_bias=self.decoder_bias / factor,
        )

    def of_unit_norm(self) -> Weights:
        """Move the norms of atoms to the codes; reconstructions stay the same."""
        norms = np.linalg.norm(self.decoder, axis=1)
        # An atom of zeros stays zero.
        norms[norms == 0] = 1
        threshold = self.threshold
        return Weights(
            self.encoder * norms[:, None],
            self.encoder_bias * norms,
            self.decoder / norms[:, None],
            self.decoder_bias,
            None if threshold is None else threshold * norms,
        )


def gated(
    encoder: np.ndarray,
    gate_bias: np.ndarray,
    magnitude_bias: np.ndarray,
    log_magnitude: np.ndarray,
    decoder: np.ndarray,
    decoder_bias: np.ndarray,
) -> Weights:
    """A gated SAE (Rajamanoharan et al., 2024), whose gates are thresholds.

    Let p be the products of samples and encoder. An atom is active if ``p + gate_bias``
    is positive, and its code is ``s = ReLU(magnitude p + magnitude_bias)``. Hence it is
    active if s is above ``magnitude_bias - magnitude gate_bias``.
    """
    # The exponential of finite numbers may not be.
    with np.errstate(over="ignore"):
        magnitude = np.exp(log_magnitude)
    check_finite({"exp(r_mag)": magnitude})
    return Weights(
        encoder * magnitude[:, None],
        magnitude_bias,
        decoder,
        decoder_bias,
        np.maximum(magnitude_bias - magnitude * gate_bias, 0),
    )


def weights_of(sae: BaseSparseAutoencoder) -> Weights:
    """Weights of the reference SAE, with the thresholds that it uses."""
    return Weights(
        sae.encoder_weights_,
        sae.encoder_bias_,
        sae.components_,
        sae.decoder_bias_,
        sae._selection[1],
    )


def write_folder(
    folder,
    sae: BaseSparseAutoencoder,
    config: dict[str, Any],
    name: str,
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write a configuration, agreement and a file of weights of that name.

    The configuration is removed first and written last: without it, no package takes
    the folder for an SAE, so that an interruption does not leave a mixture of two.
    """
    folder = Path(folder)
    text = json.dumps(config, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    write_agreement(folder, sae)
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
        Values that entries may have. The first is that of a missing entry.
    modern : callable(config) -> dict
        Converts the entries of an earlier version.

    Returns
    -------
    dict
        The configuration, with missing entries added.

    Raises
    ------
    ValueError
        If an entry has another value.
    """
    config = read_json(Path(folder) / CONFIG)
    config = {name: values[0] for name, values in expected.items()} | modern(config)
    for name, values in expected.items():
        check_entry(config, name, *values)
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A file of named entries."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(
            f"{path.name} holds a {type(config).__name__}, expected a dict."
        )
    return config


def check_entry(config: Mapping[str, Any], name: str, *values) -> None:
    """Refuse a configuration in which an entry has a value that is not expected."""
    value = config.get(name)
    # 1 == True, and a list may hold anything.
    if not any(type(value) is type(each) and value == each for each in values):
        wanted = " or ".join(map(repr, values))
        raise ValueError(f"{CONFIG} has {name}={value!r}, expected {wanted}.")


def read_weights(
    folder, name: str, expected: Mapping[str, str], optional: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], float]:
    """Read a file of weights.

    Parameters
    ----------
    folder : path-like
    name : str
    expected : mapping from str to str
        See :func:`._safetensors.check_arrays`.
    optional : collection of str
        Further arrays that may be there, "floating m".

    Returns
    -------
    arrays : dict from str to ndarray
        float64 where the file has that, float32 otherwise.
    norm_tolerance : float
        Largest difference of atom norms that were equal before rounding.

    Raises
    ------
    ValueError
        If there are other arrays, other shapes, or values that are not finite.
    """
    import torch

    from .._utils.ambient import undisturbed

    arrays, norm_tolerance = {}, SAME_NORM
    # NumPy has no bfloat16.
    with undisturbed(), opened(Path(folder) / name, "pt") as file:
        there = set(optional) & set(file.keys())
        expected = {**expected, **dict.fromkeys(there, "floating m")}
        check_arrays(file, expected)
        for name in expected:
            tensor = file.get_tensor(name)
            norm_tolerance = max(norm_tolerance, torch.finfo(tensor.dtype).eps)
            arrays[name] = (tensor if tensor.itemsize == 8 else tensor.float()).numpy()
    check_finite(arrays)
    return arrays, norm_tolerance


def check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays with values that are not finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has numbers that are not finite.")


def estimator_of(
    weights: Weights, k=None, norm_tolerance: float = SAME_NORM
) -> MFRSparseAutoencoder | PretrainedSAE:
    """A fitted estimator.

    TopK SAEs become ours, with atoms of unit norm: the encoder takes up the norms. This
    keeps the selection if the selection used the norms, or if all norms are equal. All
    other SAEs stay unchanged.

    Parameters
    ----------
    weights : Weights
    k : int
        Value of the configuration; None for SAEs with thresholds.
    norm_tolerance : float
        Largest relative difference of atom norms. Infinite where activations are
        multiplied by the norms before TopK.

    Raises
    ------
    ValueError
        If k is None, or all atoms are zero.
    """
    n_components, n_features = weights.decoder.shape
    if weights.threshold is not None:
        return estimator_with(PretrainedSAE(), weights)
    if type(k) is not int or not 1 <= k <= n_components:
        raise ValueError(
            f"{CONFIG} has k={k!r}, expected an integer from 1 to {n_components}."
        )
    norms = np.linalg.norm(weights.decoder, axis=1)
    if not norms.all():
        raise ValueError(f"{(norms == 0).sum()} of {n_components} atoms are zero.")
    if norms.max() > (1 + norm_tolerance) * norms.min():
        return estimator_with(PretrainedSAE(k), weights)
    sae = MFRSparseAutoencoder(n_components, n_saes=1, k=k, n_witnesses=0)
    weights = weights.of_unit_norm()
    estimator_with(sae, weights)
    made = {"dictionaries_": weights.decoder[None], "k_": k, "_training": {}}
    set_fitted(sae, made)
    return sae


def estimator_with(sae: SAE, weights: Weights) -> SAE:
    """Set the fitted attributes of one SAE without witness."""
    n_components, n_features = weights.decoder.shape
    unknown = np.full(n_components, np.nan, dtype=weights.decoder.dtype)
    attributes = {
        "components_": weights.decoder,
        "witness_dictionaries_": weights.decoder[None][:0],
        "reference_sae_": 0,
        "encoder_weights_": weights.encoder,
        "encoder_bias_": weights.encoder_bias,
        "decoder_bias_": weights.decoder_bias,
        "threshold_": weights.threshold,
        "k_": None,
        "feature_agreement_": unknown,
        "mutual_agreement_": unknown[None],
        "agreement_null_": random_agreement(n_features, n_components),
        "reappearance_": unknown,
        "trusted_": np.zeros(n_components, dtype=bool),
        "median_norm_": float("nan"),
        "witness_rows_": "same",
        "n_outliers_": 0,
        "inlier_fvu_": None,
        "outlier_fvu_": None,
        "n_iter_": 0,
        "n_steps_": 0,
        "loss_curve_": unknown[:0],
        "history_": [],
        "n_reinits_": np.zeros(1, dtype=int),
        "n_features_in_": n_features,
    }
    set_fitted(sae, attributes)
    return sae
