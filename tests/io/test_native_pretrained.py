"""SAEs of others in files of `save`: whole, or not at all."""

import json

import numpy as np
import pandas as pd
import pytest
from layouts import LAYOUTS, D
from test_native import assert_equal, parts, refused, saved_and_loaded, sealed

from skmfr import PretrainedSAE
from skmfr.io import load, save
from skmfr.io._opening import open_sae

stored = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "saved").mkdir()
    return tmp_path / "saved" / "sae.safetensors"


@pytest.fixture
def X():
    return np.random.default_rng(0).standard_normal((50, D)).astype(np.float32) + 1


def pretrained(folder, layout="jumprelu"):
    LAYOUTS[layout](folder, np.random.default_rng(1))
    return open_sae(folder)


@pytest.mark.parametrize("layout", ["jumprelu", "gated", "topk of different norms"])
def test_they_come_back_to_the_byte(tmp_path, path, X, layout):
    sae = pretrained(tmp_path, layout)
    assert type(sae) is PretrainedSAE
    sae.set_params(k=3, sparse_output=True, device="cpu")
    loaded = saved_and_loaded(sae, path)
    assert_equal(loaded, sae)
    assert loaded.transform(X).nnz > 0
    assert (loaded.transform(X) != sae.transform(X)).nnz == 0
    with pytest.raises(ValueError, match="read-only"):
        loaded.components_[0] = 0


def test_what_was_learned_of_them_since_comes_back(tmp_path, path, X):
    names = list("abcdefgh")
    sae = pretrained(tmp_path).set_output(transform="pandas")
    sae.fit(pd.DataFrame(X, columns=names))
    sae.feature_agreement_ = np.linspace(0, 1, 24, dtype=np.float32)
    sae.trusted_ = sae.feature_agreement_ > 0.5
    sae.reappearance_ = sae.feature_agreement_**2
    loaded = saved_and_loaded(sae, path)
    assert_equal(loaded, sae)
    assert loaded.feature_names_in_.tolist() == names
    assert loaded.transform(pd.DataFrame(X, columns=names)).shape == (50, 24)


def test_there_is_no_state_of_training_to_leave_out(tmp_path, path):
    sae = pretrained(tmp_path)
    save(sae, path, training_state=False)
    assert_equal(load(path), sae)


def test_damaged_files_are_refused_or_as_they_were(tmp_path, path, count_refused):
    save(pretrained(tmp_path), path)
    header = slice(0, 8 + int.from_bytes(path.read_bytes()[:8], "little"))
    assert count_refused(path, lambda: load(path), assert_equal, header, 200) > 0.85


@pytest.fixture
def opened(tmp_path, path):
    save(pretrained(tmp_path), path)
    content = path.read_bytes()
    return stored.load(content), json.loads(parts(content)[0]["__metadata__"]["skmfr"])


def test_files_of_earlier_builds_have_no_probabilities(path, opened):
    arrays, description = opened
    del arrays["reappearance_"]
    path.write_bytes(sealed(arrays, description))
    assert np.isnan(load(path).reappearance_).all()


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("parameters", "k", 0, "'k' parameter of PretrainedSAE"),
        ("parameters", "n_saes", 3, "does not know: n_saes"),
        ("attributes", "feature_names_in_", ["a"], "feature_names_in_ does not hold 8"),
        ("attributes", "set_output", 1, "set_output is 1"),
        (None, "estimator", "Pipeline", "estimator is 'Pipeline', expected MFRSparse"),
        (None, "estimator", [], r"estimator is \[\], expected"),
        (None, "estimator", "MFRSparseAutoencoder", "it lacks dictionaries_"),
    ],
)
def test_impossible_values_are_refused(path, opened, part, name, value, message):
    arrays, description = opened
    (description if part is None else description[part])[name] = value
    refused(path, sealed(arrays, description), message)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("threshold_", np.zeros(23, np.float32), r"threshold_ is F32 of shape \(23\)"),
        ("components_", np.zeros((24, 9), np.float32), r"shape \(24, 9\)"),
        ("trusted_", np.zeros(24), "trusted_ is F64"),
        ("loss_curve_", np.zeros(3), "unexpected arrays: loss_curve_"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(path, opened, name, array, message):
    arrays, description = opened
    refused(path, sealed(arrays | {name: array}, description), message)
