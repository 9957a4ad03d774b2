"""SAEs in the format of SAELens."""

from __future__ import annotations

from math import inf
from typing import Any

from .._estimator import MFRSparseAutoencoder
from ._native import check_sae
from ._safetensors import naming
from ._weights import (
    Weights,
    check_entry,
    estimator_of,
    read_config,
    read_weights,
    weights_of,
    write_folder,
)

WEIGHTS = "sae_weights.safetensors"
SHAPES = {
    "W_dec": "floating m d",
    "W_enc": "floating d m",
    "b_enc": "floating m",
    "b_dec": "floating d",
}
# The version whose layout is written; SAELens reads what versions before 6 wrote, or
# what does not say, by other rules.
VERSION = "6.54.12"
# What can be imported; the first value is that of a missing entry.
ENTRIES = {
    # Of versions before 6: factors of the codes, trained after all else.
    "finetuning_scaling_factor": (False,),
    "normalize_activations": ("none",),
    # With "hook_z" it flattens the heads itself.
    "reshape_activations": ("none", "hook_z"),
    "apply_b_dec_to_input": (True, False),
    "rescale_acts_by_decoder_norm": (False, True),
}


def to_sae_lens(
    sae: MFRSparseAutoencoder, folder, *, model_name=None, hook_name=None, **metadata
) -> None:
    """Write the reference SAE to a folder that SAELens opens.

    SAELens' ``SAE.load_from_disk(folder)`` gives a TopK SAE (format of version 6) with
    the codes and reconstructions that the estimator has with
    ``transform_algorithm="encoder"``. Other algorithms cannot be expressed there: with
    them it is still the encoder that is written.

    Parameters
    ----------
    sae : MFRSparseAutoencoder
        Fitted estimator.
    folder : path-like
        Folder to write ``cfg.json`` and ``sae_weights.safetensors`` to. It is made if
        it is not there; files of these names are replaced.
    model_name : str, optional
        Model that the activations are from, as TransformerLens calls it, such as
        "gpt2".
    hook_name : str, optional
        Where in the model they are from, such as "blocks.2.hook_mlp_out".
    **metadata : JSON values
        Further entries of SAELens' metadata, such as ``prepend_bos=True``,
        ``context_size=128``, ``dataset_path="..."``.

    Raises
    ------
    NotFittedError
        If `sae` is not fitted.
    TypeError
        If `sae` is anything else, or metadata are no JSON.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    from_sae_lens : The way back.

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
    check_sae(sae)
    encoder, encoder_bias, decoder, decoder_bias = weights_of(sae)
    n_components, n_features = decoder.shape
    known = {"model_name": model_name, "hook_name": hook_name} | metadata
    config = {
        "architecture": "topk",
        "d_in": n_features,
        "d_sae": n_components,
        "k": min(int(sae.k), n_components),
        "dtype": str(decoder.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": VERSION}
        | {name: value for name, value in known.items() if value is not None},
    }
    arrays = {
        "W_enc": encoder.T,
        "b_enc": encoder_bias,
        "W_dec": decoder,
        "b_dec": decoder_bias,
    }
    write_folder(folder, config, WEIGHTS, arrays)


def from_sae_lens(folder) -> MFRSparseAutoencoder:
    """Read a TopK SAE that SAELens wrote, in version 6 or before.

    What the format says in other ways is folded into the weights, so that
    reconstructions are the same: norms of atoms, where TopK takes account of them
    (`rescale_acts_by_decoder_norm`) or all are equal (to 0.1 %, and to rounding), and
    an encoder that does not subtract the decoder's bias. Codes count atoms of unit
    norm: in units of SAELens, times the norms there, if TopK takes no account of them.

    Parameters
    ----------
    folder : path-like
        Folder with ``cfg.json`` and ``sae_weights.safetensors``.

    Returns
    -------
    MFRSparseAutoencoder
        Fitted, of one SAE without witness, so that no atom has an agreement. It cannot
        be trained on, only anew: `partial_fit`, and `fit` with ``warm_start=True``,
        raise a ValueError.

    Raises
    ------
    ValueError
        If a file is not whole, or the SAE is of another kind: another architecture than
        "topk", activations that are normalised, atoms of different norms that TopK
        takes no account of.
    FileNotFoundError
        If a file is not there.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    to_sae_lens : The way there.

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
    """
    with naming(folder):
        config = read_config(folder, ENTRIES, _as_version_6)
        check_entry(config, "architecture", "topk")
        arrays, norm_tolerance = read_weights(folder, WEIGHTS, SHAPES)
        n_components, n_features = arrays["W_dec"].shape
        check_entry(config, "d_in", n_features)
        check_entry(config, "d_sae", n_components)
        encoder, encoder_bias = arrays["W_enc"].T, arrays["b_enc"]
        if not config["apply_b_dec_to_input"]:
            encoder_bias = encoder_bias + encoder @ arrays["b_dec"]
        if config["rescale_acts_by_decoder_norm"]:
            norm_tolerance = inf
        weights = Weights(encoder, encoder_bias, arrays["W_dec"], arrays["b_dec"])
        return estimator_of(weights, config.get("k"), norm_tolerance)


def _as_version_6(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as version 6 writes it.

    Earlier ones had k among the arguments of an activation function, and most of them
    called a TopK SAE a standard one with that function.
    """
    if "activation_fn_str" not in config:
        return config
    modern: dict[str, Any] = {}
    if config.get("architecture", "standard") == "standard":
        check_entry(config, "activation_fn_str", "topk")
        modern["architecture"] = "topk"
    arguments = config.get("activation_fn_kwargs")
    if isinstance(arguments, dict) and "k" in arguments:
        modern["k"] = arguments["k"]
    if config.get("normalize_activations") in (None, False):
        modern["normalize_activations"] = "none"
    return config | modern
