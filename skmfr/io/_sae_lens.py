"""SAEs in the format of SAELens."""

from __future__ import annotations

import re
import warnings
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils._param_validation import validate_params

from .._base import BaseSparseAutoencoder
from .._estimator import MFRSparseAutoencoder
from .._pretrained import PretrainedSAE
from .._utils.checks import Interval
from ._agreement import read_agreement, summary
from ._gemma_scope import PARAMS, read_params
from ._native import check_sae
from ._safetensors import naming
from ._weights import (
    CONFIG,
    Weights,
    check_entry,
    estimator_of,
    gated,
    read_config,
    read_weights,
    weights_of,
    write_folder,
)

WEIGHTS = "sae_weights.safetensors"
DECODER = {"W_dec": "floating m d", "W_enc": "floating d m", "b_dec": "floating d"}
# Arrays of each architecture in addition to those above.
SHAPES = {
    "topk": {"b_enc": "floating m"},
    "standard": {"b_enc": "floating m"},
    "jumprelu": {"b_enc": "floating m", "threshold": "floating m"},
    "gated": {"b_gate": "floating m", "b_mag": "floating m", "r_mag": "floating m"},
}
# Factors of the atoms, which versions before 6 trained after all else.
FACTORS = "scaling_factor"
# The version whose layout is written. SAELens has other rules for files that name a
# version before 6, or none.
VERSION = "6.54.12"
# Entries that can be imported; the first value is that of a missing entry.
ENTRIES = {
    "finetuning_scaling_factor": (False, True),
    # With "hook_z" it flattens the heads itself.
    "reshape_activations": ("none", "hook_z"),
    "apply_b_dec_to_input": (True, False),
    "rescale_acts_by_decoder_norm": (False, True),
}
# Normalisation by one factor for all activations, to a mean norm of sqrt(d_in).
SCALED = "expected_average_only_in"
# Other normalisations of activations, and the reason why weights cannot do them.
OTHER_NORMALISATIONS = {
    "layer_norm": "the mean and deviation of each sample are in no code",
    "constant_norm_rescale": "the norm of each sample is in no code",
    "covariance_whitening": "this is a checkpoint, and SAELens puts the whitening into "
    "the weights when training ends",
}


def to_sae_lens(
    sae: BaseSparseAutoencoder,
    folder,
    *,
    model_name=None,
    hook_name=None,
    **metadata,
) -> None:
    """Write the reference SAE to a folder that SAELens opens.

    SAELens' ``SAE.load_from_disk(folder)`` gives a TopK SAE (format of version 6) with
    the codes and reconstructions that the estimator has with
    ``transform_algorithm="encoder"``, or a JumpReLU SAE of one with thresholds. The
    format cannot express other algorithms; the encoder is written for them too.

    Parameters
    ----------
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted estimator.
    folder : path-like
        Folder to write ``cfg.json`` and ``sae_weights.safetensors`` to, and, if there
        is agreement, that of each atom to ``agreement.safetensors``; a summary is in
        the metadata. It is created if necessary; files of these names are replaced.
    model_name : str, optional
        Model of the activations, by the name in TransformerLens, such as "gpt2".
    hook_name : str, optional
        Place of the activations in the model, such as "blocks.2.hook_mlp_out".
    **metadata : JSON values
        Further entries of SAELens' metadata, such as ``prepend_bos=True``,
        ``context_size=128``, ``dataset_path="..."``.

    Raises
    ------
    NotFittedError
        If `sae` is not fitted.
    TypeError
        If `sae` has another type, or metadata are not JSON.
    ValueError
        If an imported `sae` has both thresholds and `k`, or neither.
    ImportError
        If the package safetensors is not installed.

    Warns
    -----
    UserWarning
        If `sae` has ``activation="batchtopk"``: SAELens has no limit to the number of
        active atoms of a sample.

    See Also
    --------
    from_sae_lens : Read an SAE from such a folder.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import from_sae_lens, to_sae_lens
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     to_sae_lens(sae, folder, model_name="gpt2", hook_name="ln_final")
    ...     imported = from_sae_lens(folder)
    >>> bool(np.allclose(imported.transform(X), sae.transform(X)))
    True
    """
    check_sae(sae, PretrainedSAE)
    weights = weights_of(sae)
    k = sae._selection[0]
    if weights.threshold is not None and isinstance(sae, MFRSparseAutoencoder):
        warnings.warn(
            f"sae activates at most {k} atoms in a sample. SAELens has no such limit: "
            "there, samples with more scores above the threshold have more active "
            "atoms.",
            stacklevel=2,
        )
    elif weights.threshold is not None and k is not None:
        raise ValueError(
            f"sae has thresholds and k={k}, and SAELens has no SAE with both: "
            "set_params(k=None), or choose another format."
        )
    if weights.threshold is None and k is None:
        raise ValueError("sae has neither thresholds nor k, which codes need: set k.")
    n_components, n_features = weights.decoder.shape
    known = {"model_name": model_name, "hook_name": hook_name} | metadata | summary(sae)
    config = {
        "architecture": "topk" if weights.threshold is None else "jumprelu",
        "d_in": n_features,
        "d_sae": n_components,
        "dtype": str(weights.decoder.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION}
        | {name: value for name, value in known.items() if value is not None},
    }
    arrays = {
        "W_enc": weights.encoder.T,
        "b_enc": weights.encoder_bias,
        "W_dec": weights.decoder,
        "b_dec": weights.decoder_bias,
    }
    if weights.threshold is None:
        config |= {
            "k": min(int(k), n_components),
            "rescale_acts_by_decoder_norm": False,
        }
    else:
        arrays["threshold"] = weights.threshold
    write_folder(folder, sae, config, WEIGHTS, arrays)


