"""Samples that share their active atoms, and are coded by a threshold."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_superposition
from skmfr.io import from_sae_lens, load, save, to_sae_lens, to_sparsify
from skmfr.metrics import fvu, make_fixed_l0_scorer

K, N_TRAIN = 5, 9000


@pytest.fixture(scope="module")
def data():
    """Samples whose number of active features differs, not centred, large."""
    X, _, _ = make_superposition(N_TRAIN + 2000, 32, 64, n_active=K, random_state=0)
    return X[:N_TRAIN] * 30 + 7, X[N_TRAIN:] * 30 + 7


def shared(**parameters):
    defaults = {"n_components": 64, "k": K, "max_steps": 400, "random_state": 0}
    alone = {"n_saes": 1, "n_witnesses": 0, "activation": "batchtopk"}
    return MFRSparseAutoencoder(**(defaults | alone | parameters))


@pytest.fixture(scope="module")
def fitted(data):
    return shared().fit(data[0])


def scores_of(sae, X):
    return (X - sae.decoder_bias_) @ sae.encoder_weights_.T + sae.encoder_bias_


def codes_of(sae, scores):
    """Scores above the threshold, and of more than 2 k of them the largest."""
    largest = np.sort(scores, axis=1)[:, [-2 * sae.k_]]
    return np.where((scores > sae.threshold_) & (scores >= largest), scores, 0)


def test_atoms_above_the_threshold_are_active(data, fitted):
    scores = scores_of(fitted, data[1])
    assert fitted.threshold_.shape == (64,)
    assert fitted.threshold_.min() == fitted.threshold_.max() > 0
    expected = codes_of(fitted, scores)
    assert set((expected != 0).sum(1)) == set(range(2 * K + 1))
    np.testing.assert_allclose(fitted.transform(data[1]), expected, atol=1e-9)


def test_k_are_active_on_average(data, fitted):
    counts = (fitted.transform(data[0]) != 0).sum(1)
    # The threshold is of all rows, up to rounding of training in float32.
    assert counts.mean() == pytest.approx(K, abs=1e-3)
    assert counts.std() > 1
    new = (fitted.transform(data[1]) != 0).sum(1)
    assert new.mean() == pytest.approx(K, abs=0.25)
    assert fitted.k_ == K


def test_the_number_is_exact_for_few_rows_and_for_repeated_ones(data):
    few = data[0][:150]
    sae = shared(k=2, max_steps=60).fit(few)
    assert (sae.transform(few) != 0).sum() == 2 * len(few)
    patterns = np.random.default_rng(7).standard_normal((5, 16))
    repeated = patterns[np.random.default_rng(0).integers(0, 5, 2000)]
    for seed in range(3):
        sae = shared(n_components=32, k=1, max_steps=200, random_state=seed)
        codes = sae.fit(repeated).transform(repeated)
        assert (codes != 0).sum() == len(repeated)


def test_less_of_the_variance_is_left_than_with_k_in_each_sample(data, fitted):
    by_k = shared(activation="topk").fit(data[0])
    assert by_k.threshold_ is None
    # .084 and .108 on these data.
    assert fitted.score(data[1]) > by_k.score(data[1]) + 0.01


def test_codes_of_a_sample_do_not_depend_on_others(data, fitted):
    together = fitted.transform(data[1][:300])
    one_by_one = np.concatenate([fitted.transform(x[None]) for x in data[1][:300]])
    np.testing.assert_array_equal(together != 0, one_by_one != 0)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-12, atol=1e-9)


def test_least_squares_is_on_the_atoms_above_the_threshold(data, fitted):
    sae = clone(fitted)
    vars(sae).update(vars(fitted))
    sae.set_params(transform_algorithm="lstsq")
    x = data[1][:20]
    support = fitted.transform(x) != 0
    for row, active, code in zip(x, support, sae.transform(x), strict=True):
        atoms = sae.components_[active].T
        best = np.linalg.lstsq(atoms, row - sae.decoder_bias_, rcond=None)[0]
        np.testing.assert_allclose(code[active], best, atol=1e-6)
        assert not code[~active].any()


def test_matching_pursuit_uses_k_atoms(data, fitted):
    sae = pickle.loads(pickle.dumps(fitted)).set_params(transform_algorithm="omp", k=3)
    assert set((sae.transform(data[1][:200]) != 0).sum(1)) == {3}


def test_another_k_is_refused_and_topk_allows_it(data, fitted):
    sae = pickle.loads(pickle.dumps(fitted)).set_params(k=9)
    with pytest.raises(ValueError, match="k=9, but .* k=5 of the fit"):
        sae.transform(data[1])
    with pytest.raises(ValueError, match="k=9"):
        sae.to_torch()
    sae.set_params(activation="topk")
    assert (sae.transform(data[1]) != 0).sum(1).max() == 9


def test_no_threshold_is_told(data):
    sae = shared(activation="topk", max_steps=20).fit(data[0])
    sae.set_params(activation="batchtopk")
    with pytest.raises(ValueError, match="needs a threshold"):
        sae.transform(data[1])
    sae.set_params(activation="relu")
    with pytest.raises(ValueError, match="'activation' parameter"):
        sae.transform(data[1])


def test_all_atoms_may_be_active(data):
    sae = shared(n_components=6, k=20, max_steps=50).fit(data[0])
    assert sae.k_ == 6
    assert not sae.threshold_.any()
    scores = scores_of(sae, data[1])
    np.testing.assert_allclose(sae.transform(data[1]), scores.clip(0), atol=1e-9)


def test_codes_are_of_the_size_of_the_data(data, fitted):
    """With a power of two, all operations are the same."""
    large = shared().fit(data[0] * 2.0**40)
    np.testing.assert_array_equal(large.threshold_, fitted.threshold_ * 2.0**40)
    np.testing.assert_array_equal(
        large.transform(data[1] * 2.0**40), fitted.transform(data[1]) * 2.0**40
    )


def test_scorers_of_a_fixed_number_take_the_largest(data, fitted):
    found = make_fixed_l0_scorer(3, transform_algorithm="encoder")(fitted, data[1])
    scores = scores_of(fitted, data[1]).clip(0)
    smallest = np.sort(scores, axis=1)[:, [-3]]
    codes = np.where(scores >= smallest, scores, 0)
    expected = 1 - fvu(data[1], fitted.inverse_transform(codes))
    assert found == pytest.approx(expected, rel=1e-9)
    assert fitted.get_params()["activation"] == "batchtopk"


def test_training_goes_on(data, fitted):
    sae = pickle.loads(pickle.dumps(fitted))
    before = sae.score(data[1])
    sae.partial_fit(data[0][:3000])
    assert sae.score(data[1]) > before - 0.005
    counts = (sae.transform(data[0][:3000]) != 0).sum(1)
    assert counts.mean() == pytest.approx(K, abs=1e-3)
    # A few rows move the threshold a little.
    threshold = sae.threshold_[0]
    sae.partial_fit(data[0][:10])
    assert sae.threshold_[0] == pytest.approx(threshold, rel=0.02)


@pytest.mark.parametrize("k", [2, 10])
def test_a_threshold_for_another_k_does_not_go_on(data, fitted, k):
    sae = pickle.loads(pickle.dumps(fitted)).set_params(k=k)
    sae.partial_fit(data[0][:100])
    assert sae.k_ == k
    counts = (sae.transform(data[0][:100]) != 0).sum(1)
    assert counts.mean() == pytest.approx(k, abs=0.02)


def test_a_second_fit_to_few_rows_has_their_threshold(data, fitted):
    sae = pickle.loads(pickle.dumps(fitted)).set_params(warm_start=True, max_steps=5)
    sae.fit(data[0][:100] * 3)
    counts = (sae.transform(data[0][:100] * 3) != 0).sum(1)
    assert counts.mean() == pytest.approx(K, abs=0.02)


def test_a_threshold_of_rows_that_are_alike_is_forgotten(data, tmp_path):
    save(shared().fit(data[0]), tmp_path / "sae", training_state=False)
    sae = load(tmp_path / "sae")
    sae.partial_fit(np.repeat(data[0].mean(0)[None], 900, axis=0))
    sae.partial_fit(data[0][:100])
    assert (sae.transform(data[1]) != 0).sum(1).mean() == pytest.approx(K, rel=0.2)


def test_thresholds_that_are_assigned_are_checked(data, fitted):
    sae = pickle.loads(pickle.dumps(fitted))
    sae.threshold_ = 3.0
    with pytest.raises(ValueError, match=r"threshold_ has shape \(\), expected"):
        sae.transform(data[1])


def test_passes_alone_share_from_the_first_step(data):
    parts = np.split(np.tile(data[0], (8, 1)), 24)
    saes = [shared(), shared(activation="topk")]
    for part in parts:
        for sae in saes:
            sae.partial_fit(part)
    assert saes[0].score(data[1]) > saes[1].score(data[1]) + 0.01


def test_warm_start_from_topk_finds_a_threshold(data):
    sae = shared(activation="topk", warm_start=True, max_steps=200).fit(data[0])
    sae.set_params(activation="batchtopk").fit(data[0])
    counts = (sae.transform(data[0]) != 0).sum(1)
    assert counts.mean() == pytest.approx(K, abs=1e-3)
    sae.set_params(activation="topk").fit(data[0])
    assert sae.threshold_ is None


def test_checkpoints_resume_to_the_same_bytes(data, tmp_path):
    class Enough(Exception):
        pass

    def stop(step, info):
        if step == 350:
            raise Enough

    with pytest.raises(Enough):
        shared(
            checkpoint_dir=tmp_path, checkpoint_every=340, callback=stop, batch_size=64
        ).fit(data[0])
    resumed = shared(checkpoint_dir=tmp_path, checkpoint_every=340, batch_size=64)
    whole = shared(batch_size=64).fit(data[0])
    resumed.fit(data[0])
    assert resumed.threshold_.tobytes() == whole.threshold_.tobytes()
    assert resumed.transform(data[1]).tobytes() == whole.transform(data[1]).tobytes()


def test_early_stopping_looks_at_shared_codes_where_samples_share(data):
    sae = shared(early_stopping=True, warm_start=True, max_steps=300).fit(data[0])
    score = sae.score(data[1])
    assert sae.fit(data[0]).score(data[1]) > score - 0.01


@pytest.mark.parametrize("training_state", [True, False])
def test_files_keep_the_threshold(data, fitted, tmp_path, training_state):
    file = tmp_path / "sae.safetensors"
    save(fitted, file, training_state=training_state)
    loaded = load(file)
    assert loaded.k_ == K
    assert loaded.threshold_.tobytes() == fitted.threshold_.tobytes()
    assert loaded.transform(data[1]).tobytes() == fitted.transform(data[1]).tobytes()
    loaded.partial_fit(data[0])
    assert loaded.score(data[1]) > fitted.score(data[1]) - 0.01


def test_saelens_gets_a_jumprelu_sae(data, fitted, tmp_path):
    with pytest.warns(UserWarning, match="at most 10 atoms .* no such limit"):
        to_sae_lens(fitted, tmp_path)
    imported = from_sae_lens(tmp_path)
    assert type(imported).__name__ == "PretrainedSAE"
    scores = scores_of(fitted, data[1])
    codes = np.where(scores > fitted.threshold_, scores, 0)
    assert (codes != 0).sum(1).max() > 2 * K
    np.testing.assert_allclose(imported.transform(data[1]), codes, atol=1e-9)
    imported.set_params(k=2 * K)
    np.testing.assert_allclose(imported.transform(data[1]), fitted.transform(data[1]))


def test_saelens_gets_a_topk_sae_if_that_is_chosen(data, fitted, tmp_path):
    sae = pickle.loads(pickle.dumps(fitted)).set_params(activation="topk", k=7)
    to_sae_lens(sae, tmp_path)
    imported = from_sae_lens(tmp_path)
    assert (imported.transform(data[1]) != 0).sum(1).max() == 7


def test_sparsify_has_no_thresholds(fitted, tmp_path):
    with pytest.raises(ValueError, match="sparsify has no SAE with thresholds"):
        to_sparsify(fitted, tmp_path)
    assert not any(tmp_path.iterdir())


def test_modules_have_the_same_codes(data, fitted):
    module = fitted.to_torch()
    codes = module.encode(torch.from_numpy(data[1]))
    np.testing.assert_allclose(codes.numpy(force=True), fitted.transform(data[1]))


@pytest.mark.parametrize(
    "parameters",
    [
        {"tied": True},
        {"precision": "bfloat16"},
        {"transform_algorithm": "omp"},
        {"n_saes": 3, "n_witnesses": 2, "witness_rows": "disjoint"},
    ],
)
def test_it_goes_with_other_parameters(data, parameters):
    sae = shared(max_steps=100, **parameters).fit(data[0])
    sae.set_params(transform_algorithm="encoder")
    counts = (sae.transform(data[0]) != 0).sum(1)
    assert counts.mean() == pytest.approx(K, abs=0.01)
