"""Rows that would outweigh all others: found, drawn in, told of, remembered."""

import pickle
import warnings

import numpy as np
import pytest
import torch
import zarr
from sklearn.base import clone
from sklearn.datasets import load_digits

from skmfr import MFRSparseAutoencoder
from skmfr._data.moments import Moments
from skmfr._data.standardiser import Standardiser
from skmfr._training.fit import split


def small(**parameters):
    defaults = {"n_components": 32, "k": 4, "max_steps": 60, "random_state": 0}
    defaults["n_witnesses"] = 1
    return MFRSparseAutoencoder(**(defaults | parameters))


def activations(n=1000, period=64):
    """Digits, and on first tokens something huge that is nearly always the same."""
    data, first = load_digits().data[:n].copy(), np.arange(n) % period == 0
    huge = np.eye(64)[0] + np.random.default_rng(0).standard_normal((n, 64)) / 500
    data[first] = 130 * np.median(np.linalg.norm(data, axis=1)) * huge[first]
    return data, first


@pytest.fixture(scope="module")
def beside_outliers():
    """Fitted to all rows, and to those that are no outliers."""
    data, first = activations()
    sae = small(n_components=64, max_steps=100, n_saes=1, n_witnesses=0, batch_size=256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return clone(sae).fit(data), clone(sae).fit(data[~first])


@pytest.mark.filterwarnings("ignore:.*of its variance")
def test_fvu_of_both_kinds_is_of_codes_by_threshold():
    data, first = activations()
    sae = small(activation="batchtopk", n_saes=1, n_witnesses=0).fit(data)
    assert sae.inlier_fvu_ == pytest.approx(1 - sae.score(data[~first]), rel=1e-4)
    assert sae.outlier_fvu_ == pytest.approx(1 - sae.score(data[first]), rel=1e-4)


def test_outliers_do_not_keep_the_others_from_being_described(beside_outliers):
    (sae, without), (data, first) = beside_outliers, activations()
    others = data[~first]
    fvu = [1 - each.score(others) for each in (sae, without)]
    assert fvu[0] < 1.1 * fvu[1]
    used = [(each.transform(others) != 0).any(0).mean() for each in (sae, without)]
    assert used[0] > 0.8 * used[1]
    # And they are described themselves, whose score counts them in full.
    assert sae.score(data) > 0.99


def test_fvu_of_outliers_and_of_the_others_are_kept(beside_outliers):
    (sae, without), (data, first) = beside_outliers, activations()
    assert sae.n_outliers_ == first.sum()
    assert type(sae.n_outliers_) is int
    assert sae.inlier_fvu_ == pytest.approx(1 - sae.score(data[~first]), rel=1e-4)
    assert sae.outlier_fvu_ == pytest.approx(1 - sae.score(data[first]), rel=1e-4)
    assert without.n_outliers_ == 0
    assert without.inlier_fvu_ is without.outlier_fvu_ is None


@pytest.mark.filterwarnings("ignore:.*of its variance")
def test_fvu_is_of_rows_at_all_places_of_a_text():
    """A stride by the length of a text would take one place of all of them."""
    draw = np.random.default_rng(0)
    n_texts, length = 1024, 128
    shape = n_texts, length, 8
    data = draw.standard_normal((*shape[:2], 1)) * np.eye(8)[0]
    data = data + 0.05 * draw.standard_normal(shape)
    # Second tokens are like no others, and first ones huge.
    data[:, 1] = draw.standard_normal((n_texts, 8))
    data[:, 0] = 500 + draw.standard_normal((n_texts, 8))
    data = data.reshape(-1, 8).astype(np.float32)
    sae = small(n_components=8, k=1, max_steps=30, n_saes=1, n_witnesses=0).fit(data)
    others = 1 - sae.score(data, sample_weight=np.arange(len(data)) % length > 0)
    # A draw of 4,096 rows has 32 second tokens, give or take 6.
    assert sae.inlier_fvu_ == pytest.approx(others, rel=0.5)
    assert sae.inlier_fvu_ < 0.3


@pytest.mark.filterwarnings("ignore:.*of its variance")
@pytest.mark.parametrize("way", ["mapped", "shards", "zarr"])
def test_outliers_are_the_same_wherever_data_are(way, tmp_path):
    data, first = activations()
    fit = small(max_steps=3).fit
    if way == "zarr":
        given = zarr.array(data, chunks=(300, 64))
    else:
        np.save(tmp_path / "X.npy", data)
        given = np.load(tmp_path / "X.npy", mmap_mode="r")
        if way == "shards":
            given = [data[:700], data[700:]]
    sae, expected = fit(given), fit(data)
    assert sae.n_outliers_ == first.sum()
    if way != "zarr":  # whose batches are others
        assert np.array_equal(sae.dictionaries_, expected.dictionaries_)
    np.testing.assert_allclose(
        sae._training["variance"], data[~first].var(0), atol=1e-12
    )


@pytest.mark.filterwarnings("ignore:.*of its variance")
def test_calls_of_partial_fit_remember_what_outliers_are():
    data, first = activations()
    sae = small(max_steps=3)
    # Of the last call all rows are outliers.
    calls = [slice(0, 500), slice(500, 640), slice(640, 641), slice(641, 700)]
    for call in calls:
        sae.partial_fit(data[call])
    assert sae.n_outliers_ == first[:700].sum()
    others = data[:700][~first[:700]]
    assert float(sae._training["n_rows"]) == len(others)
    np.testing.assert_allclose(sae._training["mean"], others.mean(0))
    np.testing.assert_allclose(sae._training["variance"], others.var(0), atol=1e-12)
    loaded = pickle.loads(pickle.dumps(sae)).partial_fit(data[700:])
    sae.partial_fit(data[700:])
    np.testing.assert_array_equal(loaded.dictionaries_, sae.dictionaries_)


def test_the_call_with_the_first_outliers_warns():
    data, first = activations()
    sae = small(max_steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae.partial_fit(data[~first][:500])
    with pytest.warns(UserWarning, match="of its variance"):
        sae.partial_fit(data[:500])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae.partial_fit(data[500:])


@pytest.mark.filterwarnings("ignore:.*of its variance")
def test_held_out_outliers_do_not_decide_when_to_stop():
    data, first = activations()
    sae = small(max_steps=60, early_stopping=True).fit(data)
    held_out = set(split(data, 0.1, int(sae._training["seed"]))[1].tolist())
    assert held_out & set(np.flatnonzero(first).tolist())
    assert sae.n_outliers_ == first.sum() - len(
        held_out & set(np.flatnonzero(first).tolist())
    )


def test_longer_rows_are_drawn_in_toward_the_centre():
    rng = np.random.default_rng(0)
    others = rng.standard_normal((500, 9)) + 7
    standardiser = Standardiser.from_moments(
        Moments.of([others]), others.dtype, bounded=True
    )
    centre, scale = others.mean(0), np.sqrt(others.var(0).mean())
    far = centre + np.array([[100.0], [0.5]]) * np.eye(9)[:2]
    found = standardiser(far.copy(), "cpu", torch.float64).numpy()
    # Three times the root mean square distance, which is 3 of 9 features.
    np.testing.assert_allclose(found[0], 3 * 3 * np.eye(9)[0], atol=1e-12)
    np.testing.assert_allclose(found[1], 0.5 / scale * np.eye(9)[1], atol=1e-12)
    same = standardiser(centre[None].copy(), "cpu", torch.float64)
    np.testing.assert_allclose(same, 0, atol=1e-14)


def test_rows_whose_squares_overflow_are_drawn_in_too():
    X = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    standardiser = Standardiser.from_moments(Moments.of([X]), X.dtype, bounded=True)
    far = np.full((1, 4), 1e30, np.float32)
    norm = standardiser(far, "cpu", torch.float32).norm()
    assert norm.item() == pytest.approx(3 * 2, rel=1e-6)
