"""The contract of the estimator: parameters, methods, fitted attributes."""

import os
import pickle
import re
import warnings
from copy import deepcopy
from math import ceil
from multiprocessing import Pipe

import dask.array
import distributed
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from forks import CONTEXT, workers_of_joblib
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.svm import SVC, LinearSVC

import skmfr._data.sources
import skmfr._training.fit
import skmfr._training.loop
from skmfr import MFRSparseAutoencoder
from skmfr._data.batches import Batches
from skmfr._data.sources import Chunked
from skmfr._sae.cosines import mean_nearest_cosine
from skmfr._sae.ensemble import Ensemble
from skmfr._sae.reappearance import reappearance_in_fit
from skmfr._training.fit import split
from skmfr._training.progress import DEAD_WINDOW, Watch
from skmfr._training.schedule import Plateau, Schedule
from skmfr._training.settings import n_steps_of
from skmfr._training.state import new_state
from skmfr._utils.devices import resolve_device
from skmfr.agreement import reappearance, trusted_atoms
from skmfr.io import load, save


def make_sparse_data(n_samples=600, n_features=16, n_atoms=24, k=3, seed=0):
    """Non-negative sparse combinations of random unit-norm features, and these."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n_atoms, n_features))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = rng.random((n_samples, n_atoms)) * (
        rng.random((n_samples, n_atoms)) < k / n_atoms
    )
    return codes @ features, features


def small(**parameters):
    defaults = {"n_components": 32, "k": 4, "max_steps": 60, "random_state": 0}
    defaults["n_witnesses"] = 1
    return MFRSparseAutoencoder(**(defaults | parameters))


X, FEATURES = make_sparse_data()


@pytest.fixture(scope="module")
def fitted():
    return small(n_witnesses=2).fit(X)


@pytest.fixture(scope="module")
def plain():
    return small().fit(X)


def same_state(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in (
            "dictionaries_",
            "encoder_weights_",
            "encoder_bias_",
            "loss_curve_",
        )
    )


# Fitted attributes


def test_fitted_attributes_have_the_promised_shapes(fitted):
    assert fitted.components_.shape == (32, 16)
    assert fitted.dictionaries_.shape == (3, 32, 16)
    assert fitted.witness_dictionaries_.shape == (2, 32, 16)
    assert fitted.encoder_weights_.shape == (32, 16)
    assert fitted.encoder_bias_.shape == (32,)
    assert fitted.decoder_bias_.shape == (16,)
    assert fitted.feature_agreement_.shape == (32,)
    assert fitted.mutual_agreement_.shape == (3, 32)
    assert fitted.trusted_.shape == (32,)
    assert fitted.trusted_.dtype == bool
    assert fitted.loss_curve_.shape == (fitted.n_steps_,) == (60,)
    assert fitted.n_reinits_.shape == (3,)
    assert fitted.n_features_in_ == 16
    # All batches of 600 samples are the data.
    assert fitted.n_iter_ == 60


def test_atoms_have_unit_norm_and_the_reference_is_one_of_the_saes(fitted):
    np.testing.assert_allclose(np.linalg.norm(fitted.dictionaries_, axis=2), 1.0)
    np.testing.assert_array_equal(
        fitted.components_, fitted.dictionaries_[fitted.reference_sae_]
    )


def test_feature_agreement_is_the_mean_best_cosine_over_the_witnesses(fitted):
    cosines = np.einsum("jd,wld->wjl", fitted.components_, fitted.witness_dictionaries_)
    np.testing.assert_allclose(fitted.feature_agreement_, cosines.max(2).mean(0))


def test_mutual_agreement_is_the_mean_best_cosine_over_the_other_saes(fitted):
    cosines = np.einsum(
        "ijd,old->iojl", fitted.dictionaries_, fitted.dictionaries_
    ).max(3)
    expected = [(cosines[i].sum(0) - cosines[i, i]) / 2 for i in range(3)]
    np.testing.assert_allclose(fitted.mutual_agreement_, expected)


def test_trusted_atoms_are_those_of_five_percent_that_do_not_return(fitted):
    np.testing.assert_array_equal(fitted.trusted_, trusted_atoms(fitted, fdr=0.05))
    probability, deviation = reappearance(fitted, tau=0.8)
    np.testing.assert_allclose(fitted.reappearance_, probability)
    lost = 1 - (probability - deviation)
    assert trusted_atoms(fitted, fdr=1.0).any()
    for rate in (0.1, 0.3, 0.6):
        chosen = trusted_atoms(fitted, fdr=rate)
        assert lost[chosen].sum() <= rate * chosen.sum()


def test_share_of_variance_along_atoms_is_that_of_the_covariance(fitted):
    covariance = np.cov(X.T)
    expected = np.einsum(
        "smd,de,sme->sm", fitted.dictionaries_, covariance, fitted.dictionaries_
    ) / np.trace(covariance)
    np.testing.assert_allclose(fitted._training["along"], expected, rtol=1e-4)
    # Of all rows so far, after further calls, of which each looks at 256 rows.
    sae = small(max_steps=1, learning_rate=1e-9)
    for part in np.array_split(X, 3):
        sae.partial_fit(part)
    expected = np.einsum(
        "smd,de,sme->sm", sae.dictionaries_, covariance, sae.dictionaries_
    ) / np.trace(covariance)
    np.testing.assert_allclose(sae._training["along"], expected, rtol=0.1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_share_of_variance_is_of_all_rows_also_if_they_are_in_order(shuffle):
    """The first part is isotropic, and the second varies in one direction."""
    rng = np.random.default_rng(0)
    along = np.eye(16)[3] * rng.standard_normal((3000, 1))
    ordered = np.concatenate([0.1 * rng.standard_normal((1500, 16)), along])
    sae = small(shuffle=shuffle, max_steps=1, learning_rate=1e-9).fit(ordered)
    covariance = np.cov(ordered.T)
    expected = np.einsum(
        "smd,de,sme->sm", sae.dictionaries_, covariance, sae.dictionaries_
    ) / np.trace(covariance)
    np.testing.assert_allclose(sae._training["along"], expected, rtol=0.2, atol=5e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_components", [64, 128])
def test_atoms_that_start_alike_are_not_trusted(n_components):
    """Few features have most of the variance, so that SAEs agree before they learn."""
    X = load_breast_cancer().data
    sae = small(n_components=n_components, k=4, n_saes=3, n_witnesses=2, max_steps=1)
    sae.set_params(learning_rate=1e-9).fit(X)
    assert sae.feature_agreement_.mean() > 0.9
    assert not sae.trusted_.any()


@pytest.mark.parametrize("missing", [{"n_witnesses": 0}, {"n_saes": 1}])
def test_too_few_saes_do_not_tell_what_returns(missing):
    sae = small(max_steps=3, **missing).fit(X)
    assert not sae.trusted_.any()
    with pytest.warns(UserWarning, match="needs a witness and three SAEs"):
        assert np.isnan(sae.reappearance_).all()


def test_pickles_of_earlier_builds_know_less_of_chance(fitted):
    sae = deepcopy(fitted)
    del sae._training["along"], sae.__dict__["reappearance_"]
    np.testing.assert_array_equal(sae.reappearance_, fitted.reappearance_)
    # Directions on the sphere have a lower level.
    assert trusted_atoms(sae).sum() >= fitted.trusted_.sum()


def test_without_witnesses_agreement_is_that_of_the_group():
    sae = small(n_witnesses=0).fit(X)
    np.testing.assert_array_equal(
        sae.feature_agreement_, sae.mutual_agreement_[sae.reference_sae_]
    )
    assert sae.witness_dictionaries_.shape == (0, 32, 16)


def test_one_sae_alone_is_trusted_in_nothing():
    sae = small(n_saes=1, n_witnesses=0).fit(X)
    assert np.isnan(sae.feature_agreement_).all()
    assert np.isnan(sae.mutual_agreement_).all()
    assert not sae.trusted_.any()
    assert sae.score(X) > 0.5


def test_features_of_the_data_are_found_and_told_apart_by_agreement():
    many, features = make_sparse_data(20_000)
    sae = small(n_components=48, n_saes=1, max_steps=400, batch_size=512, k=3)
    sae.fit(many)
    to_truth = (sae.components_ @ features.T).max(1)
    assert np.mean((features @ sae.components_.T).max(1) > 0.9) > 0.9
    # Half of the atoms are more than the data have: those must score lower.
    true = to_truth > 0.9
    assert true.any()
    assert (~true).any()
    higher = sae.feature_agreement_[true][:, None] > sae.feature_agreement_[~true]
    assert higher.mean() > 0.8


def test_defaults_of_size_follow_the_data():
    sae = MFRSparseAutoencoder(max_steps=2).fit(X)
    assert sae.components_.shape == (64, 16)
    # With the group they are three independent SAEs, as many as a calibration needs.
    assert sae.witness_dictionaries_.shape == (2, 64, 16)
    assert small(n_components=3, k=10).fit(X).transform(X).shape == (len(X), 3)


def test_tied_weights_encode_with_the_atoms():
    sae = small(tied=True).fit(X)
    np.testing.assert_array_equal(sae.encoder_weights_, sae.components_)


# Transform and back


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
def test_codes_are_sparse_and_reconstruct_as_scored(fitted, algorithm, positive):
    coding = {"transform_algorithm": algorithm, "positive_code": positive}
    sae = deepcopy(fitted).set_params(**coding)
    codes = sae.transform(X)
    reconstructed = sae.inverse_transform(codes)

    assert np.count_nonzero(codes, axis=1).max() <= sae.k
    assert (codes.min() >= 0) == (algorithm == "encoder" or positive)
    np.testing.assert_allclose(
        reconstructed, codes @ sae.components_ + sae.decoder_bias_, atol=1e-12
    )
    np.testing.assert_allclose(sae.reconstruct(X), reconstructed, atol=1e-12)
    score = sae.score(X)
    assert type(score) is float
    expected = r2_score(X, reconstructed, multioutput="variance_weighted")
    assert score == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("positive", [False, True])
def test_better_coding_of_one_dictionary_scores_better(fitted, positive):
    fitted.set_params(positive_code=positive)
    scores = [
        fitted.set_params(transform_algorithm=algorithm).score(X)
        for algorithm in ("encoder", "lstsq", "omp")
    ]
    fitted.set_params(transform_algorithm="encoder", positive_code=False)
    assert scores == sorted(scores)
    assert scores[0] < scores[2]


@pytest.mark.parametrize("unit", [1e-320, 1e-300, 1e308])
def test_weights_of_samples_have_no_unit(fitted, unit):
    halves = np.arange(len(X)) % 2
    expected = fitted.score(X[1::2])
    assert fitted.score(X, sample_weight=unit * halves) == pytest.approx(expected)


@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
def test_score_weighs_samples_as_r2_does(fitted, algorithm):
    weights = np.random.default_rng(0).integers(0, 3, len(X))
    fitted.set_params(transform_algorithm=algorithm)
    score, repeated = fitted.score(X, sample_weight=weights), X.repeat(weights, axis=0)
    expected = r2_score(
        X, fitted.reconstruct(X), sample_weight=weights, multioutput="variance_weighted"
    )
    assert score == pytest.approx(expected, rel=1e-10)
    assert score == pytest.approx(fitted.score(repeated), rel=1e-10)
    fitted.set_params(transform_algorithm="encoder")


@pytest.mark.parametrize(("distance", "weight"), [(1e8, 0), (1e200, 0), (1e8, 1e-30)])
def test_far_samples_of_little_weight_do_not_cost_precision(fitted, distance, weight):
    far = np.full((len(X) + 1, X.shape[1]), distance)
    weights = np.repeat([weight, 1.0], [len(far), len(X)])
    found = fitted.score(np.concatenate([far, X]), sample_weight=weights)
    assert found == pytest.approx(fitted.score(X), rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (np.ones(3), r"shape \(\d+,\), got \(3,\)"),
        (
            -np.ones(len(X)),
            "negative and must not be 0 for all samples, got values from -1",
        ),
        (np.zeros(len(X)), "got values from 0 to 0"),
        (np.full(len(X), np.nan), "sample_weight contains NaN"),
    ],
)
def test_weights_of_samples_that_are_none_are_named(fitted, weights, told):
    with pytest.raises(ValueError, match=told):
        fitted.score(X, sample_weight=weights)


def test_score_on_data_with_constant_features_is_r2():
    digits = load_digits().data
    sae = MFRSparseAutoencoder(80, n_witnesses=0, max_steps=30, random_state=0)
    sae.fit(digits)
    expected = r2_score(
        digits, sae.reconstruct(digits), multioutput="variance_weighted"
    )
    assert sae.score(digits) == pytest.approx(expected, rel=1e-10)


def test_fit_transform_is_fit_and_transform(fitted):
    np.testing.assert_array_equal(clone(fitted).fit_transform(X), fitted.transform(X))


def test_sparse_output_has_the_same_codes_with_int32_indices(fitted):
    dense = fitted.transform(X)
    codes = clone(fitted).set_params(sparse_output=True).fit(X).transform(X)
    assert sparse.issparse(codes)
    assert codes.format == "csr"
    assert codes.indices.dtype == codes.indptr.dtype == np.int32
    assert codes.has_sorted_indices
    assert codes.nnz == np.count_nonzero(dense)
    np.testing.assert_array_equal(codes.toarray(), dense)
    y = X[:, 0] > 0
    for classifier in (LinearSVC(), SVC()):
        classifier.fit(codes, y)


def test_inverse_transform_takes_dense_csr_and_dataframe_codes(fitted):
    codes = fitted.transform(X)
    expected = fitted.inverse_transform(codes)
    for other in (
        sparse.csr_matrix(codes),
        sparse.csr_array(codes),
        pd.DataFrame(codes, columns=fitted.get_feature_names_out()),
    ):
        np.testing.assert_allclose(fitted.inverse_transform(other), expected)


def test_codes_that_are_not_finite_are_named(fitted):
    with pytest.raises(ValueError, match="Input X contains NaN"):
        fitted.inverse_transform(np.full((1, fitted.n_components), np.nan))


def test_untrusted_atoms_are_left_out_of_a_trusted_reconstruction(fitted):
    sae = deepcopy(fitted)
    sae.trusted_ = np.arange(32) % 3 == 0
    np.testing.assert_allclose(
        sae.reconstruct(X, trusted_only=True),
        sae.inverse_transform(sae.transform(X) * sae.trusted_),
        atol=1e-12,
    )


@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(fitted, algorithm, dtype):
    sae = clone(fitted).set_params(transform_algorithm=algorithm, max_steps=5)
    data = X.astype(dtype)
    sae.fit(data)
    assert sae.components_.dtype == dtype
    assert sae.transform(data).dtype == dtype
    assert sae.reconstruct(data).dtype == dtype
    assert sae.inverse_transform(sae.transform(data)).dtype == dtype


def test_names_and_containers_of_scikit_learn(fitted):
    names = fitted.get_feature_names_out()
    assert list(names[:2]) == ["mfrsparseautoencoder0", "mfrsparseautoencoder1"]
    frame = clone(fitted).set_output(transform="pandas").fit(X).transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(names)


def test_units_of_the_data_go_to_codes_and_biases_only(plain):
    scaled = small().fit(X * 1024.0)
    # A power of two: the same bits but for the exponent.
    np.testing.assert_array_equal(scaled.components_, plain.components_)
    np.testing.assert_allclose(
        scaled.transform(X * 1024.0), plain.transform(X) * 1024.0, rtol=1e-9
    )


@pytest.mark.parametrize("positive", [False, True])
def test_a_fit_for_matching_pursuit_finishes_the_dictionary_for_it(positive):
    parameters = {"n_saes": 1, "n_witnesses": 0, "max_steps": 200}
    parameters["positive_code"] = positive
    plain = small(**parameters).fit(X).set_params(transform_algorithm="omp")
    pursued = small(transform_algorithm="omp", **parameters).fit(X)
    assert 1 - pursued.score(X) < 0.95 * (1 - plain.score(X))
    # Until the last fifth of the steps it is the same fit.
    np.testing.assert_array_equal(pursued.loss_curve_[:160], plain.loss_curve_[:160])
    assert (pursued.loss_curve_[160:] < plain.loss_curve_[160:]).all()


# Randomness


@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
def test_narrow_numbers_are_taken_for_pythons(tmp_path, algorithm):
    parameters = {
        "n_components": 140, "k": 130, "batch_size": 200, "max_steps": 130,
        "max_iter": 130, "n_saes": 2, "n_witnesses": 2, "reinit_every": 129,
        "n_iter_no_change": 200, "checkpoint_every": 129,
    }  # fmt: skip
    narrow = {name: np.uint8(value) for name, value in parameters.items()}
    halves = {"validation_fraction": 0.25, "tol": 0.5, "alpha": 0.5}
    narrow |= {name: np.float16(value) for name, value in halves.items()}
    one, other = (
        small(
            **each,
            transform_algorithm=algorithm,
            early_stopping=True,
            checkpoint_dir=tmp_path / kind,
        ).fit(X)
        for kind, each in [("Python", parameters | halves), ("NumPy", narrow)]
    )
    assert same_state(one, other)
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    names = [{path.name for path in each.iterdir()} for each in tmp_path.iterdir()]
    assert names[0] == names[1]
    assert one.partial_fit(X).score(X) == other.partial_fit(X).score(X)


def test_same_seed_same_bytes(plain):
    assert same_state(small().fit(X), plain)
    assert not same_state(small(random_state=1).fit(X), plain)


def test_an_sae_is_the_same_alone_in_a_group_and_beside_witnesses():
    parameters = {"alpha": 0.0, "precision": "float64"}
    alone = small(n_saes=1, n_witnesses=0, **parameters).fit(X)
    group = small(n_saes=3, n_witnesses=2, **parameters).fit(X)
    np.testing.assert_allclose(
        group.dictionaries_[0], alone.dictionaries_[0], rtol=1e-9, atol=1e-12
    )


def test_witnesses_do_not_know_of_the_penalty():
    without, with_penalty = small(alpha=0.0).fit(X), small(alpha=1.0).fit(X)
    np.testing.assert_array_equal(
        without.witness_dictionaries_, with_penalty.witness_dictionaries_
    )
    assert with_penalty.mutual_agreement_.mean() > without.mutual_agreement_.mean()


DISJOINT = {"n_witnesses": 2, "witness_rows": "disjoint", "batch_size": 100}


@pytest.fixture(scope="module")
def apart():
    return small(**DISJOINT).fit(X)


def test_witnesses_with_rows_of_their_own_leave_the_group_as_it_is(apart):
    same = small(**DISJOINT | {"witness_rows": "same"}).fit(X)
    np.testing.assert_array_equal(apart.dictionaries_, same.dictionaries_)
    difference = apart.witness_dictionaries_ - same.witness_dictionaries_
    assert (np.abs(difference).max((1, 2)) > 0.01).all()


def test_atoms_return_by_ranks_where_witnesses_have_rows_of_their_own(apart):
    dictionaries = apart.dictionaries_, apart.witness_dictionaries_
    by_ranks, by_cosines = (
        reappearance_in_fit(apart.reference_sae_, *dictionaries, 0.8, disjoint)[0]
        for disjoint in (True, False)
    )
    assert np.abs(by_ranks - by_cosines).max() > 0.01
    np.testing.assert_allclose(reappearance(apart)[0], by_ranks)
    np.testing.assert_allclose(apart.reappearance_, by_ranks)


def test_no_row_is_ever_seen_by_two_witnesses(monkeypatch):
    seen = [set(), set()]
    step = skmfr._training.loop.take_step

    def spied(state, X, stage, room, low_precision, workers, shares):
        for rows, share in zip(seen, shares, strict=True):
            rows.update(map(tuple, X[share.rows].tolist()))
        step(state, X, stage, room, low_precision, workers, shares)

    monkeypatch.setattr(skmfr._training.loop, "take_step", spied)
    sae = small(**DISJOINT, max_iter=2).fit(X)
    sae.partial_fit(X[::-1].copy())
    first, second = seen
    distinct = len(np.unique(X, axis=0))
    assert not first & second
    # In another scale in the second call, or not.
    assert len(first) + len(second) in (distinct, 2 * distinct)
    assert abs(len(first) - len(second)) < 0.2 * len(first)


def test_fits_with_disjoint_rows_are_the_same_from_disk_and_when_resumed(
    apart, tmp_path
):
    np.save(tmp_path / "X.npy", X)

    def stop(step, info):
        if step == 31:
            raise KeyboardInterrupt

    mapped = [tmp_path / "X.npy"]
    again = {"checkpoint_dir": tmp_path, "checkpoint_every": 10}
    with pytest.warns(ConvergenceWarning), pytest.raises(KeyboardInterrupt):
        small(**DISJOINT, **again, callback=stop).fit(mapped)
    sae = small(**DISJOINT, **again).fit(mapped)
    for name in ("dictionaries_", "witness_dictionaries_", "loss_curve_"):
        assert getattr(sae, name).tobytes() == getattr(apart, name).tobytes()


@pytest.mark.parametrize("size", [1, 7])
def test_disjoint_rows_may_come_few_at_a_time(size):
    sae = small(**DISJOINT)
    for start in range(0, 5 * size, size):
        sae.partial_fit(X[start : start + size])
    assert np.isfinite(sae.feature_agreement_).all()
    small(**(DISJOINT | {"batch_size": 2}), early_stopping=True).fit(X[:20])


def test_one_witness_has_all_rows():
    one = small(witness_rows="disjoint", max_steps=3).fit(X)
    same = small(max_steps=3).fit(X)
    np.testing.assert_array_equal(one.witness_dictionaries_, same.witness_dictionaries_)


@pytest.mark.parametrize("n_rows", [50 * 24 - 1, 50 * 24])
def test_few_rows_for_each_atom_are_disjoint_by_default(n_rows):
    rows = np.resize(X, (n_rows, X.shape[1]))
    usual = {"n_components": 24, "n_witnesses": 2, "max_steps": 3}
    sae = small(**usual).fit(rows)
    assert sae.witness_rows_ == ("same" if n_rows == 1200 else "disjoint")
    chosen = small(**usual, witness_rows=sae.witness_rows_).fit(rows)
    np.testing.assert_array_equal(
        sae.witness_dictionaries_, chosen.witness_dictionaries_
    )
    # What was chosen stays, whatever comes.
    sae.partial_fit(np.resize(X, (2000, X.shape[1])))
    assert sae.witness_rows_ == chosen.witness_rows_
    # More rows may follow the first.
    assert small(**usual).partial_fit(rows).witness_rows_ == "same"
    assert small(**usual | {"n_witnesses": 1}).fit(rows).witness_rows_ == "same"


def test_rows_that_a_witness_has_seen_cannot_be_unseen(apart):
    sae = deepcopy(apart).set_params(warm_start=True, witness_rows="same")
    with pytest.raises(ValueError, match="witness_rows=same, but the fit to continue"):
        sae.fit(X)
    sae.set_params(witness_rows="disjoint", max_steps=2).fit(X)
    assert sae.n_steps_ == 62


def test_no_seed_draws_from_numpys_global_generator():
    np.random.seed(3)
    one = small(max_steps=3, random_state=None).fit(X)
    other = small(max_steps=3, random_state=None).fit(X)
    assert not same_state(one, other)
    np.random.seed(3)
    assert same_state(one, small(max_steps=3, random_state=None).fit(X))


def test_how_data_lie_in_memory_changes_no_byte(fitted):
    for data in (
        np.asfortranarray(X),
        np.repeat(X, 2, axis=0)[::2],
        X[:, ::-1].copy()[:, ::-1],
    ):
        assert same_state(small(max_steps=5).fit(data), small(max_steps=5).fit(X))
        np.testing.assert_array_equal(fitted.transform(data), fitted.transform(X))


def test_data_are_not_modified():
    data = np.asfortranarray(X)
    data.setflags(write=False)
    copy = data.copy()
    sae = small(max_steps=5).fit(data)
    sae.transform(data)
    np.testing.assert_array_equal(data, copy)


# Going on


def test_partial_fit_makes_one_pass_and_goes_on():
    sae = small(batch_size=100)
    sae.partial_fit(X)
    assert (sae.n_steps_, sae.n_iter_) == (6, 1)
    first = sae.score(X)
    for _ in range(10):
        sae.partial_fit(X)
    assert (sae.n_steps_, sae.n_iter_) == (66, 11)
    assert sae.score(X) > first
    assert len(sae.loss_curve_) == 66


def test_partial_fit_after_fit_starts_from_the_fitted_dictionaries():
    sae = small(learning_rate=1e-9).fit(X)
    before = sae.dictionaries_.copy()
    sae.partial_fit(X)
    np.testing.assert_allclose(sae.dictionaries_, before, atol=1e-6)


FIRST_BATCHES = {
    "one row": X[:1],
    "constant": np.full((300, 16), 7.0),
    "few rows": X[:5],
}


@pytest.fixture(scope="module")
def in_batches():
    """A model of batches, one after the other."""
    batches = [make_sparse_data(64, seed=seed)[0] + 3 for seed in range(20)]
    sae = small()
    for batch in batches:
        sae.partial_fit(batch)
    return batches, sae


@pytest.mark.parametrize("first", FIRST_BATCHES)
def test_a_first_batch_that_says_little_is_forgotten(in_batches, first):
    batches, expected = in_batches
    sae = small().partial_fit(FIRST_BATCHES[first])
    for batch in batches:
        sae.partial_fit(batch)
    assert same_state(sae, expected)
    assert sae.score(batches[0]) == expected.score(batches[0])
    assert sae.n_iter_ == expected.n_iter_ == len(batches)


@pytest.mark.parametrize("max_steps", [20, 60])
def test_a_model_of_a_fit_to_few_rows_is_not_forgotten(max_steps):
    sae = small(n_components=64, max_steps=max_steps).fit(X[:40])
    before = sae.score(X[:40])
    assert sae.partial_fit(X).n_steps_ == max_steps + 1
    assert sae.score(X[:40]) > before - 0.02


@pytest.mark.parametrize(("factor", "offset"), [(1, 10), (0.03, 0), (100, -3)])
def test_a_second_fit_takes_centre_and_scale_of_its_own_rows(factor, offset):
    """And begins as if they were those of the first: with the same data, it is."""
    other = X * factor + offset
    sae = small(warm_start=True, max_steps=200).fit(X)
    expected = small(warm_start=True, max_steps=200).fit(X).fit(X)
    sae.fit(other)
    assert sae.score(other) == pytest.approx(expected.score(X), abs=0.02)
    np.testing.assert_allclose(
        sae.loss_curve_[-20:], expected.loss_curve_[-20:], atol=0.02
    )
    assert sae._training["n_rows"] == len(other)
    np.testing.assert_allclose(sae._training["mean"], other.mean(0), rtol=1e-9)


def test_chance_to_agree_in_a_second_fit_is_that_of_its_own_rows():
    """With the shares of variance of the first rows, atoms of noise were trusted."""
    few = X * np.r_[10.0, 10.0, np.ones(X.shape[1] - 2)]
    sae = small(warm_start=True, max_steps=100).fit(few)
    sae.fit(X)
    centred = X - X.mean(0)
    shares = np.square(centred @ sae.components_.T).sum(0) / np.square(centred).sum()
    along = sae._training["along"][sae.reference_sae_]
    # Of 1,024 rows.
    np.testing.assert_allclose(along, shares, rtol=0.3, atol=0.005)


def test_a_second_fit_to_equal_rows_keeps_what_is_known():
    sae = small(warm_start=True, max_steps=200).fit(X)
    before = sae.score(X)
    sae.set_params(max_steps=5, learning_rate=1e-9)
    sae.fit(np.repeat(X[:1] + 7, 100, axis=0))
    sae.partial_fit(X)
    assert sae.score(X) == pytest.approx(before, abs=1e-3)


def test_a_second_fit_to_few_rows_keeps_centre_and_scale():
    sae = small(warm_start=True, max_steps=200).fit(X)
    before = sae.score(X)
    sae.set_params(max_steps=2, learning_rate=1e-9).fit(X[:5])
    assert sae.score(X) == pytest.approx(before, abs=1e-3)


def test_a_fit_of_an_imported_model_begins_with_what_it_knows(tmp_path):
    """Though a first pass over odd rows was small."""
    save(small(max_steps=200).fit(X), tmp_path / "sae", training_state=False)
    sae = load(tmp_path / "sae").set_params(
        n_saes=1, n_witnesses=0, warm_start=True, learning_rate=1e-9, max_steps=2
    )
    before = sae.score(X)
    sae.partial_fit(X[:100] * 0.01 + X[:1])
    sae.fit(X)
    assert sae.score(X) == pytest.approx(before, abs=0.01)


def test_outliers_of_a_second_fit_are_its_own():
    sae = small(warm_start=True, max_steps=20).fit(X)
    huge = X.copy()
    huge[:5] = 1000 * np.abs(X).max()
    with pytest.warns(UserWarning, match="of its variance"):
        sae.fit(huge)
    assert sae.n_outliers_ == 5
    sae.fit(X * 10 + 100)
    assert sae.n_outliers_ == 0


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("first", FIRST_BATCHES)
def test_an_imported_model_is_not_forgotten_with_a_first_batch(
    tmp_path, fitted, first, warm_start
):
    save(fitted, tmp_path / "sae", training_state=False)
    sae = load(tmp_path / "sae").set_params(
        n_saes=1, n_witnesses=0, warm_start=warm_start, learning_rate=1e-9
    )
    sae.partial_fit(FIRST_BATCHES[first])
    if warm_start:
        assert sae.fit(X).n_steps_ == 61
    else:
        assert sae.partial_fit(X).n_steps_ == 2
    np.testing.assert_allclose(sae.components_, fitted.components_, atol=1e-6)
    for name in ("encoder_bias_", "decoder_bias_"):
        expected = getattr(fitted, name)
        np.testing.assert_allclose(getattr(sae, name), expected, atol=1e-5)
    # Rows that are alike are no measure of the data.
    pooled = first == "few rows" and not warm_start
    rows = np.concatenate([X[:5], X]) if pooled else X
    training = sae._training
    assert training["n_rows"] == len(rows)
    np.testing.assert_allclose(training["mean"], rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(training["variance"], rows.var(0), rtol=1e-12)
    if first != "few rows":
        median = np.median(np.linalg.norm(X, axis=1))
        assert warm_start or sae.median_norm_ == pytest.approx(median)


@pytest.mark.parametrize("first", ["one row", "constant"])
def test_a_fit_to_rows_that_are_alike_is_forgotten(first):
    sae = small().fit(FIRST_BATCHES[first]).partial_fit(X)
    assert same_state(sae, small().partial_fit(X))
    assert sae.n_iter_ == 1
    assert sae.partial_fit(X).n_iter_ == 2


def test_rows_one_at_a_time_are_learned():
    sae = small()
    for i in range(3):
        sae.partial_fit(X[i : i + 1])
    assert sae.n_steps_ == sae._training["n_rows"] == 3
    np.testing.assert_allclose(sae._training["variance"], X[:3].var(0), rtol=1e-12)


def test_centre_and_scale_are_those_of_all_rows_so_far(in_batches):
    batches, sae = in_batches
    rows = np.concatenate(batches)
    training = sae._training
    assert training["n_rows"] == len(rows)
    np.testing.assert_allclose(training["mean"], rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(training["variance"], rows.var(0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_centre_and_scale_do_not_change_the_model(dtype):
    data = X.astype(dtype)
    # One SAE, so that it is the reference.
    usual = {"n_saes": 1, "n_witnesses": 0, "precision": "float64"}
    sae = small(learning_rate=1e-12, **usual).partial_fit(data)
    sae._training["encoder_bias"] += 0.1
    before = pickle.loads(pickle.dumps(sae.partial_fit(data)))
    sae.partial_fit(3 * data + 1)
    assert not np.allclose(sae._training["mean"], before._training["mean"], rtol=0.1)
    for name in ("encoder_bias_", "decoder_bias_", "components_"):
        found, expected = getattr(sae, name), getattr(before, name)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_going_on_with_data_of_another_scale_goes_on():
    sae = small().partial_fit(X * 1e-12)
    for _ in range(30):
        sae.partial_fit(X * 1e12)
    assert sae.n_steps_ == 31
    assert sae.score(X * 1e12) > 0.5


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("algorithm", ["encoder", "omp"])
@pytest.mark.parametrize("batch_size", [20, 600])
def test_partial_fit_after_fit_does_not_lower_the_score(
    settled, warm_start, algorithm, batch_size
):
    sae = pickle.loads(pickle.dumps(settled[warm_start, algorithm]))
    first, least = sae.score(X), 1.0
    for _ in range(3):
        for start in range(0, len(X), batch_size):
            sae.partial_fit(X[start : start + batch_size])
            least = min(least, sae.score(X))
    assert least > first - 0.002


@pytest.fixture(scope="module")
def settled():
    """Fits that came to their end."""
    return {
        (warm_start, algorithm): small(
            n_saes=2,
            n_witnesses=0,
            max_steps=200,
            warm_start=warm_start,
            transform_algorithm=algorithm,
        ).fit(X)
        for warm_start in (False, True)
        for algorithm in ("encoder", "omp")
    }


def test_partial_fit_after_fit_still_learns():
    sae = small(n_saes=1, n_witnesses=0, max_steps=300).fit(X)
    other, _ = make_sparse_data(seed=1)
    before = sae.score(other)
    for _ in range(100):
        sae.partial_fit(other)
    assert sae.score(other) > before + 0.1


LATE = (
    "components_", "dictionaries_", "witness_dictionaries_", "encoder_weights_",
    "feature_agreement_", "mutual_agreement_", "trusted_",
)  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
def test_partial_fit_leaves_what_costs_much_until_it_is_read(monkeypatch, tied):
    sae = small(tied=tied).partial_fit(X).partial_fit(X)
    assert not set(LATE) & set(vars(sae))
    assert not any(hasattr(small(), name) for name in LATE)
    other = pickle.loads(pickle.dumps(sae))
    for name in LATE:
        first = getattr(sae, name)
        assert getattr(sae, name) is first
        np.testing.assert_array_equal(getattr(other, name), first)
    expected = mean_nearest_cosine(sae.components_, sae.witness_dictionaries_)
    np.testing.assert_array_equal(sae.feature_agreement_, expected)
    norms = np.linalg.norm(sae.dictionaries_, axis=2)
    np.testing.assert_allclose(norms, 1, rtol=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        sae.components_[0] = 0
    # They are made anew after the next call, and of the new model.
    sae.partial_fit(X)
    assert not np.array_equal(sae.components_, first)
    # A fit stores them.
    assert set(LATE) <= set(vars(sae.fit(X)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neither_reading_nor_pickling_changes_what_follows(dtype):
    data = X.astype(dtype)
    sae, read = (small().partial_fit(data) for _ in range(2))
    for _ in range(3):
        sae.partial_fit(data)
        for name in LATE:
            getattr(read, name)
        read = pickle.loads(pickle.dumps(read))
        repr(read._repr_html_())
        read.partial_fit(data)
    assert same_state(sae, read)


def test_partial_fit_changes_no_array_of_the_earlier_model():
    sae = small().partial_fit(X)
    kept = {name: getattr(sae, name) for name in LATE} | dict(sae._training)
    copies = {name: value.copy() for name, value in kept.items()}
    sae.partial_fit(X)
    for name, value in kept.items():
        np.testing.assert_array_equal(value, copies[name])


def test_partial_fit_in_pieces_is_the_same_after_pickling():
    one = small().partial_fit(X)
    other = pickle.loads(pickle.dumps(one))
    assert same_state(one.partial_fit(X), other.partial_fit(X))


def saved_and_loaded(sae, folder):
    save(sae, folder / "sae")
    return load(folder / "sae")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["dictionaries_", "witness_dictionaries_"])
def test_training_does_not_start_from_assigned_dictionaries(
    tmp_path, tied, dtype, name
):
    data = X.astype(dtype)
    sae = small(max_steps=5, tied=tied, warm_start=True).fit(data)
    expected = pickle.loads(pickle.dumps(sae)).partial_fit(data)
    components, assigned = sae.components_, -getattr(sae, name)
    setattr(sae, name, assigned)
    setattr(sae, name, assigned.copy())
    for copied in (deepcopy, lambda sae: saved_and_loaded(sae, tmp_path)):
        other = copied(sae)
        np.testing.assert_array_equal(other.components_, components)
        np.testing.assert_array_equal(getattr(other, name), assigned)
        assert same_state(other.partial_fit(data), expected)
    assert same_state(sae.partial_fit(data), expected)
    found, witnesses = sae.witness_dictionaries_, expected.witness_dictionaries_
    np.testing.assert_array_equal(found, witnesses)
    assert sae.score(data) == expected.score(data)


def test_weights_that_were_not_computed_yet_are_not_those_that_are_assigned():
    sae = small().fit(X).partial_fit(X)
    components = deepcopy(sae).components_
    sae.dictionaries_ = np.zeros_like(deepcopy(sae).dictionaries_)
    copied = pickle.loads(pickle.dumps(sae))
    for found in (sae, copied):
        np.testing.assert_array_equal(found.components_, components)
        assert not found.dictionaries_.any()


def test_warm_start_goes_on():
    sae = small(warm_start=True).fit(X)
    first = sae.loss_curve_.copy()
    sae.fit(X)
    assert sae.n_steps_ == 120
    np.testing.assert_array_equal(sae.loss_curve_[:60], first)
    assert sae.loss_curve_[60:].mean() < first.mean()


@pytest.mark.parametrize(
    "changed", [{"n_components": 16}, {"n_saes": 2}, {"n_witnesses": 0}, {"tied": True}]
)
def test_warm_start_refuses_another_shape(changed):
    sae = small(max_steps=2, warm_start=True).fit(X)
    with pytest.raises(ValueError, match=next(iter(changed))):
        sae.set_params(**changed).fit(X)


def test_fit_without_warm_start_forgets(plain):
    sae = small().fit(X + 1.0)
    assert same_state(sae.fit(X), plain)


def test_only_a_model_that_may_go_on_carries_the_optimisers_state():
    def has_moments(sae):
        return any("exp_avg" in name for name in sae._training)

    assert not has_moments(small(max_steps=2).fit(X))
    assert has_moments(small(max_steps=2, warm_start=True).fit(X))
    assert has_moments(small(max_steps=2).partial_fit(X))


# Rows that outweigh all others


def with_first_tokens(n=1000):
    data = np.random.default_rng(0).standard_normal((n, 16))
    data[::64] = 133 * np.eye(16)[0]
    return data


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_few_rows_with_most_of_the_variance_are_told(method):
    sae, data = small(max_steps=2), with_first_tokens()
    squares = np.square(data - data.mean(0)).sum(1)
    share = squares[::64].sum() / squares.sum()
    match = (
        r"^16 of 1000 rows of X \(1.6% of them; rows 0, 64, 128, 192, 256, ...\) "
        rf"hold {share:.1%} of its variance.*skip_first=1"
    )
    with pytest.warns(UserWarning, match=match) as told:
        getattr(sae, method)(data)
    assert told[0].filename == __file__


def test_a_model_that_goes_on_is_told_once():
    sae = small(max_steps=2)
    with pytest.warns(UserWarning, match="of its variance"):
        sae.partial_fit(with_first_tokens())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sae.partial_fit(with_first_tokens())


def test_median_norm_is_that_of_the_training_rows(tmp_path):
    data = X + 5
    norms = np.linalg.norm(data, axis=1)
    sae = small(max_steps=2, early_stopping=True).fit(data)
    rows, _ = split(data, sae.validation_fraction, int(sae._training["seed"]))
    assert type(sae.median_norm_) is float
    assert sae.median_norm_ == pytest.approx(np.median(norms[rows]))
    np.save(tmp_path / "X.npy", data)
    mapped = small(max_steps=2).fit([tmp_path / "X.npy"])
    assert mapped.median_norm_ == pytest.approx(np.median(norms))
    assert pickle.loads(pickle.dumps(mapped)).median_norm_ == mapped.median_norm_
    sae = small().partial_fit(data[:400]).partial_fit(data[400:])
    halves = 4 * np.median(norms[:400]) + 2 * np.median(norms[400:])
    assert sae.median_norm_ == pytest.approx(halves / 6)


@pytest.mark.filterwarnings("ignore:.*of its variance")
def test_median_norm_counts_outliers():
    calls = [np.concatenate([X[:100], 1e4 * X[:1]]), 1e4 * X[:50], X[:30]]
    sae = small()
    for data in calls:
        sae.partial_fit(data)
    assert sae.n_outliers_ > 40
    medians = [np.median(np.linalg.norm(data, axis=1)) for data in calls]
    expected = np.average(medians, weights=[101, 50, 30])
    assert sae.median_norm_ == pytest.approx(expected)


# How long a fit is


@pytest.mark.parametrize(
    ("parameters", "n_samples", "n_steps"),
    [
        ({}, 600, 500),  # so many epochs
        ({}, 8 * 1024, 2000),
        ({"batch_size": 100}, 600, 2000),
        ({"batch_size": 4}, 20_000, 5000),  # one pass
        ({"max_iter": 3, "batch_size": 100}, 600, 18),
        ({"max_iter": 300, "batch_size": 100}, 20_000, 60_000),
        ({"max_iter": 300, "max_steps": 7, "batch_size": 100}, 20_000, 7),
        ({"max_iter": 1, "max_steps": 7, "batch_size": 200}, 600, 3),
        ({"max_steps": 5000}, 600, 5000),
        ({"max_iter": 50, "batch_size": 10}, 22, 110),  # 110.00000000000001
        ({"max_iter": 50, "batch_size": 10}, 2201, 11005),
    ],
)
def test_length_of_a_fit(parameters, n_samples, n_steps):
    batch_size = min(parameters.get("batch_size", 1024), n_samples)
    sae = MFRSparseAutoencoder(**parameters)
    assert n_steps_of(sae.get_params(), n_samples / batch_size) == n_steps


def test_a_number_of_epochs_is_obeyed():
    sae = small(max_steps=None, max_iter=7, batch_size=100).fit(X)
    assert (sae.n_iter_, sae.n_steps_) == (7, 42)
    # Of batches that do not fill an epoch, the last one may go on into another.
    sae.set_params(batch_size=256, max_iter=3).fit(X)
    assert (sae.n_iter_, sae.n_steps_) == (3, ceil(3 * len(X) / 256))


def test_early_stopping_by_default_stops_where_data_converge_early(monkeypatch):
    seen, look = [], skmfr._training.loop.group_fvu

    def note(*arguments):
        seen.append(look(*arguments))
        return seen[-1]

    monkeypatch.setattr(skmfr._training.loop, "group_fvu", note)
    line = np.random.default_rng(0).standard_normal((200, 1)) * np.arange(1, 4)
    usual = {"n_components": 4, "k": 2, "n_saes": 1, "n_witnesses": 0}
    usual["random_state"] = 0
    sae = MFRSparseAutoencoder(early_stopping=True, max_steps=2000, **usual).fit(line)
    assert len(seen) >= 15
    assert np.median(seen[-10:]) < 0.01
    assert sae.n_steps_ < 2000
    assert sae.score(line) > 0.99


def test_without_early_stopping_tol_does_nothing(plain):
    assert same_state(small(tol=1e9, n_iter_no_change=1).fit(X), plain)


def test_early_stopping_holds_samples_out():
    parameters = {"batch_size": 100, "max_steps": 6}
    assert small(**parameters).fit(X).n_iter_ == 1
    # An epoch of the half that is left takes 3 steps.
    halved = small(early_stopping=True, validation_fraction=0.5, **parameters)
    assert halved.fit(X).n_iter_ == 2
    with pytest.raises(ValueError, match="validation_fraction"):
        small(early_stopping=True).fit(X[:1])


# Watching


def test_silent_by_default_and_a_line_in_a_log_when_verbose(capsys):
    small(max_steps=20).fit(X)
    assert capsys.readouterr() == ("", "")
    sae = small(max_steps=20, verbose=1).fit(X)
    out, err = capsys.readouterr()
    assert out == ""
    # Of less than a second; or of three, where that is not enough.
    *_, last = err.splitlines()
    assert len(err) < 1000
    assert "\r" not in err
    shown = r"MFR 32 atoms, k=4, alpha=1: step 20 of 20, \d+ s, FVU=(.*), agreement=0\."
    assert re.match(shown, last)[1] == f"{sae.loss_curve_[-1]:.4f}"


def test_callback_sees_each_step():
    seen = []
    sae = small(callback=lambda step, info: seen.append((step, dict(info)))).fit(X)
    assert [step for step, _ in seen] == list(range(1, 61))
    fvu = [info["fvu"] for _, info in seen]
    np.testing.assert_allclose(fvu, sae.loss_curve_, rtol=1e-6)
    assert set(seen[0][1]) == {
        "n_steps", "fvu", "agreement", "dead", "k", "alpha", "learning_rate",
        "n_reinits",
    }  # fmt: skip
    k = [info["k"] for _, info in seen]
    assert k[0] == 8
    assert k[30:] == [4] * 30
    alpha = [info["alpha"] for _, info in seen]
    assert alpha[:30] == [0.0] * 30
    assert max(alpha) == 1.0
    assert alpha[-6:] == [0.0] * 6


def test_callback_sees_the_dead_share_of_the_group(make_settings):
    settings = make_settings(n_components=4, n_saes=2, n_witnesses=1, k=1)
    atoms = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    state = new_state(Ensemble.starting_from(atoms, tied=False), settings)
    state.begin(Schedule.constant(10), Plateau())
    state.note_losses(torch.zeros(3))
    state.step = 1
    # Of the group one atom of eight; that of the witness does not count.
    state.activity.idle[1, 2] = DEAD_WINDOW
    state.activity.idle[0, 0] = DEAD_WINDOW - 1
    state.activity.idle[2, 0] = DEAD_WINDOW
    assert Watch(settings, 0, None).info(state)["dead"] == 1 / 8


class EpochEnds:
    """A callback of scikit-learn's that stops a fit after some epochs."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs
        self.scores, self.steps, self.events = [], [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None,
                          metadata=None, fitted_estimator=None):  # fmt: skip
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, y=None,
                        metadata=None, fitted_estimator=None):  # fmt: skip
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X))
            self.steps.append(fitted_estimator.n_steps_)
            return len(self.scores) == self.n_epochs
        return False


