"""Complete fitted estimators in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._base import BaseSparseAutoencoder
from .._estimator import MFRSparseAutoencoder, check_parameters
from .._pretrained import PretrainedSAE
from .._training.attributes import rows_of_witnesses, set_fitted
from ._earlier import TRAINING, layouts_in, prefix_in, update
from ._names import names_of, set_names
from ._safetensors import (
    check_arrays,
    checked_number,
    naming,
    opened,
    write_arrays,
)
from ._weights import SAE, Weights, estimator_with

FORMAT_VERSION = 5

# The arrays, see `check_arrays`: m atoms, d features, s SAEs, w witnesses, t steps.
FITTED = {
    "dictionaries_": "float s m d",
    "witness_dictionaries_": "float w m d",
    "encoder_bias_": "float m",
    "decoder_bias_": "float d",
    "feature_agreement_": "float m",
    "mutual_agreement_": "float s m",
    "trusted_": "bool m",
    "loss_curve_": "float t",
    "n_reinits_": "int s",
}
# Present only if they differ from those that the other arrays imply.
WEIGHT_LAYOUTS = {"components_": "float m d", "encoder_weights_": "float m d"}
# Arrays of a `PretrainedSAE`, which has no training state.
PRETRAINED = {
    **WEIGHT_LAYOUTS,
    "encoder_bias_": "float m",
    "decoder_bias_": "float d",
    "feature_agreement_": "float m",
    "trusted_": "bool m",
}
# Only in SAEs that use thresholds.
THRESHOLD = {"threshold_": "float m"}
# Present only if known, and not in files of earlier builds.
KNOWN = {"reappearance_": "float m"}
# Parameters that belong to the machine or the session of the fit.
LEFT_BEHIND = ("callback", "checkpoint_dir", "checkpoint_every")
# Only in fits to data with outliers.
FVU_OF_KINDS = ("inlier_fvu_", "outlier_fvu_")


def save(
    sae: MFRSparseAutoencoder | PretrainedSAE, path, *, training_state=True
) -> None:
    """Write a fitted estimator to one file.

    The file is in safetensors format, so other programs can read its arrays. Unlike
    `pickle` and `joblib`, :func:`load` executes nothing from the file. Each array is
    stored once: `components_` is ``dictionaries_[reference_sae_]``. With a training
    state, `encoder_weights_` is the reference's array among the encoders.

    Parameters
    ----------
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted estimator.
    path : path-like
        File to write. An existing file is replaced once the new one is complete.
    training_state : bool, default=True
        Whether to write the state from which `partial_fit`, and `fit` with
        ``warm_start=True``, resume. False writes only the reference SAE and its
        agreement, in a file hardly larger than the weights: `dictionaries_` then holds
        one SAE, there are no witnesses, and `loss_curve_` is empty. Further training
        then starts from these weights, as from those of another package, and counts
        steps from 0. A :class:`~skmfr.PretrainedSAE` does not have this state.

    Raises
    ------
    NotFittedError
        If `sae` is not fitted.
    TypeError
        If `sae` has another type, such as a pipeline or an instance of a subclass.
    OSError
        If the file cannot be written.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    load : Read it.

    Notes
    -----
    A `callback`, callbacks of scikit-learn, and a `random_state` that is a generator
    are not data: they are restored as None, and `history_` as an empty list.
    `checkpoint_dir` and `checkpoint_every` are restored as None too, because a fit
    should not write to a folder that somebody chose on another machine.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import load, save
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     save(sae, Path(folder) / "sae.safetensors")
    ...     loaded = load(Path(folder) / "sae.safetensors")
    >>> bool((loaded.transform(X) == sae.transform(X)).all())
    True
    """
    from .. import __version__

    check_sae(sae, PretrainedSAE)
    content = {"format_version": FORMAT_VERSION, "skmfr_version": __version__}
    if isinstance(sae, PretrainedSAE):
        names = [*PRETRAINED, *KNOWN, *THRESHOLD]
        found = {name: getattr(sae, name) for name in names}
        arrays = {name: array for name, array in found.items() if array is not None}
        content |= {"estimator": PretrainedSAE.__name__, "attributes": names_of(sae)}
    else:
        attributes = _all_attributes(sae) if training_state else _reference_alone(sae)
        arrays = _arrays_of(attributes)
        content["attributes"] = _attributes_of(sae, attributes["reference_sae_"])
    content["parameters"] = _parameters_of(sae)
    description = json.dumps(content, default=_plain)
    digest = _digest(description, arrays)
    write_arrays(Path(path), arrays, {"skmfr": description, "sha256": digest})


def load(path) -> MFRSparseAutoencoder | PretrainedSAE:
    """Read an estimator that :func:`save` wrote.

    Parameters
    ----------
    path : path-like
        File to read.

    Returns
    -------
    MFRSparseAutoencoder or PretrainedSAE
        The estimator as it was saved, without the parameters that :func:`save` leaves
        out, such as `callback` and `checkpoint_dir`.

    Raises
    ------
    ValueError
        If :func:`save` did not write the file, if the format has a later version, or if
        the file was changed.
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    save : Write it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import load, save
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     save(sae, Path(folder) / "sae.safetensors")
    ...     loaded = load(Path(folder) / "sae.safetensors")
    >>> loaded.n_steps_
    50
    >>> loaded.partial_fit(X).n_steps_
    51
    """
    with naming(path), opened(path, "np") as file:
        metadata = file.metadata() or {}
        description = _described(metadata)
        names = set(file.keys())
        version = description["format_version"]
        pretrained = description["estimator"] == PretrainedSAE.__name__
        if pretrained:
            check_arrays(file, PRETRAINED | _present(KNOWN | THRESHOLD, names))
        else:
            _check_sizes(check_arrays(file, _expected_arrays(names, version)))
        arrays = {name: file.get_tensor(name) for name in names}
        if metadata.get("sha256") != _digest(metadata["skmfr"], arrays):
            raise ValueError(
                "it is damaged: its SHA-256 digest differs from the one stored in it."
            )
        if pretrained:
            return _pretrained(description, arrays)
        parameters, attributes = description["parameters"], description["attributes"]
        update(parameters, attributes, arrays, version)
        sae = _with_parameters(parameters)
        _set_attributes(sae, attributes, arrays)
    return sae


def check_sae(sae, *others: type) -> None:
    """Check that `sae` is fitted, and ours or of these types."""
    # A subclass may have its own parameters and attributes.
    kinds = MFRSparseAutoencoder, *others
    if type(sae) not in kinds:
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"sae is of type {type(sae).__name__}, expected {expected}.")
    check_is_fitted(sae)
    # They may have been set after the fit.
    sae._validate_params()


def _all_attributes(sae: MFRSparseAutoencoder) -> dict[str, Any]:
    """Attributes of an estimator, with those that are computed when read."""
    made = {name: getattr(sae, name) for name in (*FITTED, *WEIGHT_LAYOUTS)}
    return vars(sae) | made


def _reference_alone(sae: MFRSparseAutoencoder) -> dict[str, Any]:
    """Attributes of an estimator that has the reference SAE and nothing else."""
    i = sae.reference_sae_
    return _all_attributes(sae) | {
        "dictionaries_": sae.components_[None],
        "witness_dictionaries_": sae.witness_dictionaries_[:0],
        "reference_sae_": 0,
        "mutual_agreement_": sae.mutual_agreement_[i : i + 1],
        "n_reinits_": sae.n_reinits_[i : i + 1],
        "loss_curve_": sae.loss_curve_[:0],
        "_training": {},
    }


def _arrays_of(attributes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of a file; the reference SAE's weights only if no other array has them.

    After `partial_fit`, the file has the decoders from which training resumes beside
    the dictionaries, whose norm is 1 up to the precision of the data.
    """
    from .._training.results import without_copies

    training = attributes["_training"]
    public = {name: array for name, array in training.items() if name != "decoder"}
    kept = without_copies(attributes | {"_training": public})
    optional = (*WEIGHT_LAYOUTS, *KNOWN, *THRESHOLD)
    names = [*FITTED, *(name for name in optional if kept.get(name) is not None)]
    return {name: attributes[name] for name in names} | {
        f"{TRAINING}{name}": array for name, array in training.items()
    }


