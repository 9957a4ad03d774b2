"""Parameters that count after `fit`, set to what they cannot be, and arrays."""

from copy import deepcopy
from numbers import Integral

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import zarr
from scipy import sparse
from sklearn import config_context
from sklearn.utils._param_validation import InvalidParameterError

from skmfr import MFRSparseAutoencoder
from skmfr._sae.arrays import coder_of
from skmfr._utils.checks import float_dtypes
from skmfr.agreement import feature_agreement, mmcs
from skmfr.datasets import make_superposition
from skmfr.metrics import fvu

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = np.random.default_rng(0).standard_normal((60, 6))


@pytest.fixture(scope="module")
def fitted():
    return MFRSparseAutoencoder(12, k=2, max_steps=3, random_state=0).fit(X)


@pytest.fixture
def sae(fitted):
    return deepcopy(fitted)


WRONG = [
    ("k", 0, "an int in the range"),
    ("k", -3, "an int in the range"),
    ("k", 2.5, "an int in the range"),
    ("k", True, "an int in the range"),
    ("transform_algorithm", "OMP", "a str among"),
    ("device", "banana", "'auto' or a device of PyTorch"),
    ("device", "meta", "'auto' or a device of PyTorch"),
    ("device", 0, "'auto' or a device of PyTorch"),
]
METHODS = {
    "transform": lambda sae: sae.transform(X),
    "reconstruct": lambda sae: sae.reconstruct(X),
    "score": lambda sae: sae.score(X),
    "partial_fit": lambda sae: sae.partial_fit(X),
    "coder": lambda sae: coder_of(sae, torch.from_numpy(X)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_what_is_set_after_fit_is_validated(sae, method, name, value, expected):
    METHODS[method](sae)  # so that there is a coder
    sae.set_params(**{name: value})
    message = f"The '{name}' parameter of MFRSparseAutoencoder must be {expected}"
    with pytest.raises(InvalidParameterError, match=message):
        METHODS[method](sae)


@pytest.mark.parametrize("method", ["transform", "partial_fit"])
def test_sparse_output_is_a_boolean(sae, method):
    sae.set_params(sparse_output="yes")
    with pytest.raises(InvalidParameterError, match="'sparse_output' parameter"):
        METHODS[method](sae)


def test_trusted_only_is_a_boolean(sae):
    with pytest.raises(InvalidParameterError, match="'trusted_only' parameter"):
        sae.reconstruct(X, trusted_only="yes")
    sae.reconstruct(X, trusted_only=np.True_)


def test_validation_can_be_skipped_as_in_scikit_learn(sae):
    with config_context(skip_parameter_validation=True):
        assert sparse.issparse(sae.set_params(sparse_output="yes").transform(X))


NUMBERS = [
    name
    for name, constraints in MFRSparseAutoencoder._parameter_constraints.items()
    if getattr(constraints[0], "type", None) is Integral
    or name in ("alpha", "tol", "learning_rate")
]


@pytest.mark.parametrize("name", NUMBERS)
def test_true_is_no_number(name):
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter .*Got True"):
        MFRSparseAutoencoder(**{name: True}).fit(X)


def test_true_is_no_number_for_functions_either():
    with pytest.raises(InvalidParameterError, match="n_samples"):
        make_superposition(True)


def test_devices_of_pytorch_are_devices(sae):
    expected = sae.transform(X)
    sae.set_params(device=torch.device("cpu"))
    np.testing.assert_array_equal(sae.transform(X), expected)
    np.testing.assert_array_equal(
        sae.fit(X).components_, sae.set_params(device="cpu").fit(X).components_
    )


HALF = X.astype(np.float16)
HOLDERS = {
    "array": lambda half, folder: half,
    "in the order of Fortran": lambda half, folder: np.asfortranarray(half),
    "array of big-endians": lambda half, folder: half.astype(">f2"),
    "list of rows": lambda half, folder: list(half),
    "lists of numbers": lambda half, folder: [list(row) for row in half],
    "data frame": lambda half, folder: pd.DataFrame(half),
    "tensor": lambda half, folder: torch.from_numpy(half),
    "list of shards": lambda half, folder: [half[:20], half[20:]],
    "file": lambda half, folder: as_file(half, folder),
    "list of a file": lambda half, folder: [as_file(half, folder).filename],
    "zarr": lambda half, folder: zarr.array(half, chunks=(100, 6)),
}


def as_file(array, folder):
    np.save(folder / "half.npy", array)
    return np.load(folder / "half.npy", mmap_mode="r")


@pytest.fixture(scope="module")
def of_single():
    return MFRSparseAutoencoder(12, k=2, max_steps=3, random_state=0).fit(
        HALF.astype(np.float32)
    )


@pytest.mark.parametrize("holder", HOLDERS)
def test_float16_becomes_float32_whatever_holds_it(of_single, holder, tmp_path):
    half = HOLDERS[holder](HALF, tmp_path)
    sae = MFRSparseAutoencoder(12, k=2, max_steps=3, random_state=0).fit(half)
    single = HALF.astype(np.float32)
    for found, expected in [
        (sae.components_, of_single.components_),
        (sae.transform(half), of_single.transform(single)),
        (sae.reconstruct(half), of_single.reconstruct(single)),
    ]:
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert sae.score(half) == of_single.score(single)


SINGLES = {
    "polars": lambda single: pl.from_numpy(single),
    "pandas": lambda single: pd.DataFrame(single),
    "pandas that allows gaps": lambda single: pd.DataFrame(single).astype("Float32"),
    "pandas on Arrow": lambda single: pd.DataFrame(single).astype("float[pyarrow]"),
    "array of big-endians": lambda single: single.astype(">f4"),
}


@pytest.mark.parametrize("holder", SINGLES)
def test_float32_stays_whatever_holds_it(of_single, holder):
    single = HALF.astype(np.float32)
    held = SINGLES[holder](single)
    found = of_single.transform(held)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, of_single.transform(single))


def test_codes_and_dictionaries_in_float16_become_float32(of_single):
    codes = of_single.transform(HALF).astype(np.float16)
    single = codes.astype(np.float32)
    decoded = of_single.inverse_transform(codes)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, of_single.inverse_transform(single))
    atoms = of_single.dictionaries_[:2].astype(np.float16)
    single_atoms = atoms.astype(np.float32)
    agreement = feature_agreement(atoms[0], [atoms[1]])
    assert agreement.dtype == np.float32
    np.testing.assert_array_equal(
        agreement, feature_agreement(single_atoms[0], [single_atoms[1]])
    )
    assert mmcs(*atoms) == mmcs(*single_atoms)
    # Whose squares are more than float16 can hold.
    large = 1000 * HALF
    assert fvu(large, large / 2) == fvu(*np.float32([large, large / 2]))


def test_less_than_float64_among_rows_is_no_reason_to_round():
    mixed = [HALF[0], X[1]]
    assert float_dtypes(mixed)[0] == np.float64
    assert float_dtypes(X)[0] == float_dtypes([[1, 2]])[0] == np.float64
