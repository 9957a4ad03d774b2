"""Metrics against scikit-learn and counting; scorers in real grid searches."""

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler, normalize

from skmfr import MFRSparseAutoencoder
from skmfr.agreement import reappearance
from skmfr.metrics import (
    agreement_scorer,
    dead_fraction,
    estimate_l0,
    fvu,
    fvu_of_blocks,
    l0,
    make_fixed_l0_scorer,
    reappearance_scorer,
    recall_precision,
)


def random_data(offset=0.0, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6)) * [1, 2, 3, 4, 5, 60] + offset
    X_hat = X + rng.standard_normal(X.shape)
    return X.astype(dtype), X_hat.astype(dtype)


def one_minus_r2(X, X_hat):
    score = r2_score(
        X.astype(np.float64), X_hat.astype(np.float64), multioutput="variance_weighted"
    )
    return 1 - score


# A mean of 1e5 is 1e5 standard deviations away: variances as mean squares less squared
# means would have lost all digits in float32.
@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fvu_is_one_minus_r2(offset, dtype):
    X, X_hat = random_data(offset, dtype)
    # Differences are exact here; sums are in float64 on both sides.
    assert fvu(X, X_hat) == pytest.approx(one_minus_r2(X, X_hat), rel=1e-6)


def test_fvu_of_mixed_precisions():
    X, X_hat = random_data()
    found = fvu(X.astype(np.float32), X_hat)
    assert found == pytest.approx(one_minus_r2(X.astype(np.float32), X_hat), rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("n_blocks", [1, 3, 200])
def test_fvu_does_not_depend_on_the_blocks(offset, n_blocks):
    X, X_hat = random_data(offset)
    parts = [np.array_split(part, n_blocks) for part in (X, X_hat)]
    found = fvu_of_blocks(zip(*parts, strict=True))
    assert found == pytest.approx(one_minus_r2(X, X_hat), rel=1e-9)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_fvu_has_no_unit(unit):
    X, X_hat = random_data()
    assert fvu(X * unit, X_hat * unit) == pytest.approx(fvu(X, X_hat), rel=1e-9)


def test_fvu_refuses_values_whose_squares_overflow():
    X = 1e160 * np.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match="X has values so large"):
        fvu(X, X)


def test_fvu_of_the_mean_is_one_and_of_the_data_zero():
    X, _ = random_data()
    assert fvu(X, np.tile(X.mean(0), (len(X), 1))) == pytest.approx(1, rel=1e-12)
    assert fvu(X, X) == 0
    assert type(fvu(X, X)) is float


def test_constant_columns_count_with_their_error_only():
    X, X_hat = random_data()
    X[:, 0] = 3.0
    expected = np.sum((X - X_hat) ** 2) / np.sum((X - X.mean(0)) ** 2)
    assert fvu(X, X_hat) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [0.0, 2.0, 0.1, -1 / 3])
@pytest.mark.parametrize("n_blocks", [1, 5])
def test_fvu_of_constant_data_is_zero_if_exact_else_one(dtype, constant, n_blocks):
    X = np.full((997, 3), constant, dtype)
    blocks = np.array_split(X, n_blocks)
    assert fvu_of_blocks((block, block) for block in blocks) == 0
    assert fvu_of_blocks((block, block + dtype(0.1)) for block in blocks) == 1


@pytest.mark.parametrize("shape", [(10, 4), (9, 3), (1, 3), (10, 1)])
def test_fvu_refuses_shapes_that_would_broadcast(shape):
    with pytest.raises(ValueError, match="X_hat|inconsistent numbers of samples"):
        fvu(np.ones((10, 3)), np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_fvu_refuses_values_that_are_not_finite(bad, which):
    arrays = random_data()
    arrays[which][3, 2] = bad
    with pytest.raises(ValueError, match="NaN|infinity"):
        fvu(*arrays)


def random_codes():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((40, 25)) * (rng.random((40, 25)) < 0.05)
    assert not codes.any(axis=0).all()
    return codes


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array, sparse.csc_matrix])
def test_l0_counts_active_atoms_per_sample(kind):
    codes = random_codes()
    expected = sum(value != 0 for row in codes for value in row) / len(codes)
    assert l0(kind(codes)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array, sparse.csc_matrix])