def test_scikit_learns_callbacks_see_each_epoch_and_can_stop():
    pytest.importorskip("sklearn.callback")
    callback = EpochEnds(3)
    sae = small(batch_size=100).set_callbacks(callback).fit(X)
    assert sae.n_iter_ == 3
    assert sae.n_steps_ == 18
    assert callback.events == ["setup", "teardown"]
    assert callback.scores[-1] == pytest.approx(sae.score(X))


def test_scikit_learns_monitor_records_the_score_of_each_epoch():
    callbacks = pytest.importorskip("sklearn.callback")
    scoring = {"score": lambda sae, X, y: sae.score(X, y)}
    callback = callbacks.ScoringMonitor(scoring=scoring)
    sae = small(batch_size=100, max_iter=3).set_callbacks(callback)
    # It computes none without a y.
    sae.fit(X, np.zeros(len(X)))
    scores = [row["score"] for row in callback.get_logs().data if "score" in row]
    # Of the fit, and of its three epochs.
    assert len(scores) == 4
    assert scores[0] == scores[-1] == pytest.approx(sae.score(X))
    assert scores[1] < scores[-1]


def test_scikit_learns_callbacks_see_the_epochs_of_a_resumed_fit(tmp_path):
    pytest.importorskip("sklearn.callback")
    parameters = {"batch_size": 100, "checkpoint_dir": tmp_path, "checkpoint_every": 20}
    small(**parameters).set_callbacks(EpochEnds(5)).fit(X)
    callback = EpochEnds(100)
    small(**parameters).set_callbacks(callback).fit(X)
    # From step 20 on.
    assert callback.steps == [24, 30, 36, 42, 48, 54, 60]


