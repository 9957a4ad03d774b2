"""Fitted estimators, whole, in one file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from math import inf, ulp
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._estimator import MFRSparseAutoencoder, check_parameters, set_fitted
from ._safetensors import check_arrays, naming, opened, write_arrays

FORMAT_VERSION = 2

# The arrays, see `check_arrays`: m atoms, d features, s SAEs, w witnesses, n of both, t
# steps.
FITTED = {
    "components_": "float m d",
    "dictionaries_": "float s m d",
    "witness_dictionaries_": "float w m d",
    "encoder_weights_": "float m d",
    "encoder_bias_": "float m",
    "decoder_bias_": "float d",
    "feature_agreement_": "float m",
    "mutual_agreement_": "float s m",
    "trusted_": "bool m",
    "loss_curve_": "float t",
    "n_reinits_": "int s",
}
# What training goes on with; SAEs from other packages have none of it.
STANDARDISER = {
    "standardiser mean": "float d",
    "standardiser deviation": "float d",
}
TRAINED = {
    "trained encoder_bias": "float n m",
    "trained decoder_bias": "float n d",
    "trained rates": "float n m",
    "trained idle": "int n m",
    "trained losses": "float t n",
    "trained n_reinits": "int n",
    "trained schedule": "int 4",
    "trained plateau": "float 4",
    "trained step": "int",
}
# Since version 2.
OF_DEAD_ATOMS = {"trained unmoved": "int n m", "trained dead": "bool n m"}
# Some fits leave these too.
ENCODER = "trained encoder"
MATCHES = re.compile(r"trained matches \d+ \d+")
MOMENTS = re.compile(r"trained adam (\d+) (step|exp_avg|exp_avg_sq)")
# Parameters of an SAE as the optimiser knows them; with tied weights all but the first.
PARAMETERS = ("float m d", "float m", "float m d", "float d")


def save(sae: MFRSparseAutoencoder, path) -> None:
    """Write a fitted estimator to one file.

    The file is in safetensors format, so that other programs can read its arrays, and
    :func:`load` executes nothing that it finds there, unlike `pickle` and `joblib`. It
    holds what `partial_fit`, and `fit` with ``warm_start=True``, go on from.

    Parameters
    ----------
    sae : MFRSparseAutoencoder
        Fitted estimator.
    path : path-like
        File to write. One that is there stays as it is until the new one is whole.

    Raises
    ------
    NotFittedError
        If `sae` is not fitted.
    TypeError
        If `sae` is anything else, such as a pipeline or an instance of a subclass.
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
    are no data: they come back as None. A `checkpoint_dir` comes back as a string.

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

    check_sae(sae)
    arrays = _arrays_of(sae)
    description = json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "skmfr_version": __version__,
            "parameters": _parameters_of(sae),
            "attributes": _attributes_of(sae),
        },
        default=_plain,
    )
    digest = _digest(description, arrays)
    write_arrays(Path(path), arrays, {"skmfr": description, "sha256": digest})