@validate_params(
    {"norm_scaling_factor": [Interval(Real, 0, None, closed="neither"), None]},
    prefer_skip_nested_validation=True,
)
def from_sae_lens(
    folder, *, norm_scaling_factor=None
) -> MFRSparseAutoencoder | PretrainedSAE:
    """Read an SAE that SAELens wrote, in version 6 or before, or one of Gemma Scope.

    Architectures "topk", "standard", "jumprelu" and "gated" are read; BatchTopK and
    Matryoshka SAEs are "jumprelu" as SAELens' ``save_inference_model`` writes them.
    Codes and reconstructions are those of SAELens, with one exception: if all atoms of
    a TopK SAE have the same norm, and not 1, codes are multiplied by it.

    The weights take up all that the format expresses in other ways:

    - norms of atoms, where TopK uses them (`rescale_acts_by_decoder_norm`);
    - an encoder that does not subtract the decoder's bias;
    - gates, which become thresholds;
    - the factor of activations;
    - factors of atoms that versions before 6 trained (`finetuning_scaling_factor`).

    Parameters
    ----------
    folder : path-like
        Folder with ``cfg.json`` and ``sae_weights.safetensors``; or with
        ``params.npz``, or that file itself, of Gemma Scope.
    norm_scaling_factor : float, optional
        Positive factor of activations before coding, required for SAEs with
        ``normalize_activations="expected_average_only_in"`` and refused for others.
        The files do not contain it. SAELens knows the factors of published SAEs:
        ``sae_lens.loading.pretrained_saes_directory.get_norm_scaling_factor(release,
        sae_id)``. With 1, the SAE codes activations that are already scaled.

    Returns
    -------
    MFRSparseAutoencoder or PretrainedSAE
        Fitted, with one SAE and no witness. TopK SAEs become an
        :class:`~skmfr.MFRSparseAutoencoder`, which `partial_fit`, and `fit` with
        ``warm_start=True``, train further. The exception is a TopK SAE that ignores the
        norms of its atoms while these differ by more than 0.1 % and rounding. Atoms
        have an agreement only if :func:`to_sae_lens` has written it.

    Raises
    ------
    ValueError
        If a file is incomplete, if the SAE is of another kind, such as a transcoder or
        one that normalises each sample by itself, or if `norm_scaling_factor` is
        missing, or given to an SAE that does not scale activations.
    FileNotFoundError
        If a file is not there.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    to_sae_lens : Write such a folder.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import from_sae_lens, to_sae_lens
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     to_sae_lens(sae, folder)
    ...     imported = from_sae_lens(folder)
    >>> imported
    MFRSparseAutoencoder(k=2, n_components=32, n_saes=1, n_witnesses=0)
    >>> bool((imported.trusted_ == sae.trusted_).all())
    True
    """
    path = Path(folder)
    with naming(folder):
        if path.suffix != ".npz" and not (path / CONFIG).exists():
            path = path / PARAMS if (path / PARAMS).exists() else path
        if path.suffix == ".npz":
            _check_scaling({}, norm_scaling_factor)
            return estimator_of(read_params(path))
        config = read_config(path, ENTRIES, _as_version_6)
        _check_scaling(config, norm_scaling_factor)
        check_entry(config, "architecture", *SHAPES)
        expected = DECODER | SHAPES[config["architecture"]]
        arrays, norm_tolerance = read_weights(path, WEIGHTS, expected, [FACTORS])
        factors = arrays.get(FACTORS, np.ones(1))
        if not config["finetuning_scaling_factor"] and not (factors == 1).all():
            raise ValueError(
                f"{FACTORS} is not 1 everywhere, but {CONFIG} has "
                "finetuning_scaling_factor=False."
            )
        n_components, n_features = arrays["W_dec"].shape
        check_entry(config, "d_in", n_features)
        check_entry(config, "d_sae", n_components)
        weights = _weights_of(arrays).scaled(norm_scaling_factor or 1.0)
        if not config["apply_b_dec_to_input"]:
            weights = weights.subtracting_nothing()
        if config["architecture"] != "topk":
            sae = estimator_of(weights)
        else:
            by_norm = config["rescale_acts_by_decoder_norm"]
            weights = weights._replace(threshold=None)
            sae = estimator_of(
                weights, config.get("k"), inf if by_norm else norm_tolerance
            )
        read_agreement(path, sae)
        return sae