# Interruption


def interrupt_at(step, error=KeyboardInterrupt):
    """A callback that raises after so many steps."""

    def callback(done, info):
        if done == step:
            raise error

    return callback


@pytest.mark.parametrize("replaced", [False, True])
def test_an_interrupted_fit_has_the_steps_done_warns_and_raises(replaced):
    sae = small()
    if replaced:
        sae.fit(X[:100] + 1)
    told = "the earlier model is replaced" if replaced else "the estimator has"
    with (
        pytest.warns(ConvergenceWarning, match=f"after 20 of 60 steps; {told}"),
        pytest.raises(KeyboardInterrupt),
    ):
        sae.set_params(callback=interrupt_at(20)).fit(X)
    # Those of a fit on the same schedule that an error ended there.
    seen = []
    with pytest.raises(ZeroDivisionError):
        small(callback=lambda step, info: seen.append(info["fvu"]) or 1 / (20 - step)
              ).fit(X)  # fmt: skip
    np.testing.assert_allclose(sae.loss_curve_, seen, rtol=1e-6)
    assert sae.n_steps_ == 20
    assert sae.transform(X).shape == (len(X), 32)


@pytest.mark.filterwarnings("error")
def test_an_interrupt_is_raised_where_warnings_are_errors():
    sae = small(callback=interrupt_at(20))
    with pytest.raises(KeyboardInterrupt):
        sae.fit(X)
    assert sae.n_steps_ == 20