def _parameters_of(sae: BaseSparseAutoencoder) -> dict[str, Any]:
    parameters = sae.get_params()
    parameters |= dict.fromkeys(parameters.keys() & set(LEFT_BEHIND))
    # A torch.device has a name.
    parameters["device"] = str(parameters["device"])
    if isinstance(parameters.get("random_state"), np.random.RandomState):
        parameters["random_state"] = None
    return parameters


def _attributes_of(sae: MFRSparseAutoencoder, reference: int) -> dict[str, Any]:
    """Fitted attributes that are not arrays."""
    attributes: dict[str, Any] = {
        name: getattr(sae, name) for name in ("agreement_null_", "n_iter_", "n_steps_")
    }
    attributes["reference_sae_"] = reference
    # JSON has no NaN.
    if not np.isnan(sae.median_norm_):
        attributes["median_norm_"] = sae.median_norm_
    others = "k_", "n_outliers_", "witness_rows_", *FVU_OF_KINDS
    attributes |= {name: getattr(sae, name) for name in others if hasattr(sae, name)}
    return attributes | names_of(sae)


def _plain(value):
    """Convert a parameter that JSON does not know."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A parameter is {value!r}, which cannot be saved as JSON.")


def _digest(description: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of everything in a file."""
    digest = sha256(description.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.ravel().data)
    return digest.hexdigest()