def load(path) -> MFRSparseAutoencoder:
    """Read an estimator that :func:`save` wrote.

    Parameters
    ----------
    path : path-like
        File to read.

    Returns
    -------
    MFRSparseAutoencoder
        The estimator as it was when it was saved.

    Raises
    ------
    ValueError
        If the file is not one of :func:`save`, is of a later version of the format, or
        is not as it was written.
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
        names = file.keys()
        expected = _expected_arrays(names, description["format_version"])
        _check_sizes(check_arrays(file, expected))
        arrays = {name: file.get_tensor(name) for name in names}
        if metadata.get("sha256") != _digest(metadata["skmfr"], arrays):
            raise ValueError(
                "it is damaged: its SHA-256 digest is not the one that it was saved "
                "with."
            )
        sae = _with_parameters(description["parameters"])
        _set_attributes(sae, description["attributes"], arrays)
    return sae


def check_sae(sae) -> None:
    """Whether there is a fitted estimator to write."""
    # A subclass may have parameters and attributes of its own.
    if type(sae) is not MFRSparseAutoencoder:
        raise TypeError(
            f"sae is of type {type(sae).__name__}, expected MFRSparseAutoencoder."
        )
    check_is_fitted(sae)
    # They may have been set after the fit.
    check_parameters(sae)


def _arrays_of(sae: MFRSparseAutoencoder) -> dict[str, np.ndarray]:
    arrays = {name: getattr(sae, name) for name in FITTED}
    if sae._trained:
        arrays |= {f"trained {name}": array for name, array in sae._trained.items()}
        for name in STANDARDISER:
            arrays[name] = getattr(sae._standardiser, name.split()[1])
    return arrays


def _parameters_of(sae: MFRSparseAutoencoder) -> dict[str, Any]:
    parameters = sae.get_params()
    parameters["callback"] = None
    if isinstance(parameters["random_state"], np.random.RandomState):
        parameters["random_state"] = None
    return parameters


def _attributes_of(sae: MFRSparseAutoencoder) -> dict[str, Any]:
    """Fitted attributes that are not arrays of numbers, nor lengths of such."""
    attributes: dict[str, Any] = {
        name: getattr(sae, name)
        for name in ("reference_sae_", "agreement_null_", "n_iter_")
    }
    if sae._trained:
        attributes |= {"seed": sae._seed, "scale": sae._standardiser.scale}
    if hasattr(sae, "feature_names_in_"):
        attributes["feature_names_in_"] = sae.feature_names_in_.tolist()
    if hasattr(sae, "_sklearn_output_config"):
        attributes["set_output"] = sae._sklearn_output_config["transform"]
    return attributes


def _plain(value):
    """What JSON can hold of a parameter that it does not know."""
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
    """What a file says about itself, if it is one that can be loaded."""
    try:
        description = json.loads(metadata["skmfr"])
        version = description["format_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("it is not a file of skmfr.io.save.") from error
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"it is in version {version} of the format, from skmfr "
            f"{description.get('skmfr_version')}; this skmfr reads versions up to "
            f"{FORMAT_VERSION}: update skmfr."
        )
    if not all(
        isinstance(description.get(part), dict) for part in ("parameters", "attributes")
    ):
        raise ValueError("it has no parameters, or no attributes.")
    return description


def _expected_arrays(names: Iterable[str], version: int) -> dict[str, str]:
    """All arrays of a file of this version that has some of them."""
    names = set(names)
    expected = dict(FITTED)
    if names.isdisjoint(TRAINED):
        return expected
    expected |= STANDARDISER | TRAINED
    if version > 1:
        expected |= OF_DEAD_ATOMS
    if ENCODER in names:
        expected[ENCODER] = "float n m d"
    parameters = PARAMETERS if ENCODER in names else PARAMETERS[1:]
    for name in names:
        if MATCHES.fullmatch(name):
            expected[name] = "int 2 *"
        elif match := MOMENTS.fullmatch(name):
            prefix = f"trained adam {match[1]}"
            parameter = parameters[int(match[1]) % len(parameters)]
            expected |= {
                f"{prefix} step": "float",
                f"{prefix} exp_avg": parameter,
                f"{prefix} exp_avg_sq": parameter,
            }
    return expected


def _check_sizes(sizes: Mapping[str, int]) -> None:
    n_saes, n_witnesses = sizes["s"], sizes["w"]
    if sizes.get("n", n_saes + n_witnesses) != n_saes + n_witnesses:
        raise ValueError(
            f"it has {n_saes} SAEs and {n_witnesses} witnesses, but goes on to train "
            f"{sizes['n']}."
        )


def _with_parameters(parameters: dict[str, Any]) -> MFRSparseAutoencoder:
    """An estimator with parameters that it knows and takes."""
    sae = MFRSparseAutoencoder()
    if unknown := sorted(parameters.keys() - sae.get_params().keys()):
        raise ValueError(
            f"it has parameters that this skmfr does not know: {', '.join(unknown)}."
        )
    sae.set_params(**parameters)
    check_parameters(sae)
    return sae


def _set_attributes(
    sae: MFRSparseAutoencoder,
    attributes: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Make an estimator fitted."""
    from .._data.standardiser import Standardiser

    set_fitted(sae, {name: arrays[name] for name in FITTED})
    n_saes, _, n_features = sae.dictionaries_.shape
    sae.n_features_in_ = n_features
    sae.n_steps_ = len(sae.loss_curve_)
    sae.reference_sae_ = _number(attributes, "reference_sae_", int, 0, n_saes - 1)
    sae.agreement_null_ = _number(attributes, "agreement_null_", float, 0, 1)
    sae.n_iter_ = _number(attributes, "n_iter_", int, 0)
    sae._trained = {
        name.removeprefix("trained "): array
        for name, array in arrays.items()
        if name.startswith("trained ")
    }
    if sae._trained:
        sae._seed = _number(attributes, "seed", int, 0, 2**31 - 1)
        mean, deviation = (arrays[name] for name in STANDARDISER)
        scale = _number(attributes, "scale", float, ulp(0.0))
        sae._standardiser = Standardiser(mean, scale, deviation)
    if "feature_names_in_" in attributes:
        names = attributes["feature_names_in_"]
        if not _is_list_of_str(names) or len(names) != n_features:
            raise ValueError(f"feature_names_in_ are not {n_features} names.")
        sae.feature_names_in_ = np.array(names, dtype=object)
    if "set_output" in attributes:
        output = attributes["set_output"]
        if not isinstance(output, str):
            raise ValueError(f"set_output is {output!r}, expected a name.")
        sae.set_output(transform=output)


def _number(attributes: dict[str, Any], name: str, kind: type, low, high=inf):
    value = attributes.get(name)
    if type(value) is not kind or not low <= value <= high:
        raise ValueError(
            f"{name} is {value!r}, expected {kind.__name__} from {low} to {high}."
        )
    return value


def _is_list_of_str(value) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
