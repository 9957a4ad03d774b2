"""SAEs in the format of the package dictionary_learning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._estimator import MFRSparseAutoencoder
from .._pretrained import PretrainedSAE
from ._archives import read_state_dict
from ._safetensors import naming
from ._weights import Weights, check_finite, estimator_of, gated, read_json

WEIGHTS, CONFIG = "ae.pt", "config.json"
ENCODER = {"encoder.weight": "floating m d", "decoder.weight": "floating d m"}
TOPK = {"encoder.bias": "floating m", "b_dec": "floating d", "k": "int"}
MATRICES = {
    "W_enc": "floating d m",
    "b_enc": "floating m",
    "W_dec": "floating m d",
    "b_dec": "floating d",
}
# Arrays of each class.
SHAPES: dict[str, dict[str, str]] = {
    "AutoEncoder": ENCODER | {"encoder.bias": "floating m", "bias": "floating d"},
    "AutoEncoderNew": ENCODER
    | {"encoder.bias": "floating m", "decoder.bias": "floating d"},
    "GatedAutoEncoder": ENCODER
    | dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), "floating m")
    | {"decoder_bias": "floating d"},
    "JumpReluAutoEncoder": MATRICES | {"threshold": "floating m"},
    "AutoEncoderTopK": ENCODER | TOPK | {"threshold": "floating"},
    "BatchTopKSAE": ENCODER | TOPK | {"threshold": "floating"},
    "MatryoshkaBatchTopKSAE": MATRICES
    | {"k": "int", "threshold": "floating", "group_sizes": "int *"},
}


def from_dictionary_learning(folder) -> MFRSparseAutoencoder | PretrainedSAE:
    """Read an SAE that the package dictionary_learning wrote.

    The classes AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder,
    AutoEncoderTopK, BatchTopKSAE and MatryoshkaBatchTopKSAE are read. The last two are
    used with thresholds. Codes and reconstructions are those of its
    ``load_dictionary``, which makes the atoms of an AutoEncoder unit vectors.

    Parameters
    ----------
    folder : path-like
        Folder with ``ae.pt``, and ``config.json``, or the path of ``ae.pt``.
        Only TopK and BatchTopK SAEs need ``config.json``, which tells them apart.
        ``torch.load`` reads ``ae.pt`` with ``weights_only=True``, so nothing in it is
        executed.

    Returns
    -------
    MFRSparseAutoencoder or PretrainedSAE
        Fitted, with one SAE and no witness, so atoms have no agreement. TopK SAEs whose
        atoms have equal norms become an :class:`~skmfr.MFRSparseAutoencoder`, which
        `partial_fit`, and `fit` with ``warm_start=True``, train further.

    Raises
    ------
    ValueError
        If a file is incomplete, or the SAE is of another class.
    FileNotFoundError
        If there is no ``ae.pt``.

    See Also
    --------
    from_sae_lens : SAEs of SAELens.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from skmfr.io import from_dictionary_learning
    >>> state = {
    ...     "encoder.weight": torch.eye(3),
    ...     "encoder.bias": torch.tensor([0.0, 0.0, -1.0]),
    ...     "decoder.weight": torch.eye(3),
    ...     "bias": torch.zeros(3),
    ... }
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(state, Path(folder) / "ae.pt")
    ...     sae = from_dictionary_learning(folder)
    >>> sae.transform([[2.0, -2.0, 3.0]])
    array([[2., 0., 2.]])
    """
    path = Path(folder)
    path = path if path.suffix == ".pt" else path / WEIGHTS
    with naming(folder):
        trainer = _trainer_of(path.with_name(CONFIG))
        kind: str = trainer.get("dict_class", "")

        def expected(names: set[str]) -> Mapping[str, str]:
            nonlocal kind
            kind = kind or _kind_of(names)
            if kind not in SHAPES:
                raise ValueError(
                    f"{CONFIG} has dict_class={kind!r}, expected one of "
                    f"{', '.join(SHAPES)}."
                )
            shapes = dict(SHAPES[kind])
            # Early versions did not store these, and TopK does not need them.
            for name in {"k", "threshold"} - names if kind == "AutoEncoderTopK" else ():
                del shapes[name]
            return shapes

        arrays = read_state_dict(path, expected)
        check_finite(arrays)
        weights = _weights_of(kind, arrays)
        if kind != "AutoEncoderTopK":
            return estimator_of(weights)
        k = int(arrays["k"]) if "k" in arrays else trainer.get("k")
        return estimator_of(weights._replace(threshold=None), k)


def _trainer_of(path: Path) -> dict[str, Any]:
    """Description of the SAE in the configuration; empty without one."""
    if not path.exists():
        return {}
    trainer = read_json(path).get("trainer")
    if not isinstance(trainer, dict) or not isinstance(trainer.get("dict_class"), str):
        raise ValueError(f"{CONFIG} does not name the class of the SAE.")
    return trainer


def _kind_of(names: set[str]) -> str:
    """Identify the class by the names of its arrays."""
    kinds = [kind for kind, shapes in SHAPES.items() if set(shapes) == names]
    if len(kinds) != 1:
        what = " or ".join(kinds) or "none that is known"
        raise ValueError(
            f"its arrays ({', '.join(sorted(names))}) fit the classes {what}, and "
            f"{CONFIG}, which names the class, is missing."
        )
    return kinds[0]


def _weights_of(kind: str, arrays: Mapping[str, np.ndarray]) -> Weights:
    """Weights of any class, with thresholds."""
    if kind == "GatedAutoEncoder":
        return gated(
            arrays["encoder.weight"],
            arrays["gate_bias"],
            arrays["mag_bias"],
            arrays["r_mag"],
            arrays["decoder.weight"].T,
            arrays["decoder_bias"],
        )
    if "W_enc" in arrays:
        encoder, bias = arrays["W_enc"].T, arrays["b_enc"]
        decoder = arrays["W_dec"]
    else:
        encoder, bias = arrays["encoder.weight"], arrays["encoder.bias"]
        decoder = arrays["decoder.weight"].T
    (decoder_bias,) = (
        arrays[name] for name in ("bias", "b_dec", "decoder.bias") if name in arrays
    )
    # One number for all atoms, or one each; -1 before it was learned.
    threshold = np.maximum(arrays.get("threshold", 0), 0)
    threshold = np.broadcast_to(threshold, bias.shape).astype(bias.dtype)
    weights = Weights(encoder, bias, decoder, decoder_bias, threshold)
    if kind in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        return weights.subtracting_nothing()
    return weights.of_unit_norm() if kind == "AutoEncoder" else weights