def _described(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Description that a file contains, checked for the version."""
    try:
        description = json.loads(metadata["skmfr"])
        version = description["format_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("it was not written by skmfr.io.save.") from error
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"it has version {version} of the format, from skmfr "
            f"{description.get('skmfr_version')}; this skmfr reads versions up to "
            f"{FORMAT_VERSION}: update skmfr."
        )
    if not all(
        isinstance(description.get(part), dict) for part in ("parameters", "attributes")
    ):
        raise ValueError("it has no parameters, or no attributes.")
    kinds = [kind.__name__ for kind in (MFRSparseAutoencoder, PretrainedSAE)]
    # Files do not name the class if it is MFRSparseAutoencoder.
    if description.setdefault("estimator", kinds[0]) not in kinds:
        raise ValueError(
            f"estimator is {description['estimator']!r}, expected {' or '.join(kinds)}."
        )
    return description


def _present(optional: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Those of the optional arrays that a file has."""
    return {name: optional[name] for name in optional.keys() & names}


def _expected_arrays(names: Iterable[str], version: int) -> dict[str, str]:
    """All arrays that a file of this version with these names must have."""
    from .._training.state import layouts

    names = set(names)
    expected = FITTED | _present(WEIGHT_LAYOUTS | KNOWN | THRESHOLD, names)
    prefix = prefix_in(version)
    trained = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    if not trained:
        return expected
    state = layouts(trained)
    # After a fit, the decoder is stored only as the public dictionaries.
    if "decoder" not in trained:
        del state["decoder"]
    return expected | layouts_in(version, state, trained)


def _check_sizes(sizes: Mapping[str, int]) -> None:
    n_saes, n_witnesses = sizes["s"], sizes["w"]
    if sizes.get("n", n_saes + n_witnesses) != n_saes + n_witnesses:
        raise ValueError(
            f"it has {n_saes} SAEs and {n_witnesses} witnesses, but its training state "
            f"has {sizes['n']}."
        )


def _with_parameters(parameters: dict[str, Any]) -> MFRSparseAutoencoder:
    """Make an estimator, and check its parameters."""
    sae = with_known(MFRSparseAutoencoder(), parameters)
    check_parameters(sae)
    # Earlier builds wrote parameters of the machine, too.
    return sae.set_params(**dict.fromkeys(LEFT_BEHIND))


def with_known(sae: SAE, parameters: dict[str, Any]) -> SAE:
    """The estimator with the parameters of a file, which it must know."""
    if unknown := sorted(parameters.keys() - sae.get_params().keys()):
        raise ValueError(
            f"it has parameters that this skmfr does not know: {', '.join(unknown)}."
        )
    return sae.set_params(**parameters)


def _pretrained(
    description: dict[str, Any], arrays: Mapping[str, np.ndarray]
) -> PretrainedSAE:
    """Restore an SAE of others."""
    weights = Weights(
        arrays["encoder_weights_"],
        arrays["encoder_bias_"],
        arrays["components_"],
        arrays["decoder_bias_"],
        arrays.get("threshold_"),
    )
    sae = estimator_with(
        with_known(PretrainedSAE(), description["parameters"]), weights
    )
    sae._validate_params()
    known = "feature_agreement_", "trusted_", *KNOWN
    set_fitted(sae, {name: arrays[name] for name in known if name in arrays})
    set_names(sae, description["attributes"])
    return sae


def _set_attributes(
    sae: MFRSparseAutoencoder,
    attributes: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Set the fitted attributes of an estimator."""
    from .._training.results import with_copies

    training = {
        name.removeprefix(TRAINING): array
        for name, array in arrays.items()
        if name.startswith(TRAINING)
    }
    _check_training(training)
    n_saes, n_components, n_features = arrays["dictionaries_"].shape
    # Files of earlier builds do not have it.
    k = {"k_": min(sae.k, n_components)} | attributes
    fitted = {name: array for name, array in arrays.items() if name.endswith("_")} | {
        "n_features_in_": n_features,
        "reference_sae_": checked_number(
            attributes, "reference_sae_", int, 0, n_saes - 1
        ),
        "agreement_null_": checked_number(attributes, "agreement_null_", float, 0, 1),
        "k_": checked_number(k, "k_", int, 1, n_components),
        "n_iter_": checked_number(attributes, "n_iter_", int, 0),
        "n_steps_": checked_number(attributes, "n_steps_", int, 0),
        "n_outliers_": checked_number(
            {"n_outliers_": 0} | attributes, "n_outliers_", int, 0
        ),
        "witness_rows_": _rows_of_witnesses(attributes, training),
        "history_": [],
        "median_norm_": nan,
        "threshold_": arrays.get("threshold_"),
        "_training": training,
    }
    if "median_norm_" in attributes:
        fitted["median_norm_"] = checked_number(attributes, "median_norm_", float, 0)
    for name in FVU_OF_KINDS:
        known = attributes.get(name) is not None
        fitted[name] = checked_number(attributes, name, float, 0) if known else None
    set_fitted(sae, with_copies(fitted))
    set_names(sae, attributes)


def _rows_of_witnesses(attributes: Mapping, training: Mapping) -> str:
    """Rows in the file, or, in files of earlier builds, in the state of training."""
    rows = attributes.get("witness_rows_", rows_of_witnesses(training))
    if rows not in ("same", "disjoint"):
        raise ValueError(f"witness_rows_ is {rows!r}, expected 'same' or 'disjoint'.")
    return rows


def _check_training(training: Mapping[str, np.ndarray]) -> None:
    """Check the values, which shapes do not determine."""
    if not training:
        return
    checked_number({"seed": training["seed"].item()}, "seed", int, 0, 2**31 - 1)
    checked_number({"n_rows": training["n_rows"].item()}, "n_rows", float, 1)
    if not (training["variance"] >= 0).all():
        raise ValueError("variance is negative, or not a number.")