def _check_scaling(config: dict[str, Any], factor: float | None) -> None:
    """Check that a factor of activations is given exactly where it is needed."""
    name = "normalize_activations"
    kind = config.get(name, "none")
    if isinstance(kind, str) and kind in OTHER_NORMALISATIONS:
        raise ValueError(f"{CONFIG} has {name}={kind!r}: {OTHER_NORMALISATIONS[kind]}.")
    check_entry({name: kind}, name, "none", SCALED)
    if kind == SCALED and factor is None:
        raise ValueError(
            f"{CONFIG} has {name}={kind!r}, but no file has the factor: set "
            "norm_scaling_factor, to 1 if activations are scaled already."
        )
    if kind == "none" and factor is not None:
        raise ValueError(
            f"norm_scaling_factor={factor!r}, but the SAE does not scale activations: "
            "leave it out."
        )


def _weights_of(arrays: dict[str, np.ndarray]) -> Weights:
    """Weights of any architecture, with thresholds."""
    encoder, decoder, decoder_bias = arrays["W_enc"].T, arrays["W_dec"], arrays["b_dec"]
    if FACTORS in arrays:
        decoder = decoder * arrays[FACTORS][:, None]
    if "b_gate" in arrays:
        gates = arrays["b_gate"], arrays["b_mag"], arrays["r_mag"]
        return gated(encoder, *gates, decoder, decoder_bias)
    bias = arrays["b_enc"]
    threshold = np.maximum(arrays.get("threshold", np.zeros_like(bias)), 0)
    return Weights(encoder, bias, decoder, decoder_bias, threshold)


def _as_version_6(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as version 6 writes it.

    Earlier versions stored k among the arguments of an activation function. Most of
    them called a TopK SAE a standard SAE with that function. The first versions had
    only this kind and did not name it.
    """
    version = config.get("sae_lens_version")
    if isinstance(config.get("metadata"), dict):
        version = version or config["metadata"].get("sae_lens_version")
    major = re.match("[0-9]+", str(version))
    if major is not None and int(major[0]) >= 6:
        return config
    name = "activation_fn_str" if "activation_fn_str" in config else "activation_fn"
    function, arguments = config.get(name), config.get("activation_fn_kwargs")
    modern: dict[str, Any] = {}
    # With a k alone, nothing tells whether it is a TopK SAE.
    if "k" not in config or function is not None:
        modern["architecture"] = config.get("architecture", "standard")
    if function == "topk" and modern["architecture"] == "standard":
        modern["architecture"] = "topk"
    elif function is not None and modern["architecture"] != "topk":
        check_entry(config, name, "relu")
    if isinstance(arguments, dict) and arguments.get("k") is not None:
        modern["k"] = arguments["k"]
    kind = config.get("normalize_activations")
    if kind is None or isinstance(kind, bool):
        modern["normalize_activations"] = SCALED if kind else "none"
    return config | modern