def test_dead_fraction_counts_atoms_that_are_never_active(kind):
    codes = random_codes()
    expected = sum(not any(column) for column in codes.T) / codes.shape[1]
    assert dead_fraction(kind(codes)) == pytest.approx(expected, rel=1e-12)


def test_stored_zeros_are_not_active():
    codes = sparse.csr_array(random_codes())
    codes.data[::2] = 0
    assert l0(codes) == l0(codes.toarray())
    assert dead_fraction(codes) == dead_fraction(codes.toarray())


@pytest.mark.parametrize(
    "bad", [np.full((3, 4), np.nan), np.ones(3), np.ones((2, 3, 4)), np.empty((0, 4))]
)
def test_unusable_arrays_are_refused_by_name(bad):
    good = np.ones((3, 4))
    for name, call in {
        "X has|X contains": lambda: fvu(bad, good),
        "X_hat": lambda: fvu(good, bad),
        "codes": lambda: l0(bad),
        "codes h|codes c": lambda: dead_fraction(bad),
        "atoms": lambda: recall_precision(bad, good),
        "truth": lambda: recall_precision(good, bad),
    }.items():
        with pytest.raises(ValueError, match=name):
            call()


def random_atoms(n, seed):
    return np.random.default_rng(seed).standard_normal((n, 3))


def share_found(wanted, atoms, tau):
    """Share of rows with some row of another matrix at a cosine of tau or more."""

    def cosine(a, b):
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    return np.mean([any(cosine(a, b) >= tau for b in atoms) for a in wanted])


@pytest.mark.parametrize("tau", [0, 0.5, 0.9, 0.99])
def test_recall_and_precision_equal_brute_force(tau):
    atoms, truth = random_atoms(40, 0), random_atoms(15, 1)
    recall, precision = recall_precision(atoms, truth, tau)
    assert recall == share_found(truth, atoms, tau)
    assert precision == share_found(atoms, truth, tau)
    assert recall_precision(truth, atoms, tau) == (precision, recall)