def test_an_interrupt_while_results_are_made_loses_no_step(monkeypatch):
    impatient, make = [KeyboardInterrupt], skmfr._training.fit.fitted_attributes

    def interrupted_once(*arguments):
        if impatient:
            raise impatient.pop()
        return make(*arguments)

    monkeypatch.setattr(skmfr._training.fit, "fitted_attributes", interrupted_once)
    sae = small(max_steps=3)
    with (
        pytest.warns(ConvergenceWarning, match="after 3 of 3"),
        pytest.raises(KeyboardInterrupt),
    ):
        sae.fit(X)
    assert sae.n_steps_ == 3


def test_an_interrupt_stops_a_grid_search():
    n_fits = []

    def callback(step, info):
        if step == 2:
            n_fits.append(step)
            raise KeyboardInterrupt

    search = GridSearchCV(small(max_steps=3, callback=callback), {"k": [2, 3, 4]}, cv=2)
    with (
        pytest.warns(ConvergenceWarning, match="2 of 3 steps"),
        pytest.raises(KeyboardInterrupt),
    ):
        search.fit(X)
    assert len(n_fits) == 1
    assert not hasattr(search, "best_estimator_")


def test_a_penalty_that_was_not_on_is_not_blamed(recwarn):
    with pytest.raises(KeyboardInterrupt):
        small(max_steps=2000, callback=interrupt_at(20)).fit(X)
    assert not any("penalty" in str(warning.message) for warning in recwarn)


