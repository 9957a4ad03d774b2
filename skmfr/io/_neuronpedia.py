"""Atoms in the format of Neuronpedia's dashboards."""

from __future__ import annotations

import json
from numbers import Integral
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.utils._param_validation import validate_params

from .._pretrained import PretrainedSAE
from .._training.attributes import reappearance_without_warning
from .._utils.checks import Interval, as_indices, as_matrix
from .._utils.files import replacing
from ._native import check_sae

N_BINS = 50


@validate_params(
    {
        "layer": [Interval(Integral, 0, None, closed="left")],
        "n_contexts": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def to_neuronpedia(
    sae,
    path,
    atoms,
    tokens,
    codes,
    *,
    model_name,
    layer,
    sae_set,
    tokenizer=None,
    effects=None,
    n_contexts=20,
) -> None:
    """Write the features of some atoms in the JSON of Neuronpedia's dashboards.

    A file is one batch in the format of SAEDashboard, which Neuronpedia's tools read.
    For each atom it has the frequency, a histogram of codes, the inputs in which the
    atom is strongest with its code at each token, and the tokens that it promotes and
    suppresses. Agreement, trust and the probability to return are added as
    "skmfr_agreement", "skmfr_trusted" and "skmfr_reappearance", if they are known.

    Parameters
    ----------
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted estimator.
    path : path-like
        File to write.
    atoms : array-like of int or bool
        Indices of the atoms, or a mask.
    tokens : array-like of shape (n_inputs, n_tokens)
        Token ids.
    codes : {array-like, sparse matrix} of shape (n_inputs * n_tokens, n_components)
        Codes at each token, input after input, such as ``sae.transform(X)`` of the
        activations of an :class:`~skmfr.activations.ActivationExtractor` without
        padding.
    model_name : str
        Neuronpedia's name of the model, such as "gpt2-small".
    layer : int
        Number of the layer.
    sae_set : str
        Name of the set of SAEs, such as "res-mfr".
    tokenizer : transformers tokenizer, optional
        Converts tokens to text. None writes their ids.
    effects : LogitEffects, optional
        From :func:`skmfr.activations.logit_effects`.
    n_contexts : int, default=20
        Inputs to keep for each atom, at most.

    Raises
    ------
    ValueError
        If an atom does not exist, or if `codes` or `effects` do not match the tokens
        and atoms.
    OSError
        If the file cannot be written.

    See Also
    --------
    skmfr.activations.feature_table : The same, as a table.

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import to_neuronpedia
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> tokens = np.arange(200).reshape(20, 10)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "batch-0.json"
    ...     names = {"model_name": "gpt2-small", "layer": 3, "sae_set": "res-mfr"}
    ...     to_neuronpedia(sae, path, [0, 5], tokens, sae.transform(X), **names)
    ...     batch = json.loads(path.read_text())
    >>> [feature["feature_index"] for feature in batch["features"]]
    [0, 5]
    """
    check_sae(sae, PretrainedSAE)
    n_components = len(sae.components_)
    atoms = np.atleast_1d(as_indices(atoms, n_components))
    if (
        atoms.dtype.kind not in "iu"
        or atoms.ndim != 1
        or not 0 <= atoms.min(initial=0) <= atoms.max(initial=0) < n_components
    ):
        raise ValueError(
            f"atoms must be numbers from 0 to {n_components - 1}, got {atoms.tolist()}."
        )
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"tokens must be ids (n_inputs, n_tokens), got {tokens.dtype} of shape "
            f"{tokens.shape}."
        )
    codes = sparse.csc_array(as_matrix(codes, "codes", accept_sparse=["csr", "csc"]))
    if codes.shape != (tokens.size, n_components):
        raise ValueError(
            f"codes has shape {codes.shape}, expected ({tokens.size}, {n_components}): "
            "one row for each token and one column for each atom."
        )
    if effects is not None and len(effects.promoted) != n_components:
        raise ValueError(
            f"effects has {len(effects.promoted)} atoms, but there are {n_components}."
        )
    probability = reappearance_without_warning(sae)
    batch = {
        "model_id": str(model_name),
        "layer": int(layer),
        "sae_set": str(sae_set),
        "features": [
            {"feature_index": int(atom)}
            | _usage(codes, atom, tokens, n_contexts, tokenizer)
            | _effects(effects, atom, tokenizer)
            | _agreement(sae, probability, atom)
            for atom in atoms
        ],
    }
    with replacing(Path(path)) as fresh:
        fresh.write_text(json.dumps(batch), encoding="utf-8")


def _usage(
    codes: sparse.csc_array, atom: int, tokens: np.ndarray, n_contexts: int, tokenizer
) -> dict:
    """Frequency of an atom, histogram of its codes, and its strongest inputs."""
    at_tokens = codes[:, [atom]].toarray().reshape(tokens.shape)
    values = at_tokens[at_tokens != 0]
    heights, edges = np.histogram(values, N_BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    if not len(values):
        heights, centres = heights[:0], centres[:0]
    strongest = np.argsort(-at_tokens.max(1), kind="stable")[:n_contexts]
    contexts = []
    for i in strongest[at_tokens[strongest].max(1) > 0]:
        peak = int(at_tokens[i].argmax())
        contexts.append(
            {
                # All inputs are the strongest: there is one interval.
                "bin_min": 0.0,
                "bin_max": float(values.max()),
                "bin_contains": len(strongest) / len(tokens),
                "qualifying_token_index": peak,
                "tokens": _texts(tokens[i], tokenizer),
                "values": _floats(at_tokens[i]),
            }
        )
    return {
        "frac_nonzero": len(values) / tokens.size,
        # As many promoted as suppressed tokens.
        "freq_hist_data_bar_heights": [int(height) for height in heights],
        "freq_hist_data_bar_values": _floats(centres),
        "activations": contexts,
    }


def _effects(effects, atom: int, tokenizer) -> dict:
    """Tokens that an atom promotes and suppresses."""
    if effects is None:
        return dict.fromkeys(("pos_str", "pos_values", "neg_str", "neg_values"), [])
    return {
        "pos_str": _texts(effects.promoted[atom], tokenizer),
        "pos_values": _floats(effects.promoted_logits[atom]),
        "neg_str": _texts(effects.suppressed[atom], tokenizer),
        "neg_values": _floats(effects.suppressed_logits[atom]),
    }


def _agreement(sae, probability: np.ndarray, atom: int) -> dict:
    agreement = float(sae.feature_agreement_[atom])
    # JSON has no NaN.
    if np.isnan(agreement):
        return {}
    known = {"skmfr_agreement": agreement, "skmfr_trusted": bool(sae.trusted_[atom])}
    if not np.isnan(probability[atom]):
        known["skmfr_reappearance"] = float(probability[atom])
    return known


def _texts(ids: np.ndarray, tokenizer) -> list[str]:
    if tokenizer is None:
        return [str(each) for each in ids.tolist()]
    return [tokenizer.decode([each]) for each in ids.tolist()]


def _floats(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