def test_recall_and_precision_of_part_of_the_truth_with_noise():
    truth = np.eye(8)
    atoms = np.concatenate([3 * truth[:6], truth[:2], -truth[6:], np.ones((2, 8))])
    # 6 of 8 found; 8 of 12 atoms are true, two of them twice.
    assert recall_precision(atoms, truth) == (6 / 8, 8 / 12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_truth_itself_has_full_recall_and_precision_at_a_cosine_of_one(dtype):
    truth = np.random.default_rng(0).standard_normal((200, 768)).astype(dtype)
    assert recall_precision(5 * truth, truth, tau=1) == (1.0, 1.0)


def test_recall_precision_refuses_other_numbers_of_features():
    with pytest.raises(ValueError, match="truth has 5 features, but .* has 4"):
        recall_precision(np.ones((3, 4)), np.ones((3, 5)))


@pytest.mark.parametrize("tau", [-0.1, 1.1, np.nan, None, "0.5"])
def test_recall_precision_refuses_a_tau_outside_0_and_1(tau):
    with pytest.raises(ValueError, match="tau"):
        recall_precision(np.ones((3, 4)), np.ones((3, 4)), tau)


def sparse_data(n_samples=300):
    """Few of 12 features in 6 dimensions."""
    rng = np.random.default_rng(0)
    codes = rng.random((n_samples, 12)) * (rng.random((n_samples, 12)) < 0.15)
    return codes @ random_atoms(24, 2).reshape(12, 6)


# Fits this short show signs of failure, as they should.
short_fits = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def small_sae(**changes):
    usual = {"n_components": 16, "n_saes": 2, "n_witnesses": 1, "k": 3, "max_steps": 30}
    return MFRSparseAutoencoder(**(usual | changes), alpha=0.01, random_state=0)


@short_fits
def test_agreement_scorer_is_the_mean_agreement_above_chance():
    X = sparse_data()
    sae = small_sae().fit(X)
    null = sae.agreement_null_
    expected = (sae.feature_agreement_.mean() - null) / (1 - null)
    assert agreement_scorer(sae, X) == pytest.approx(expected, rel=1e-12)
    assert type(agreement_scorer(sae, X)) is float
    pipeline = make_pipeline(StandardScaler(), small_sae()).fit(X)
    assert agreement_scorer(pipeline, X) == agreement_scorer(pipeline[-1], None)


def test_reappearance_scorer_counts_the_atoms_that_return():
    X = np.random.default_rng(0).standard_normal((200, 8))
    sae = MFRSparseAutoencoder(12, k=2, max_steps=20, random_state=0).fit(X)
    probability, _ = reappearance(sae)
    assert reappearance_scorer(sae, X) == pytest.approx(probability.sum())
    assert type(reappearance_scorer(sae, X)) is float
    pipeline = make_pipeline(StandardScaler(), sae)
    assert reappearance_scorer(pipeline, None) == reappearance_scorer(sae, X)
    for missing in ({"n_witnesses": 0}, {"n_saes": 1, "n_witnesses": 1}):
        few = MFRSparseAutoencoder(12, k=2, max_steps=1, **missing).fit(X)
        with pytest.raises(ValueError, match="cannot be estimated"):
            reappearance_scorer(few, X)


@short_fits
@pytest.mark.parametrize("n_components", [4, 256])
def test_agreement_scorer_gives_random_dictionaries_zero(n_components):
    # Untrained, for all that a step of such a length does.
    sae = small_sae(n_components=n_components, max_steps=1, learning_rate=1e-9)
    sae.set_params(n_witnesses=8)
    X = np.random.default_rng(0).standard_normal((500, 16))
    score = agreement_scorer(sae.fit(X), X)
    assert abs(score) < 0.1
    assert agreement_scorer(sae, X) < sae.feature_agreement_.mean() / 2


@short_fits
def test_agreement_scorer_needs_something_to_agree_with():
    sae = small_sae(n_saes=1, n_witnesses=0).fit(sparse_data())
    with pytest.raises(ValueError, match="n_witnesses"):
        agreement_scorer(sae, sparse_data())
    # All atoms have one of two directions.
    line = sparse_data()[:, :1]
    with pytest.raises(ValueError, match="have one feature"):
        agreement_scorer(small_sae(n_components=4, k=1).fit(line), line)


@pytest.mark.parametrize("scorer", [agreement_scorer, reappearance_scorer])
def test_scorers_say_that_an_estimator_is_not_fitted(scorer):
    with pytest.raises(NotFittedError):
        scorer(small_sae(), None)


@short_fits
def test_agreement_scorer_refuses_agreement_that_the_penalty_optimises():
    sae = small_sae(n_witnesses=0).fit(sparse_data())
    with pytest.raises(ValueError, match="n_witnesses"):
        agreement_scorer(sae, sparse_data())
    assert np.isfinite(agreement_scorer(sae.set_params(alpha=0.0), sparse_data()))


@short_fits
def test_agreement_scorer_refuses_data_of_one_feature():
    X = sparse_data()[:, :1]
    sae = small_sae(n_components=60).fit(X)
    with pytest.raises(ValueError, match="one dimension"):
        agreement_scorer(sae, X)


@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
def test_fixed_l0_scorer_codes_with_so_many_atoms_and_that_algorithm(algorithm):
    X = sparse_data()
    sae = small_sae(transform_algorithm="lstsq").fit(X)
    scorer = make_fixed_l0_scorer(2, transform_algorithm=algorithm)
    score = scorer(sae, X)
    assert (sae.k, sae.transform_algorithm) == (3, "lstsq")
    sae.set_params(k=2, transform_algorithm=algorithm)
    assert l0(sae.transform(X)) <= 2
    assert score == pytest.approx(1 - fvu(X, sae.reconstruct(X)), rel=1e-9)
    assert type(score) is float


def test_fixed_l0_scorer_does_not_depend_on_the_k_of_the_estimator():
    X = sparse_data()
    sae = small_sae().fit(X)
    scores = [make_fixed_l0_scorer(4)(sae.set_params(k=k), X) for k in (1, 3, 16)]
    assert scores[0] == scores[1] == scores[2]


def test_fixed_l0_scorer_can_leave_the_algorithm_to_the_estimator():
    X = sparse_data()
    sae = small_sae(transform_algorithm="lstsq").fit(X)
    own = make_fixed_l0_scorer(2, transform_algorithm=None)(sae, X)
    assert own == make_fixed_l0_scorer(2, transform_algorithm="lstsq")(sae, X)
    assert own != make_fixed_l0_scorer(2)(sae, X)


@short_fits
def test_fixed_l0_scorer_takes_all_atoms_where_there_are_fewer():
    X = sparse_data()
    sae = small_sae(n_components=4).fit(X)
    assert make_fixed_l0_scorer(100)(sae, X) == make_fixed_l0_scorer(4)(sae, X)


@short_fits
def test_fixed_l0_scorer_scores_what_a_pipeline_hands_to_the_sae():
    X = sparse_data()
    pipeline = make_pipeline(StandardScaler(), small_sae()).fit(X)
    scorer = make_fixed_l0_scorer(2)
    scaled = pipeline[0].transform(X)
    assert scorer(pipeline, X) == scorer(pipeline[-1], scaled)
    alone = make_pipeline(small_sae()).fit(X)
    assert scorer(alone, X) == scorer(alone[-1], X)


def test_scorers_survive_pickling():
    X = sparse_data()
    sae = small_sae().fit(X)
    for scorer in (agreement_scorer, make_fixed_l0_scorer(2)):
        assert pickle.loads(pickle.dumps(scorer))(sae, X) == scorer(sae, X)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("l0", 0), ("l0", 2.5), ("l0", np.nan), ("transform_algorithm", "lasso")],
)
def test_make_fixed_l0_scorer_refuses_bad_parameters(name, bad):
    with pytest.raises(ValueError, match=name):
        make_fixed_l0_scorer(**{name: bad})