class Unreadable:
    """Data in chunks, of which reading is interrupted."""

    shape, chunks, dtype = (9, 4), (3, 4), np.dtype(float)

    def __getitem__(self, rows):
        raise KeyboardInterrupt


BAD_CALLS = {
    "wrong values": (lambda sae: sae.fit(np.full((5, 7), np.nan)), ValueError),
    "another width": (lambda sae: sae.partial_fit(X[:, :3]), ValueError),
    "a wrong shard": (lambda sae: sae.fit([X[:9, :5], X[:9, :5] / 0]), ValueError),
    "a callback": (
        lambda sae: sae.set_params(callback=interrupt_at(2, OSError)).fit(
            pd.DataFrame(X[:, :4], columns=list("abcd"))
        ),
        OSError,
    ),
    "an interrupt before a step": (
        lambda sae: sae.fit(Unreadable()),
        KeyboardInterrupt,
    ),
    "divergence": (lambda sae: sae.set_params(learning_rate=1e25).fit(X), ValueError),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("method", [None, "fit", "partial_fit"])
@pytest.mark.parametrize("fault", BAD_CALLS)
def test_a_call_that_fails_changes_no_attribute(method, fault):
    call, error = BAD_CALLS[fault]
    sae = small(max_steps=2)
    if method is not None:
        getattr(sae, method)(pd.DataFrame(X).rename(columns=str))
    elif fault == "another width":
        return
    parameters = sae.get_params().keys()

    def attributes():
        return {n: v for n, v in vars(sae).items() if n not in parameters}

    before = attributes()
    with pytest.raises(error):
        call(sae)
    assert attributes().keys() == before.keys()
    assert all(value is before[name] for name, value in attributes().items())


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_that_fails_leaves_the_model_as_it_was(warm_start):
    sae = small(warm_start=warm_start).partial_fit(X)
    expected = clone(sae).partial_fit(X).partial_fit(X)
    with pytest.raises(ValueError, match="too large"):
        sae.set_params(learning_rate=1e25).fit(100 * X)
    sae.set_params(learning_rate="auto")
    if warm_start:
        with pytest.raises(ValueError, match="X has 15 features, but .* expecting 16"):
            sae.fit(X[:, :15])
    assert same_state(sae.partial_fit(X), expected)
    assert sae.score(X) == expected.score(X)


def test_another_precision_does_not_go_on():
    sae = small(precision="float32").partial_fit(X)
    message = "precision=float64, but .* has precision=float32"
    with pytest.raises(ValueError, match=message):
        sae.set_params(precision="float64").partial_fit(X)


def test_checkpoints_do_not_depend_on_how_a_parameter_is_spelled(tmp_path):
    steps = []
    parameters = {"checkpoint_dir": tmp_path, "checkpoint_every": 20}
    small(**parameters, n_components=64, k=64, alpha=1).fit(X)
    small(
        **parameters,
        n_components=None,  # four times the features
        k=100,  # no more than there are atoms
        alpha=1.0,
        learning_rate=0.1 / 16**0.25,
        device=resolve_device("auto"),
        callback=lambda step, info: steps.append(step),
    ).fit(X)
    # The last checkpoint is that of step 60.
    assert steps == []


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_checkpoints_that_no_fit_can_go_on_from_are_told(tmp_path, random_state):
    parameters = {"checkpoint_dir": tmp_path, "checkpoint_every": 3, "max_steps": 3}
    sae = small(random_state=random_state, warm_start=True, **parameters)
    told = rf"random_state={'None' if random_state is None else 'RandomState'}.*_dir="
    with pytest.warns(UserWarning, match=told) as caught:
        sae.fit(X)
    assert caught[0].filename == __file__
    # A warm start goes on with the numbers of the first fit.
    again = pickle.loads(pickle.dumps(sae))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sae.fit(X)
        steps = []
        again.set_params(callback=lambda step, info: steps.append(step)).fit(X)
        assert steps == []
        assert same_state(again, sae)
        small(random_state=np.int64(0), **parameters).fit(X)


def test_a_fit_resumes_from_its_checkpoint_to_the_same_bytes(tmp_path, plain):
    class Killed(Exception):
        pass

    def kill(step, info):
        if step == 35:
            raise Killed

    parameters = {"checkpoint_dir": tmp_path, "checkpoint_every": 10}
    with pytest.raises(Killed):
        small(callback=kill, **parameters).fit(X)
    assert len(list(tmp_path.iterdir())) == 2

    steps = []
    resumed = small(callback=lambda step, info: steps.append(step), **parameters).fit(X)
    assert steps[0] == 31
    assert same_state(resumed, plain)


def die(*args, **kwargs):
    os._exit(9)  # at once, like a signal, which Windows does not have


def write_half_and_die(file, **arrays):
    file.write(bytes(1000))
    file.flush()
    die()


def fit_and_die(folder, place):
    def after_the_second(step, info):
        if step == 20:
            if place == "writing":
                np.savez = write_half_and_die
            if place == "replacing":
                os.replace = die

    small(checkpoint_dir=folder, checkpoint_every=7, callback=after_the_second).fit(X)


@pytest.mark.parametrize("place", ["writing", "replacing"])
def test_a_fit_killed_at_a_checkpoint_ends_with_the_same_bytes(
    call_in_process, plain, place, tmp_path
):
    ended = call_in_process(fit_and_die, tmp_path, place)
    assert ended.exitcode == 9, ended.result
    steps = []
    resumed = small(
        checkpoint_dir=tmp_path,
        checkpoint_every=7,
        callback=lambda step, info: steps.append(step),
    ).fit(X)
    assert steps[0] == 15
    assert same_state(resumed, plain)


def test_a_fit_resumes_with_the_same_data_as_a_memmap(tmp_path):
    np.save(tmp_path / "X.npy", X)
    parameters = {"checkpoint_dir": tmp_path / "fits", "checkpoint_every": 30}
    small(**parameters).fit(X)
    small(**parameters).fit(np.load(tmp_path / "X.npy", mmap_mode="r"))
    assert len(list((tmp_path / "fits").iterdir())) == 2


def test_checkpoints_of_other_data_or_parameters_are_not_resumed(tmp_path):
    few = {"max_steps": 10}
    parameters = few | {"checkpoint_dir": tmp_path, "checkpoint_every": 5}
    small(**parameters).fit(X)
    other_data = small(**parameters).fit(X[:500])
    other_alpha = small(alpha=0.3, **parameters).fit(X)
    assert same_state(other_data, small(**few).fit(X[:500]))
    assert same_state(other_alpha, small(alpha=0.3, **few).fit(X))
    assert len(list(tmp_path.iterdir())) == 3 * 2


def test_checkpoints_of_another_past_are_not_resumed(tmp_path):
    def continued(first, **parameters):
        sae = small(max_steps=10, warm_start=True).fit(first)
        return sae.set_params(**parameters).fit(X)

    parameters = {"checkpoint_dir": tmp_path, "checkpoint_every": 5}
    continued(X[:300], **parameters)
    assert same_state(continued(X[300:], **parameters), continued(X[300:]))


@pytest.mark.parametrize(
    "other",
    ["encoder", "encoder_bias", "decoder_bias", "adam 0 exp_avg", "losses", "mean"],
)
def test_checkpoints_of_another_state_are_not_resumed(tmp_path, other):
    parameters = {"checkpoint_dir": tmp_path, "checkpoint_every": 5}
    first = small(max_steps=10, warm_start=True).fit(X)
    same, changed = (pickle.loads(pickle.dumps(first)) for _ in range(2))
    changed._training[other] = changed._training[other] + np.float32(0.01)
    expected = pickle.loads(pickle.dumps(changed)).fit(X)
    first.set_params(**parameters).fit(X)
    steps = []
    same.set_params(**parameters, callback=lambda step, info: steps.append(step))
    # It has been trained to the end.
    assert same_state(same.fit(X), first)
    assert steps == []
    assert same_state(changed.set_params(**parameters).fit(X), expected)


def test_broken_checkpoints_are_passed_over_or_refused(tmp_path):
    parameters = {"checkpoint_dir": tmp_path, "checkpoint_every": 20}
    expected = small(**parameters).fit(X)
    before, newest = sorted(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=newest.name) as caught:
        resumed = small(**parameters).fit(X)
    assert caught[0].filename == __file__
    assert same_state(resumed, expected)
    for path in (before, newest):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match=newest.name),
        pytest.raises(ValueError, match=before.name),
    ):
        small(**parameters).fit(X)


