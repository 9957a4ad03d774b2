"""Fitted denoisers in files: an archive of two safetensors files, without pickles."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from .._utils.checks import in_python
from .._utils.files import check_archive, replacing
from ..io import load, save
from ..io._native import with_known
from ..io._safetensors import check_arrays, naming, opened, write_arrays
from ._scales import contained
from ._unsupervised import as_signals

FORMAT_VERSION = 1
DENOISER, SAE = "denoiser.safetensors", "sae.safetensors"

# Arrays of a denoiser, see `check_arrays`: c channels, f frequencies, m principal
# components or codes, n features, w numbers in a window.
ALWAYS = {"mean_": "float c", "clean_mean_": "float c", "scale_": "float c"}
PCA_FITTED = {
    "components_": "float m w",
    "mean_": "float w",
    "explained_variance_": "float m",
    "explained_variance_ratio_": "float m",
    "singular_values_": "float m",
}
OF_FILTERS = {
    "filters_": "float f i m",
    "feature_mean_": "float n",
    "feature_scale_": "float n",
}
SPATIAL = {"spatial_filters_": "float f c c"}
# Arrays that files of earlier builds do not have.
REFERENCE = {"reference_weights_": "float c", "own_scale_": "float c"}
COVARIANCES = {"artifact_covariance_": "float c c", "clean_covariances_": "float f c c"}
# Fitted attributes that are not arrays.
PLAIN = ("ch_names_", "sfreq_", "recording_", "n_channels_", "n_times_", "hop_")
# Scalar attributes of a denoiser fitted with clean signals.
NUMBERS = ("penalty_", "least_correction_")


def save_denoiser(denoiser, path) -> None:
    """Write a fitted denoiser to one file."""
    check_is_fitted(denoiser)
    denoiser._validate_params()
    pca = getattr(denoiser, "pca_", None)
    of_pairs = OF_FILTERS | SPATIAL | COVARIANCES
    names = ALWAYS | (of_pairs if pca is None else REFERENCE)
    arrays = {
        name: getattr(denoiser, name) for name in names if hasattr(denoiser, name)
    }
    attributes = in_python({name: getattr(denoiser, name) for name in PLAIN})
    if pca is not None:
        arrays |= {f"pca {name}": getattr(pca, name) for name in PCA_FITTED}
        attributes["pca"] = [float(pca.noise_variance_), int(pca.n_samples_)]
    else:
        attributes |= {name: float(getattr(denoiser, name)) for name in NUMBERS}
    description = {
        "format_version": FORMAT_VERSION,
        "parameters": _parameters_of(denoiser),
        "attributes": attributes,
    }
    with TemporaryDirectory() as folder, replacing(Path(path)) as fresh:
        parts = [Path(folder) / name for name in (DENOISER, SAE)]
        write_arrays(parts[0], arrays, {"skmfr eeg": json.dumps(description)})
        save(denoiser.sae_, parts[1])
        with ZipFile(fresh, "w") as archive:
            for part in parts:
                archive.write(part, part.name)


def read_eeg_denoiser(path):
    """Read a denoiser that :meth:`EEGDenoiser.save` wrote.

    Nothing that is found in the file is executed, unlike with `pickle` and `joblib`.

    Parameters
    ----------
    path : path-like
        File to read.

    Returns
    -------
    EEGDenoiser
        As it was when it was saved. A `random_state` that was a generator is None, and
        `picks` are the names of the channels that were picked.

    Raises
    ------
    ValueError
        If the file is not one of :meth:`EEGDenoiser.save`, is of a later version of the
        format, or is not as it was written.
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package safetensors is not installed.

    See Also
    --------
    mne.preprocessing.read_ica : The same for independent components.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.eeg import EEGDenoiser, read_eeg_denoiser
    >>> X = np.random.default_rng(0).standard_normal((20, 2, 128))
    >>> sae = MFRSparseAutoencoder(n_components=8, max_steps=20, random_state=0)
    >>> denoiser = EEGDenoiser(window=0.5, sfreq=64, sae=sae).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     denoiser.save(Path(folder) / "subject-1.skmfr")
    ...     again = read_eeg_denoiser(Path(folder) / "subject-1.skmfr")
    >>> bool((again.transform(X) == denoiser.transform(X)).all())
    True
    """
    from ._denoiser import EEGDenoiser

    open(path, "rb").close()  # for the errors of the system, which name the path
    with naming(path), TemporaryDirectory() as folder:
        _unpack(Path(path), Path(folder))
        sae = load(Path(folder) / SAE)
        with opened(Path(folder) / DENOISER, "np") as file:
            description = _described(file.metadata() or {})
            attributes = description["attributes"]
            check_arrays(file, _expected(set(file.keys()), "pca" in attributes))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        denoiser = _with_parameters(EEGDenoiser(), description["parameters"], sae)
        _set_attributes(denoiser, attributes, arrays, sae)
    return denoiser


def _parameters_of(denoiser) -> dict[str, Any]:
    parameters = denoiser.get_params(deep=False)
    sae = parameters["sae"]
    parameters["sae"] = None if sae is None else {"sparse_output": sae.sparse_output}
    parameters["exclude"] = np.asarray(parameters["exclude"]).tolist()
    if parameters["picks"] is not None:
        parameters["picks"] = denoiser.ch_names_
    if parameters["ch_names"] is not None:
        parameters["ch_names"] = list(parameters["ch_names"])
    if isinstance(parameters["random_state"], np.random.RandomState):
        parameters["random_state"] = None
    return in_python(parameters)


def _unpack(path: Path, folder: Path) -> None:
    """Write the two files of an archive to a folder."""
    try:
        check_archive(path)
        with ZipFile(path) as archive:
            if sorted(archive.namelist()) != [DENOISER, SAE]:
                raise ValueError("it is not a file of EEGDenoiser.save.")
            archive.extractall(folder)
    except BadZipFile as error:
        raise ValueError(f"it is not a file of EEGDenoiser.save ({error}).") from error


def _described(metadata) -> dict[str, Any]:
    try:
        description = json.loads(metadata["skmfr eeg"])
        version = description["format_version"]
        parts = {"parameters", "attributes"} - description.keys()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("it is not a file of EEGDenoiser.save.") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"it is in version {version} of the format; this skmfr reads version "
            f"{FORMAT_VERSION}: update skmfr."
        )
    if parts:
        raise ValueError(f"it lacks {' and '.join(sorted(parts))} of the denoiser.")
    return description


def _expected(names: set[str], with_pca: bool) -> dict[str, str]:
    if with_pca:
        of_pca = {f"pca {name}": axes for name, axes in PCA_FITTED.items()}
        return ALWAYS | of_pca | (REFERENCE if names & set(REFERENCE) else {})
    spatial = SPATIAL if "spatial_filters_" in names else {}
    of_pairs = COVARIANCES if names & set(COVARIANCES) else {}
    return ALWAYS | OF_FILTERS | spatial | of_pairs


def _with_parameters(denoiser, parameters: dict[str, Any], sae):
    if missing := sorted(denoiser.get_params(deep=False).keys() - parameters.keys()):
        raise ValueError(f"it lacks parameters of the denoiser: {', '.join(missing)}.")
    if parameters["sae"] is not None:
        parameters = parameters | {"sae": clone(sae).set_params(**parameters["sae"])}
    parameters["exclude"] = parameters["exclude"] or ()
    with_known(denoiser, parameters)
    denoiser._validate_params()
    return denoiser


def _set_attributes(denoiser, attributes: dict, arrays: dict, sae) -> None:
    """Make a denoiser fitted."""
    numbers = () if "pca" in attributes else NUMBERS
    # Files of earlier builds correct all windows.
    attributes = {"least_correction_": 0.0} | attributes
    if missing := [name for name in (*PLAIN, *numbers) if name not in attributes]:
        raise ValueError(f"it lacks attributes of the denoiser: {', '.join(missing)}.")
    fitted = {name: attributes[name] for name in PLAIN}
    fitted |= {name: arrays[name] for name in arrays if not name.startswith("pca ")}
    fitted["sae_"] = sae.set_output(transform="default")
    n_channels, n_times = fitted["n_channels_"], fitted["n_times_"]
    fitted = contained(fitted["scale_"]) | fitted  # as atoms of earlier builds do
    sizes = n_channels, n_times, fitted["hop_"]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"its numbers of channels and samples are {sizes}.")
    if fitted["mean_"].shape != (n_channels,):
        raise ValueError(
            f"mean_ is of {len(fitted['mean_'])} channels of {n_channels}."
        )
    if "pca" in attributes:
        noise_variance, n_samples = attributes["pca"]
        pca = _pca(arrays, noise_variance, n_samples, denoiser.random_state)
        n_features = pca.n_components_
        if pca.n_features_in_ != n_channels * n_times:
            raise ValueError(f"its windows have {pca.n_features_in_} numbers.")
    else:
        n_features = len(fitted["feature_mean_"])
        fitted |= {name: float(attributes[name]) for name in numbers}
    if sae.n_features_in_ != n_features:
        raise ValueError(
            f"its SAE codes {sae.n_features_in_} features, its arrays {n_features}."
        )
    if "pca" in attributes:
        atoms = as_signals(sae.components_, pca, n_channels)
        fitted |= {"pca_": pca, "atoms_": atoms}
    vars(denoiser).update(fitted)


def _pca(arrays: dict, noise_variance: float, n_samples: int, random_state) -> PCA:
    n_dimensions, width = arrays["pca components_"].shape
    pca = PCA(n_dimensions, iterated_power=2, random_state=random_state)
    vars(pca).update(
        {name: arrays[f"pca {name}"] for name in PCA_FITTED},
        n_components_=n_dimensions,
        n_features_in_=width,
        n_samples_=n_samples,
        noise_variance_=noise_variance,
    )
    return pca.set_output(transform="default")
