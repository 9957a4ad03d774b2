"""Parameters that count after `fit`, set to what they cannot be, and arrays."""

from copy import deepcopy
from numbers import Integral

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.utils._param_validation import InvalidParameterError

from skmfr import MFRSparseAutoencoder
from skmfr._sae.arrays import coder_of
from skmfr.datasets import make_superposition

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