def test_checkpoint_every_needs_a_folder():
    with pytest.raises(ValueError, match="checkpoint_dir"):
        small(checkpoint_every=10).fit(X)


# Signs of failure


def warnings_of(sae, data=X):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae.fit(data)
    return " ".join(
        str(each.message)
        for each in caught
        if issubclass(each.category, ConvergenceWarning)
    )


def test_a_good_fit_does_not_warn():
    assert warnings_of(small(max_steps=300)) == ""


def test_warns_of_agreement_without_reconstruction():
    # Eight centres that any SAE finds, and far more noise around them.
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 30))[rng.integers(8, size=2000)]
    noisy = centres + 1.5 * rng.standard_normal((2000, 30))
    message = warnings_of(small(n_components=8, k=1, max_steps=300), noisy)
    assert "agree" in message
    assert "reconstruct poorly" in message


def test_warns_of_the_penaltys_cost():
    message = warnings_of(small(alpha=1e5, max_steps=200))
    assert "penalty costs reconstruction" in message
    assert "Lower alpha" in message


def test_the_penalty_is_not_blamed_for_what_witnesses_on_fewer_rows_memorise():
    """Of a hundred digits the halves are memorised, FVU .17, and the whole is not."""
    half = {"n_witnesses": 2, "witness_rows": "disjoint", "batch_size": 50}
    assert warnings_of(small(max_steps=100, **half), load_digits().data[:100]) == ""


