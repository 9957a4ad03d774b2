"""What fitted estimators keep: plain arrays, each once, all of those in the table."""

import pickle
from copy import copy

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr._training.results import FIELDS_BESIDE
from skmfr._training.state import FIELDS, layouts

X = np.random.default_rng(0).standard_normal((600, 64)).astype(np.float32)


def fitted(**parameters):
    usual = {"n_components": 256, "k": 4, "max_steps": 30, "random_state": 0}
    return MFRSparseAutoencoder(**(usual | parameters)).fit(X)


def size_of_saes(sae):
    """Bytes of all dictionaries and all encoders."""
    n_bytes = sae.dictionaries_.nbytes + sae.witness_dictionaries_.nbytes
    return n_bytes if sae.tied else n_bytes + sae._training["encoder"].nbytes


@pytest.mark.parametrize("tied", [False, True])
def test_pickle_of_a_fresh_fit_is_hardly_larger_than_its_saes(tied):
    sae = fitted(tied=tied)
    assert len(pickle.dumps(sae)) <= 1.3 * size_of_saes(sae)


@pytest.mark.parametrize("warm_start", [False, True])
def test_pickle_with_moments_has_three_numbers_for_a_weight(warm_start):
    sae = fitted(warm_start=warm_start)
    if not warm_start:
        sae.partial_fit(X)
    assert len(pickle.dumps(sae)) <= 3.3 * size_of_saes(sae)


@pytest.mark.parametrize("tied", [False, True])
def test_fitted_state_is_plain_arrays_and_python(tied):
    sae = fitted(tied=tied, warm_start=True)
    plain = (np.ndarray, np.generic, int, float, str, list, type(None))
    for value in vars(sae).values():
        for each in value.values() if isinstance(value, dict) else [value]:
            assert isinstance(each, plain)


def kind_and_axes(array):
    kind = {"b": "bool", "i": "int", "f": "float"}[array.dtype.kind]
    return kind, array.ndim


@pytest.mark.parametrize("tied", [False, True])
def test_table_of_fields_is_all_that_there_is(tied):
    found = fitted(tied=tied, warm_start=True)._training
    expected = layouts(found) | FIELDS_BESIDE
    # The dictionaries are public attributes.
    assert found.keys() == expected.keys() - {"decoder"}
    assert set(FIELDS) - found.keys() == {"decoder"} | ({"encoder"} if tied else set())
    for name, array in found.items():
        kind, *axes = expected[name].split()
        assert kind_and_axes(array) == (kind, len(axes)), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [lambda sae: pickle.loads(pickle.dumps(sae)), copy])
def test_arrays_that_are_left_out_come_back(make, dtype):
    sae = MFRSparseAutoencoder(16, max_steps=5, random_state=0).fit(X.astype(dtype))
    other = make(sae)
    assert vars(other).keys() == vars(sae).keys()
    for name in ("components_", "encoder_weights_", "dictionaries_"):
        one, same = getattr(sae, name), getattr(other, name)
        assert one.dtype == same.dtype == dtype
        np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(other.transform(X), sae.transform(X))


def test_weights_that_a_user_assigns_are_pickled():
    sae = fitted(max_steps=5)
    sae.components_ = sae.components_[::-1].copy()
    sae.encoder_weights_ = 2 * sae.encoder_weights_
    other = pickle.loads(pickle.dumps(sae))
    np.testing.assert_array_equal(other.components_, sae.components_)
    np.testing.assert_array_equal(other.encoder_weights_, sae.encoder_weights_)


def test_weights_share_memory_with_what_training_goes_on_from():
    sae = fitted(max_steps=5)
    assert np.shares_memory(sae.components_, sae.dictionaries_)
    assert np.shares_memory(sae.encoder_weights_, sae._training["encoder"])


@pytest.mark.parametrize("read", [False, True])
def test_pickle_after_partial_fit_holds_decoders_once(read):
    sae = fitted(max_steps=3).partial_fit(X)
    if read:
        assert sae.trusted_.shape == (256,)
    assert len(pickle.dumps(sae)) <= 3.3 * size_of_saes(sae)


def test_estimator_that_is_not_fitted_is_pickled():
    sae = pickle.loads(pickle.dumps(MFRSparseAutoencoder(7)))
    assert sae.n_components == 7
    assert not hasattr(sae, "components_")