@short_fits
def test_both_scorers_serve_a_multimetric_grid_search():
    X = sparse_data()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small_sae()),
        {"mfrsparseautoencoder__k": [1, 8]},
        scoring={
            "agreement": agreement_scorer,
            "fixed_l0": make_fixed_l0_scorer(2),
            "own": make_fixed_l0_scorer(8, transform_algorithm="encoder"),
        },
        refit="agreement",
        cv=KFold(2),
        error_score="raise",
    ).fit(X)
    results = search.cv_results_
    train, test = next(search.cv.split(X))
    pipeline = search.best_estimator_.set_params(**results["params"][0])
    pipeline.fit(X[train])
    assert results["split0_test_agreement"][0] == agreement_scorer(pipeline, X[test])
    expected = make_fixed_l0_scorer(2)(pipeline, X[test])
    assert results["split0_test_fixed_l0"][0] == expected
    assert search.best_index_ == np.argmax(results["mean_test_agreement"])


def with_atoms(atoms) -> MFRSparseAutoencoder:
    """A fitted estimator with these atoms, and with the origin as its bias."""
    n_components, n_features = atoms.shape
    X = np.random.default_rng(0).standard_normal((64, n_features))
    sae = MFRSparseAutoencoder(n_components, n_saes=1, n_witnesses=0, max_steps=1)
    sae.fit(X)
    sae.components_ = atoms
    sae.decoder_bias_ = np.zeros(n_features)
    return sae


