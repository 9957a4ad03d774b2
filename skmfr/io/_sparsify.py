"""SAEs in the format of EleutherAI's sparsify."""

from __future__ import annotations

from typing import Any

from .._estimator import MFRSparseAutoencoder
from .._pretrained import PretrainedSAE
from ._agreement import read_agreement, summary
from ._native import check_sae
from ._safetensors import naming
from ._weights import (
    CONFIG,
    Weights,
    check_entry,
    estimator_of,
    read_config,
    read_weights,
    weights_of,
    write_folder,
)

WEIGHTS = "sae.safetensors"
SHAPES = {
    "encoder.weight": "floating m d",
    "encoder.bias": "floating m",
    "W_dec": "floating m d",
    "b_dec": "floating d",
}
# Entries that can be imported; the first value is that of a missing entry.
ENTRIES = {
    "activation": ("topk",),
    # Codes of old versions could be negative.
    "signed": (False,),
}
# Entries of models that are not autoencoders, and what those models are.
OTHERS = {
    "transcode": "a transcoder, which predicts the output of a module from its input",
    "skip_connection": "an SAE with a skip connection, which no code explains",
}


def to_sparsify(sae: MFRSparseAutoencoder, folder) -> None:
    """Write the reference SAE to a folder that EleutherAI's sparsify opens.

    ``SparseCoder.load_from_disk(folder)`` of sparsify returns an SAE with the codes and
    reconstructions that the estimator has with ``transform_algorithm="encoder"``. The
    format cannot express other algorithms; the encoder is written for them too.

    Parameters
    ----------
    sae : MFRSparseAutoencoder
        Fitted estimator.
    folder : path-like
        Folder to write ``cfg.json`` and ``sae.safetensors`` to, and, if there is
        agreement, that of each atom to ``agreement.safetensors``; a summary is in the
        configuration. It is created if necessary; files of these names are replaced.

    Raises
    ------
    NotFittedError
        If `sae` is not fitted.
    TypeError
        If `sae` has another type.
    ValueError
        If `sae` uses a threshold.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    from_sparsify : Read an SAE from such a folder.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import from_sparsify, to_sparsify
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     to_sparsify(sae, folder)
    ...     imported = from_sparsify(folder)
    >>> bool(np.allclose(imported.transform(X), sae.transform(X)))
    True
    """
    check_sae(sae)
    weights = weights_of(sae)
    if weights.threshold is not None:
        raise ValueError(
            "sae has activation='batchtopk', and sparsify has no SAE with thresholds: "
            "set activation='topk', or choose another format."
        )
    n_components, n_features = weights.decoder.shape
    config: dict[str, Any] = {
        "activation": "topk",
        "d_in": n_features,
        "num_latents": n_components,
        "k": min(int(sae.k), n_components),
        "normalize_decoder": True,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
    }
    config |= summary(sae)
    arrays = dict(zip(SHAPES, weights[:4], strict=True))
    write_folder(folder, sae, config, WEIGHTS, arrays)


def from_sparsify(folder) -> MFRSparseAutoencoder | PretrainedSAE:
    """Read an SAE that EleutherAI's sparsify wrote.

    Parameters
    ----------
    folder : path-like
        Folder of one hookpoint, with ``cfg.json`` and ``sae.safetensors``.

    Returns
    -------
    MFRSparseAutoencoder or PretrainedSAE
        Fitted, with one SAE and no witness. `partial_fit`, and `fit` with
        ``warm_start=True``, train an :class:`~skmfr.MFRSparseAutoencoder` further. A
        :class:`~skmfr.PretrainedSAE` is returned if norms of atoms differ by more than
        0.1 % and rounding, because sparsify's TopK ignores norms. Atoms have an
        agreement only if :func:`to_sparsify` has written it.

    Raises
    ------
    ValueError
        If a file is incomplete, or the SAE is of another kind: another activation than
        "topk", a transcoder or a skip connection.
    FileNotFoundError
        If a file is not there.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    to_sparsify : Write such a folder.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import from_sparsify, to_sparsify
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     to_sparsify(sae, folder)
    ...     imported = from_sparsify(folder)
    >>> imported
    MFRSparseAutoencoder(k=2, n_components=32, n_saes=1, n_witnesses=0)
    """
    with naming(folder):
        config = read_config(folder, ENTRIES)
        for name, what in OTHERS.items():
            if config.get(name, False) is not False:
                raise ValueError(f"{CONFIG} has {name}={config[name]!r}: it is {what}.")
        arrays, norm_tolerance = read_weights(folder, WEIGHTS, SHAPES)
        weights = Weights(*arrays.values())
        n_components, n_features = weights.decoder.shape
        check_entry(config, "d_in", n_features)
        # 0 latents mean a multiple of the features.
        if config.get("num_latents", 0):
            check_entry(config, "num_latents", n_components)
        sae = estimator_of(weights, config.get("k", 32), norm_tolerance)
        read_agreement(folder, sae)
        return sae