def test_one_sae_is_not_said_to_pay_for_a_penalty_that_it_has_not():
    """Its loss and that of its witness differ, but by chance."""
    X = np.random.default_rng(0).standard_normal((40, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        for seed in range(10):
            MFRSparseAutoencoder(
                12, k=2, n_saes=1, n_witnesses=1, max_steps=1, random_state=seed
            ).fit(X)


def test_warns_of_collapse_to_identical_atoms():
    message = warnings_of(small(matching="max", alpha=1e3, max_steps=200))
    assert "collapsing to identical atoms" in message


def test_warns_of_unstable_reinitialisation():
    sae = small(reinit_threshold=0.0, reinit_every=5)
    assert "Reinitialisation is unstable" in warnings_of(sae)
    np.testing.assert_array_equal(sae.n_reinits_, 3)


def test_unstable_reinitialisation_is_told_by_the_call_that_reaches_the_maximum():
    sae = small(reinit_threshold=0.0, reinit_every=20, max_steps=50, warm_start=True)
    assert warnings_of(sae) == ""
    np.testing.assert_array_equal(sae.n_reinits_, 1)
    sae.set_params(reinit_every=5)
    assert "reinitialised 3 times" in warnings_of(sae)
    assert warnings_of(sae) == ""
    assert warnings_of(sae.set_params(reinit_threshold=None)) == ""


def test_training_after_a_fit_reinitialises_nothing():
    sae = small(reinit_threshold=1e3, reinit_every=1).fit(X)
    sae.set_params(reinit_threshold=0.0, batch_size=10).partial_fit(X)
    assert not sae.n_reinits_.any()


# Life in scikit-learn


def test_grid_search_over_a_pipeline_in_two_processes(call_in_process):
    pipeline = make_pipeline(MaxAbsScaler(), small(max_steps=10))
    grid = {
        "mfrsparseautoencoder__k": [1, 6],
        "mfrsparseautoencoder__alpha": [0.0, 0.1],
    }
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise")
    exitcode, found = call_in_process(searched, search)
    assert exitcode == 0, found
    # More atoms reconstruct better.
    assert found.best_params_["mfrsparseautoencoder__k"] == 6
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()


def searched(search):
    with workers_of_joblib():
        return search.fit(X)


def test_grid_search_over_the_workers_of_a_dask_cluster(tmp_path, call_in_process):
    grid = {"k": [1, 6], "callback": [NoteOfProcess(tmp_path)]}
    # In float64, since workers sum in other parts than this process.
    sae = small(max_steps=10, precision="float64")
    search = GridSearchCV(sae, grid, cv=2, refit=False, error_score="raise")
    expected = clone(search).fit(X).cv_results_["mean_test_score"]
    # Of this process.
    for note in tmp_path.iterdir():
        note.unlink()
    exitcode, result = call_in_process(search_over_a_cluster, search)
    assert exitcode == 0, result
    found, workers = result
    # The fits ran there, and none where the search did.
    assert {int(note.name) for note in tmp_path.iterdir()} == workers
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def search_over_a_cluster(search):
    """Scores, and the numbers of the processes of the cluster's workers."""
    ours, theirs = Pipe()
    cluster = CONTEXT.Process(target=host_a_cluster, args=(theirs,))
    cluster.start()
    with (
        distributed.Client(ours.recv()) as client,
        joblib.parallel_config(backend="dask"),
    ):
        workers = set(client.run(os.getpid).values())
        search.fit(X)
    ours.send("over")
    cluster.join()
    return search.cv_results_["mean_test_score"], workers


def host_a_cluster(connection):
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        dashboard_address=None,
    ) as cluster:
        connection.send(cluster.scheduler_address)
        connection.recv()


class NoteOfProcess:
    """A callback that leaves a file with the number of the process."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, step, info):
        (self.folder / str(os.getpid())).touch()


def test_clone_pickle_and_joblib_keep_the_model(fitted, tmp_path):
    expected = fitted.transform(X)
    joblib.dump(fitted, tmp_path / "sae.joblib")
    for copy in (
        pickle.loads(pickle.dumps(fitted)),
        joblib.load(tmp_path / "sae.joblib"),
        joblib.load(tmp_path / "sae.joblib", mmap_mode="r"),
    ):
        np.testing.assert_array_equal(copy.transform(X), expected)
    assert not hasattr(clone(fitted), "components_")
    assert clone(fitted).get_params() == fitted.get_params()


def test_fitted_state_holds_no_tensor(fitted):
    assert b"torch" not in pickle.dumps(fitted)


def test_a_memory_mapped_array_is_read_in_place(tmp_path, monkeypatch):
    path = tmp_path / "X.npy"
    np.save(path, X.astype(np.float32))
    mapped = np.load(path, mmap_mode="r")
    read = []
    in_turn = Batches.in_turn
    monkeypatch.setattr(
        Batches,
        "in_turn",
        lambda batches, *steps: read.append(batches.X) or in_turn(batches, *steps),
    )
    sae = small(max_steps=5).fit(mapped)
    monkeypatch.undo()
    assert np.shares_memory(read[0].piece(0), mapped)
    assert same_state(sae, small(max_steps=5).fit(X.astype(np.float32)))


def test_shards_give_what_the_array_gives(tmp_path):
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, part in zip(paths, np.split(X, [100, 400]), strict=True):
        np.save(path, part)
    for early_stopping in (False, True):
        expected = small(max_steps=15, early_stopping=early_stopping).fit(X)
        sae = clone(expected).fit(paths)
        assert same_state(sae, expected)
    assert sae.n_features_in_ == X.shape[1]
    for method in ("transform", "reconstruct", "score", "fit_transform"):
        np.testing.assert_array_equal(
            getattr(sae, method)(paths), getattr(sae, method)(X)
        )
    assert same_state(small().partial_fit(paths), small().partial_fit(X))


@pytest.fixture
def in_chunks(monkeypatch):
    """Data in 12 chunks, of which three are mixed."""
    monkeypatch.setattr(skmfr._data.sources, "MIXED_BYTES", 3 * X[:50].nbytes)
    return zarr.array(X, chunks=(50, 6))


def test_chunked_arrays_are_learned_as_well_as_the_array(in_chunks):
    one = small(n_saes=1, n_witnesses=0, max_steps=60)
    expected = one.fit(X).score(X)
    sae = clone(one).fit(in_chunks)
    assert sae.score(in_chunks) == pytest.approx(sae.score(X), rel=1e-12)
    # Another order of the samples, hence another result.
    assert sae.score(X) == pytest.approx(expected, abs=0.02)
    np.testing.assert_array_equal(sae.transform(in_chunks), sae.transform(X))
    np.testing.assert_array_equal(sae.reconstruct(in_chunks), sae.reconstruct(X))
    assert sae.n_features_in_ == X.shape[1]
    # dask has the same chunks.
    lazy = dask.array.from_array(X, chunks=(50, 6))
    assert same_state(one.fit(lazy), sae)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_of_chunked_data_resumes_to_the_same_bytes(
    tmp_path, in_chunks, early_stopping
):
    def kill(step, info):
        if step == 47:
            raise InterruptedError

    parameters = {
        "early_stopping": early_stopping,
        "batch_size": 90,
        "checkpoint_dir": tmp_path,
        "checkpoint_every": 10,
    }
    with pytest.raises(InterruptedError):
        small(callback=kill, **parameters).fit(in_chunks)
    steps = []
    resumed = small(callback=lambda step, info: steps.append(step), **parameters)
    resumed.fit(in_chunks)
    assert steps[0] == 41
    expected = small(**parameters | {"checkpoint_dir": None, "checkpoint_every": None})
    assert same_state(resumed, expected.fit(in_chunks))


def test_early_stopping_holds_out_whole_chunks_if_there_are_many(in_chunks):
    def n_held_out(data):
        """Of each 50 rows."""
        rows, validation = split(Chunked(data), 0.2, seed=0)
        np.testing.assert_array_equal(np.sort(np.r_[rows, validation]), np.arange(600))
        return np.bincount(validation // 50, minlength=12)

    np.testing.assert_array_equal(np.sort(n_held_out(in_chunks))[-3:], [0, 50, 50])
    # Of chunks that are too large, or mixed all together, rows.
    for chunks in ((60,) * 5 + (300,), (200,) * 3):
        few = dask.array.from_array(X, chunks=(chunks, X.shape[1]))
        held_out = n_held_out(few)
        assert held_out.sum() == 120
        assert held_out.max() < 25
    one_chunk = zarr.array(X, chunks=X.shape)
    assert same_state(
        small(early_stopping=True).fit(one_chunk), small(early_stopping=True).fit(X)
    )


def test_streamed_data_that_do_not_fit_are_refused(fitted, in_chunks):
    narrow = in_chunks[:, :5]
    for data in ([narrow], zarr.array(narrow, chunks=(50, 5))):
        with pytest.raises(ValueError, match="X has 5 features, but.*16 features"):
            fitted.transform(data)
    in_chunks[123, 4] = np.nan
    for call in (small().fit, small().partial_fit, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match="NaN in row 123, column 4"):
            call(in_chunks)


def test_tensors_are_taken_for_arrays(fitted):
    np.testing.assert_array_equal(
        fitted.transform(torch.from_numpy(X)), fitted.transform(X)
    )
    half = torch.from_numpy(X).bfloat16()
    expected = fitted.transform(half.float().numpy())
    np.testing.assert_array_equal(fitted.transform(half), expected)
    for shards in (half.split(200), half.float().requires_grad_().split(200)):
        np.testing.assert_array_equal(fitted.transform(list(shards)), expected)


def test_columns_may_be_named_like_methods(fitted):
    names = ["detach", "to_dask_array", "chunks", "dtype", "shape", "ndim", "cpu"]
    names = [*names, "X", "piece", "copy", "to_numpy", "values", "__array__"]
    names = [*names, *(f"x{i}" for i in range(X.shape[1] - len(names)))]
    frame = pd.DataFrame(X, columns=names)
    sae = small(n_witnesses=2).fit(frame)
    assert same_state(sae, fitted)
    np.testing.assert_array_equal(sae.transform(frame), fitted.transform(X))
    names = [*names, *(f"x{i}" for i in range(X.shape[1], sae.n_components))]
    codes = pd.DataFrame(fitted.transform(X), columns=names)
    expected = fitted.reconstruct(X)
    np.testing.assert_allclose(sae.inverse_transform(codes), expected, atol=1e-12)


def test_precisions_of_training_agree():
    # Rounding decides which atom is k-th here and there, so only the quality agrees.
    reference, *others = (
        small(n_saes=2, n_witnesses=0, max_steps=100, precision=precision)
        .fit(X)
        .score(X)
        for precision in ("float32", "float64", "bfloat16")
    )
    assert others == pytest.approx([reference] * 2, abs=0.02)


# Bad and odd input


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"n_saes": 0}, "n_saes"),
        ({"alpha": -0.1}, "alpha"),
        ({"k": 0}, "k"),
        ({"n_components": 0}, "n_components"),
        ({"matching": "nearest"}, "matching"),
        ({"device": "cuda:99"}, "device"),
        ({"device": "abacus"}, "device"),
        ({"device": "meta"}, "device"),
        ({"alpha": 1e39}, "alpha"),
        ({"learning_rate": 1e39}, "learning_rate"),
        ({"learning_rate": 1e18}, "Training diverged with learning_rate"),
        ({"precision": "float16"}, "precision"),
        ({"transform_algorithm": "lars"}, "transform_algorithm"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_bad_parameters_are_named(parameters, name):
    with pytest.raises(ValueError, match=name):
        small(**parameters).fit(X)


@pytest.mark.parametrize(("bad", "name"), [(np.nan, "NaN"), (np.inf, "inf")])
def test_values_that_are_not_finite_are_refused_by_row(tmp_path, fitted, bad, name):
    data = X.copy()
    data[123, 2] = bad
    np.save(tmp_path / "X.npy", data)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    forms = data, mapped, pd.DataFrame(data), torch.from_numpy(data)
    for call in (small().fit, small().partial_fit, fitted.transform, fitted.score):
        for form in forms:
            with pytest.raises(ValueError, match=f"X contains {name} in row 123, col"):
                call(form)


def test_values_that_are_assumed_to_be_finite_are_not_looked_at(fitted, monkeypatch):
    monkeypatch.setattr("skmfr._data.checked.check_finite", None)
    with config_context(assume_finite=True):
        fitted.transform(X)
    with pytest.raises(TypeError, match="not callable"):
        fitted.transform(X)


def test_data_of_another_width_are_refused(fitted):
    for call in (fitted.transform, fitted.reconstruct, fitted.score):
        with pytest.raises(ValueError, match="features"):
            call(X[:, :-1])
    with pytest.raises(ValueError, match="n_components=32"):
        fitted.inverse_transform(np.zeros((2, 31)))


def test_empty_object_and_sparse_data_are_refused():
    with pytest.raises(ValueError, match="0 sample"):
        small().fit(np.empty((0, 4)))
    with pytest.raises(ValueError, match="convert"):
        small().fit(np.array([["a", "b"], ["c", "d"]], dtype=object))
    with pytest.raises(TypeError, match="[Ss]parse"):
        small().fit(sparse.csr_array(X))


def test_integers_and_number_objects_are_taken_for_floats():
    data = np.arange(60).reshape(20, 3) % 7
    expected = small(max_steps=3).fit(data.astype(float))
    assert same_state(small(max_steps=3).fit(data), expected)
    assert same_state(small(max_steps=3).fit(data.astype(object)), expected)


@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
@pytest.mark.parametrize(
    "data",
    [
        np.full((50, 4), 3.0),
        np.zeros((50, 4)),
        np.tile(X[:1], (50, 1)),
        np.tile(X[:3], (20, 1)),
        np.hstack([X[:, :3], np.ones((600, 1)), X[:, :3]]),
        X[:1],
        X[:2],
        X[:, :1],
        X * 1e30,
        X * 1e-30,
        X + 1e6,
    ],
    ids=[
        "constant", "zero", "one sample repeated", "three samples repeated",
        "constant and collinear columns", "one sample", "two samples", "one feature",
        "huge", "tiny", "far from zero",
    ],
)  # fmt: skip
def test_odd_data_give_finite_results(data, algorithm):
    sae = small(max_steps=10, transform_algorithm=algorithm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        codes = sae.fit_transform(data)
    for array in (codes, sae.components_, sae.reconstruct(data), sae.loss_curve_):
        assert np.isfinite(array).all()
    np.testing.assert_allclose(np.linalg.norm(sae.components_, axis=1), 1.0, rtol=1e-6)
    assert np.count_nonzero(codes, axis=1).max() <= sae.k
    assert -1 <= sae.feature_agreement_.min() <= sae.feature_agreement_.max() <= 1
    assert np.isfinite(sae.score(data))


@pytest.mark.parametrize("value", [7.0, 1e-6])
def test_constant_data_are_reconstructed_exactly(value):
    data = np.full((20, 3), value)
    sae = small(max_steps=100).fit(data)
    np.testing.assert_array_equal(sae.reconstruct(data), data)
    assert sae.score(data) == 1.0


def test_one_atom_and_fewer_samples_than_a_batch():
    sae = small(n_components=1, k=1, max_steps=20).fit(X[:5])
    assert sae.transform(X).shape == (len(X), 1)


def test_a_model_of_missing_hardware_transforms_on_the_cpu(fitted):
    copy = pickle.loads(pickle.dumps(fitted)).set_params(device="cuda:99")
    with pytest.warns(UserWarning, match="using the CPU"):
        codes = copy.transform(X)
    np.testing.assert_array_equal(codes, fitted.transform(X))


def test_methods_before_fit_say_so():
    failed = small(device="no such device")
    with pytest.raises(ValueError, match="device"):
        failed.fit(X)
    for method in ("transform", "inverse_transform", "reconstruct", "score"):
        for sae in (small(), failed):
            with pytest.raises(NotFittedError):
                getattr(sae, method)(X)