@pytest.mark.parametrize("n_active", [1, 3, 5])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_estimate_l0_counts_known_features(n_active, noise):
    rng = np.random.default_rng(n_active)
    atoms = normalize(rng.standard_normal((64, 32)))
    active = rng.random((800, 64)).argsort(axis=1) < n_active
    X = (active * rng.uniform(0.8, 1.2, active.shape)) @ atoms
    X += noise * rng.standard_normal(X.shape)
    sae, before = with_atoms(atoms), X.copy()
    found = estimate_l0(sae, X, random_state=0)
    assert found == pytest.approx(n_active, abs=0.15 * n_active + 0.1)
    assert np.array_equal(X, before)
    assert (sae.k, sae.transform_algorithm, sae.sparse_output) == (8, "encoder", False)
    assert found == estimate_l0(sae, X, random_state=0)
    shift = FunctionTransformer(lambda X: X - 1.0).fit(X)
    assert estimate_l0(make_pipeline(shift, sae), X + 1.0, random_state=0) == (
        pytest.approx(found, abs=1e-6)
    )


def test_estimate_l0_of_data_without_features():
    """Gaussian samples, although atoms lie along their axes, some of them large."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    X = rng.standard_normal((1000, 20)) * np.arange(1, 21) ** -1.0 @ axes
    atoms = np.concatenate([axes, -axes])
    assert estimate_l0(with_atoms(atoms), X, random_state=0) < 0.7


def test_estimate_l0_depends_neither_on_norms_of_atoms_nor_on_the_unit():
    rng = np.random.default_rng(0)
    atoms = normalize(rng.standard_normal((64, 32)))
    active = rng.random((600, 64)).argsort(axis=1) < 3
    X = (active * rng.uniform(0.8, 1.2, active.shape)) @ atoms
    X += 0.1 * rng.standard_normal(X.shape)
    # Fitted in float64, whose range the units need.
    expected = estimate_l0(with_atoms(atoms), X, random_state=0)
    sizes = np.exp(rng.standard_normal((64, 1)))
    for given, factor in [(sizes * atoms, 1), (1e-5 * atoms, 1), (atoms, 1e-16)]:
        found = estimate_l0(with_atoms(given), factor * X, random_state=0)
        assert found == pytest.approx(expected, abs=0.01)


def test_estimate_l0_does_not_hold_the_atoms_of_all_samples():
    rng = np.random.default_rng(0)
    atoms = normalize(rng.standard_normal((96, 64)))
    active = rng.random((2000, 96)).argsort(axis=1) < 8
    X = active @ atoms
    sae = with_atoms(atoms)
    estimate_l0(sae, X[:200], random_state=0)  # what is compiled and loaded once
    tracemalloc.start()
    found = estimate_l0(sae, X, random_state=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found > 7
    # The 8 atoms of each sample are 8 times X, of which several arrays were made.
    assert peak < 15 * X.nbytes


def test_estimate_l0_of_signed_codes():
    """An atom that is also used with negative coefficients counts once."""
    rng = np.random.default_rng(0)
    atoms = normalize(rng.standard_normal((64, 32)))
    active = rng.random((800, 64)).argsort(axis=1) < 3
    X = (active * rng.choice([-1.0, 1.0], active.shape)) @ atoms
    sae = with_atoms(atoms).set_params(transform_algorithm="omp")
    assert estimate_l0(sae, X, random_state=0) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(3), "Expected 2D array"),
        (np.full((2, 3), np.nan), "NaN"),
        (np.ones((4, 5)), "expecting 3 features"),
    ],
)
def test_estimate_l0_says_what_is_wrong_with_data(X, message):
    with pytest.raises(ValueError, match=message):
        estimate_l0(with_atoms(np.eye(3)), X)


def test_estimate_l0_names_a_bad_random_state():
    with pytest.raises(ValueError, match="random_state"):
        estimate_l0(with_atoms(np.eye(3)), np.ones((4, 3)), random_state=-1)
