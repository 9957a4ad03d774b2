"""What estimators of other packages' SAEs share with ours, and what they are not."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from torch import nn

from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr._sae.arrays import coder_of
from skmfr.activations import ablate, loss_recovered, steer
from skmfr.inspection import DictionaryDisplay, ReconstructionDisplay, report
from skmfr.io._weights import Weights, estimator_of

D, M = 8, 24


def weights(threshold=0.5, norms=1.0, dtype=np.float32):
    draw = np.random.default_rng(0)
    atoms = draw.standard_normal((M, D))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    return Weights(
        (atoms + 0.2 * draw.standard_normal((M, D))).astype(dtype),
        (0.2 * draw.standard_normal(M)).astype(dtype),
        (atoms * norms).astype(dtype),
        draw.standard_normal(D).astype(dtype),
        np.full(M, threshold, dtype),
    )


@pytest.fixture
def sae():
    return estimator_of(weights())


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(1).standard_normal((100, D)).astype(np.float32)


def test_fit_checks_the_data_and_changes_nothing(sae, X):
    before = dict(vars(sae))
    assert sae.fit(X) is sae
    assert vars(sae) == before
    with pytest.raises(ValueError, match="X has 5 features, but PretrainedSAE is expe"):
        sae.fit(X[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        sae.fit(np.full((3, D), np.nan))
    assert vars(sae) == before


def test_without_weights_nothing_can_be_coded(X):
    for method in ("fit", "transform", "score"):
        with pytest.raises(NotFittedError):
            getattr(PretrainedSAE(), method)(X)
    with pytest.raises(NotFittedError, match=r"skmfr\.io make one"):
        PretrainedSAE().fit(X)


def test_clones_share_the_weights(sae, X):
    cloned = clone(sae.set_params(k=3))
    assert cloned is not sae
    assert cloned.k == 3
    assert np.shares_memory(cloned.components_, sae.components_)
    assert np.shares_memory(cloned.threshold_, sae.threshold_)
    np.testing.assert_array_equal(cloned.transform(X), sae.transform(X))
    cloned.set_params(k=1)
    assert sae.k == 3


@pytest.mark.parametrize("copied", [deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_code_alike_and_weights_stay_read_only(sae, X, copied):
    copy = copied(sae)
    np.testing.assert_array_equal(copy.transform(X), sae.transform(X))
    with pytest.raises(ValueError, match="read-only"):
        copy.components_[0] = 0


@pytest.mark.parametrize("k", [None, 2, 100])
def test_a_score_at_its_threshold_is_not_above_it(k):
    eye, zeros = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    sae = estimator_of(Weights(eye, zeros, eye, zeros, np.full(3, 0.5, np.float32)))
    sae.set_params(k=k)
    X = np.float32([[0.5, 0.75, 0.25], [0.75, 0.5, 0.5]])
    expected = [[0, 0.75, 0], [0.75, 0, 0]]
    np.testing.assert_array_equal(sae.transform(X), expected)
    module = sae.to_torch()
    np.testing.assert_array_equal(module.encode(torch.tensor(X)).detach(), expected)


def test_k_takes_the_largest_of_those_above_their_threshold(sae, X):
    every = sae.transform(X)
    assert (every > 0).sum(1).max() > 3
    expected = np.zeros_like(every)
    largest = np.argsort(-every, axis=1)[:, :3]
    np.put_along_axis(expected, largest, np.take_along_axis(every, largest, 1), 1)
    np.testing.assert_array_equal(sae.set_params(k=3).transform(X), expected)


@pytest.mark.parametrize("positive", [False, True])
def test_norms_of_atoms_make_no_difference_to_other_algorithms(X, positive):
    norms = np.linspace(0.2, 5, M)[:, None]
    unit, of_norms = estimator_of(weights()), estimator_of(weights(norms=norms))
    for algorithm in ("lstsq", "omp"):
        parameters = {
            "k": 4,
            "transform_algorithm": algorithm,
            "positive_code": positive,
        }
        expected = unit.set_params(**parameters).transform(X)
        codes = of_norms.set_params(**parameters).transform(X)
        assert (codes < 0).any() != positive
        np.testing.assert_allclose(codes * norms[:, 0], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("cosine", "expected"), [(0.9987, [1, 2]), (0.9988, [1 + 2 * 0.9988, 0])]
)
def test_least_squares_leave_out_what_is_nearly_another_atom(cosine, expected):
    atoms = np.array([[1, 0], [cosine, (1 - cosine**2) ** 0.5]])
    zeros = np.zeros(2)
    sae = estimator_of(Weights(atoms, zeros, atoms, zeros, zeros))
    sae.set_params(transform_algorithm="lstsq")
    codes = sae.transform([1.0, 2.0] @ atoms[None])
    np.testing.assert_allclose(codes, [expected], atol=1e-6)


def test_least_squares_keep_the_support_of_the_thresholds(X):
    sae = estimator_of(weights(threshold=2.0))
    support = sae.transform(X) > 0
    codes = sae.set_params(transform_algorithm="lstsq").transform(X)
    assert not (codes != 0)[~support].any()
    i = np.flatnonzero(support.sum(1) == 3)[0]
    atoms = sae.components_[support[i]]
    expected = np.linalg.lstsq(atoms.T, X[i] - sae.decoder_bias_, rcond=None)[0]
    np.testing.assert_allclose(codes[i][support[i]], expected, atol=1e-4)


def test_pursuit_must_be_told_how_many_atoms(sae, X):
    with pytest.raises(ValueError, match="k=None, but transform_algorithm='omp'"):
        sae.set_params(transform_algorithm="omp").transform(X)


def test_codes_do_not_depend_on_the_batch(X):
    # Thresholds that scores hit: those of one sample.
    known = weights(dtype=np.float32)
    scores = (X[:1] - known.decoder_bias) @ known.encoder.T + known.encoder_bias
    sae = estimator_of(known._replace(threshold=np.abs(scores[0])))
    together = sae.transform(X)
    apart = np.concatenate([sae.transform(row[None]) for row in X])
    np.testing.assert_array_equal(together > 0, apart > 0)


def test_nothing_active_is_a_code_of_zeros(X):
    sae = estimator_of(weights(threshold=1e6))
    codes = sae.set_params(sparse_output=True).transform(X)
    assert sparse.issparse(codes)
    assert codes.shape == (len(X), M)
    assert codes.nnz == 0
    np.testing.assert_array_equal(
        sae.reconstruct(X), np.tile(sae.decoder_bias_, (len(X), 1))
    )


def test_it_ends_a_pipeline(sae, X):
    pipeline = make_pipeline(PCA(D, whiten=False), sae)
    codes = pipeline.fit_transform(X)
    expected = sae.transform(PCA(D).fit_transform(X))
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    assert pipeline.get_feature_names_out()[1] == "pretrainedsae1"


def test_it_is_shown_like_ours(sae, X):
    assert f"<dd>{1 - sae.score(X):.1%}</dd>" in report(sae, X).html()
    DictionaryDisplay.from_estimator(sae, atoms=3)
    shown = ReconstructionDisplay.from_estimator(sae, X)
    assert shown.figure_ is not None
    np.testing.assert_allclose(np.linalg.norm(sae.dictionaries_[0], axis=1), 1, 1e-5)


def test_it_steers_and_ablates_like_what_it_computes(sae, X):
    model = nn.Sequential(nn.Identity(), nn.Identity())
    rows = torch.tensor(X[:5])
    codes = sae.transform(X[:5])
    with steer(model, "0", sae, 3, 2.0):
        steered = model(rows)
    expected = X[:5] + (2.0 - codes[:, 3:4]) * sae.components_[3]
    np.testing.assert_allclose(steered, expected, atol=1e-5)
    with ablate(model, "0", sae, [0, 5]):
        ablated = model(rows)
    expected = X[:5] - codes[:, [0, 5]] @ sae.components_[[0, 5]]
    np.testing.assert_allclose(ablated, expected, atol=1e-5)


def test_its_reconstruction_is_spliced_like_any(sae):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, D), nn.Identity(), nn.Linear(D, 50))
    tokens = np.random.default_rng(0).integers(50, size=(6, 7))
    recovered = loss_recovered(model, "1", sae, tokens)
    assert recovered == pytest.approx(
        loss_recovered(model, "1", sae.reconstruct, tokens), abs=1e-6
    )


def test_weights_are_prepared_once(sae, X):
    assert coder_of(sae, X) is coder_of(sae, X)
    with pytest.raises(ValueError, match="read-only"):
        sae.threshold_[0] = 1


def test_it_has_the_attributes_of_one_of_ours_without_witness(sae):
    ours = MFRSparseAutoencoder(M, n_saes=1, n_witnesses=0, k=2, max_steps=1)
    ours.fit(np.random.default_rng(0).standard_normal((20, D)))
    public = {name for name in vars(ours) if name[-1] == "_"} | {"reappearance_"}
    # Made when it is read, as atoms here have any norm.
    assert {name for name in vars(sae) if name[-1] == "_"} == public - {"dictionaries_"}
    assert sae.k_ is None
    for name in ("n_outliers_", "inlier_fvu_", "outlier_fvu_"):
        assert getattr(sae, name) == getattr(ours, name)


def test_ours_has_no_thresholds():
    assert MFRSparseAutoencoder().threshold_ is None
