import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from shutil import copytree
from threading import Lock

import joblib
import numpy as np
import pytest
import torch
from forks import workers_of_joblib
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from skmfr import MFRSparseAutoencoder
from skmfr.activations import ActivationExtractor, steer

LAYER = "transformer.h.0.mlp"
WIDTH = 16


@pytest.fixture(scope="module")
def gpt2() -> GPT2LMHeadModel:
    """A random GPT-2 with dropout, so that its mode shows."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=12, n_embd=WIDTH, n_layer=3, n_head=2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(50, size=(20, 10))


def truth(model, tokens, layer=0) -> np.ndarray:
    """Outputs of an MLP by transformers' own means: what the residual stream gains."""
    block = model.transformer.h[layer]
    with torch.no_grad():
        before = model(torch.tensor(tokens), output_hidden_states=True)
        stream = before.hidden_states[layer]
        attended = stream + block.attn(block.ln_1(stream))[0]
        return block.mlp(block.ln_2(attended)).numpy()


@pytest.fixture
def count():
    """Forward passes of a module, counted by a hook that is not the module's."""
    handles = []

    def counted(model) -> list:
        calls: list = []

        def note(module, inputs):
            if module is model:
                calls.append(1)

        handles.append(register_module_forward_pre_hook(note))
        return calls

    yield counted
    for handle in handles:
        handle.remove()


class Words:
    """A tokenizer of transformers' kind: one token a word, its length."""

    def __call__(self, texts):
        return {"input_ids": [[len(word) for word in t.split()] for t in texts]}


def test_all_positions_are_what_the_layer_gives(gpt2, tokens):
    # Attention is a convolution over tokens that other batches round otherwise.
    rows = ActivationExtractor(gpt2, LAYER, positions="all").fit_transform(tokens)
    np.testing.assert_allclose(rows, truth(gpt2, tokens).reshape(-1, WIDTH), atol=1e-6)
    assert rows.dtype == np.float32


@pytest.mark.parametrize(
    ("positions", "reduce"),
    [
        ("last", lambda x: x[:, -1]),
        (3, lambda x: x[:, 3]),
        (-2, lambda x: x[:, -2]),
        ("mean", lambda x: x.mean(1)),
        ("max", lambda x: x.max(1)),
    ],
)
def test_one_row_per_input(gpt2, tokens, positions, reduce):
    extractor = ActivationExtractor(gpt2, LAYER, positions=positions, batch_size=7)
    rows = extractor.fit_transform(tokens)
    np.testing.assert_allclose(rows, reduce(truth(gpt2, tokens)), atol=1e-6)
    assert extractor.get_feature_names_out().shape == (WIDTH,)


@pytest.mark.parametrize("positions", ["last", 1, -2, "mean", "max", "all"])
@pytest.mark.parametrize("given", ["list", "right", "left", "mapping", "ids"])
def test_padding_does_not_count(gpt2, positions, given):
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, 50, size=n) for n in (4, 9, 2, 6)]
    alone = ActivationExtractor(gpt2, LAYER, positions=positions)
    expected = np.concatenate([alone.transform(s[None]) for s in sequences])
    padded, mask = np.zeros((2, 4, 9), dtype=int)
    for row, used, sequence in zip(padded, mask, sequences, strict=True):
        row[: len(sequence)] = sequence
        used[: len(sequence)] = 1
    shifts = [9 - len(sequence) for sequence in sequences]
    left = np.stack([np.roll(row, n) for row, n in zip(padded, shifts, strict=True)])
    X, pad = {
        "list": (sequences, None),
        "right": (padded, 0),
        "left": (left, 0),
        "mapping": ({"input_ids": padded, "attention_mask": mask}, None),
        "ids": ({"input_ids": padded}, 0),
    }[given]
    rows = alone.set_params(pad_token_id=pad).transform(X)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_texts_are_tokenized(gpt2):
    texts = ["a bb ccc", "dd e", "eee eee"]
    extractor = ActivationExtractor(gpt2, LAYER, tokenizer=Words())
    expected = ActivationExtractor(gpt2, LAYER).transform([[1, 2, 3], [2, 1], [3, 3]])
    assert np.array_equal(extractor.fit_transform(texts), expected)
    assert np.array_equal(extractor.transform(np.array(texts)), expected)


def test_models_of_texts_and_images_take_both():
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    text = sizes | {"vocab_size": 20, "max_position_embeddings": 6, "eos_token_id": 2}
    image = sizes | {"image_size": 8, "patch_size": 4}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=image)).eval()
    X = {"input_ids": [[3, 4, 2], [5, 6, 2]], "pixel_values": np.ones((2, 3, 8, 8))}
    layer = "text_model.encoder.layers.0.mlp"
    rows = ActivationExtractor(model, layer, positions="all").transform(X)
    kept: list = []
    hooked = model.get_submodule(layer).register_forward_hook(
        lambda *arguments: kept.append(arguments[2])
    )
    with torch.no_grad():
        model(torch.tensor(X["input_ids"]), torch.ones(2, 3, 8, 8))
    hooked.remove()
    np.testing.assert_allclose(rows, kept[0].flatten(0, 1), atol=1e-6)
    long = X | {"input_ids": [[3] * 7] * 2}
    with pytest.raises(ValueError, match="7 tokens.*context is 6"):
        ActivationExtractor(model, layer).fit(long)


def test_modules_without_a_mask_get_no_padding():
    torch.manual_seed(0)

    class Backward(nn.Module):
        """Each token sees those after it, padding too if there were any."""

        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 4)
            self.sum = nn.Identity()

        def forward(self, ids):
            return self.sum(self.embedding(ids).flip(1).cumsum(1).flip(1))

    model = Backward()
    sequences = [[1, 2], [3, 4], [5], [6, 7, 8]]
    rows = ActivationExtractor(model, "sum", positions=0).transform(sequences)
    expected = [model.embedding(torch.tensor(s)).sum(0) for s in sequences]
    np.testing.assert_allclose(rows, torch.stack(expected).detach(), atol=1e-6)


def test_a_mask_is_given_whatever_the_ids_are_called():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 4)

        def forward(self, tokens, attention_mask=None):
            assert (attention_mask is None) == (len(tokens) == 1)
            return self.embedding(tokens)

    model = Model()
    rows = ActivationExtractor(model, "embedding").transform([[1, 2], [3]])
    assert np.array_equal(rows, model.embedding.weight.detach()[[2, 3]])


def test_positions_need_not_be_those_of_tokens(gpt2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.AvgPool2d((2, 1)))
    extractor = ActivationExtractor(model, "1", positions="all")
    X = [[1, 2, 3, 4], [5, 6, 7, 8]]
    expected = model(torch.tensor(X)).detach().reshape(4, 4)
    assert np.array_equal(extractor.transform(X), expected)
    with pytest.raises(ValueError, match="gives 2 positions for 4 tokens"):
        extractor.transform([*X, [1, 2]])


def test_layers_that_mix_inputs_are_refused(tokens):
    model = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(0, 1))
    for positions in ["last", "all"]:
        extractor = ActivationExtractor(model, "1", positions=positions)
        with pytest.raises(ValueError, match="gives 200 rows for 20 inputs"):
            extractor.transform(tokens)


def test_a_vocabulary_is_not_a_table_of_positions():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Embedding(5, 4)
            self.embedding = nn.Embedding(9, 4)

        def forward(self, ids):
            places = self.positions(torch.arange(ids.shape[1]))
            return self.embedding(ids) + places

    extractor = ActivationExtractor(Model(), "embedding", positions="all")
    assert extractor.transform([[7, 8]]).shape == (2, 4)
    with pytest.raises(ValueError, match="token id 9"):
        extractor.transform([[7, 9]])
    extractor.set_params(layer="")
    with pytest.raises(ValueError, match="exceed its context"):
        extractor.transform([[1] * 6])


def test_convolutions_have_their_features_on_axis_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU())
    images = np.random.default_rng(0).normal(size=(6, 1, 8, 7))
    extractor = ActivationExtractor(model, "0", positions="all", batch_size=4)
    with torch.no_grad():
        maps = model[0](torch.tensor(images, dtype=torch.float32))
    expected = maps.permute(0, 2, 3, 1).reshape(-1, 5)
    np.testing.assert_allclose(extractor.transform(images), expected, atol=1e-6)
    last = extractor.set_params(feature_axis=-1).transform(images)
    np.testing.assert_allclose(last, maps.reshape(-1, 5), atol=1e-6)


@pytest.mark.parametrize("wrap", [tuple, list, lambda x: {"hidden": x[0]}])
def test_first_of_several_outputs_counts(wrap):
    class Several(nn.Module):
        def forward(self, X):
            return wrap([2 * X, X])

    model = nn.Sequential(Several(), nn.Identity())
    X = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(ActivationExtractor(model, "0").transform(X), 2 * X)


def test_a_layer_that_runs_twice_counts_once():
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, X):
            return self.layer(self.layer(X))

    model, X = Twice(), np.ones((2, 3), dtype=np.float32)
    expected = model.layer(torch.tensor(X)).detach()
    assert np.array_equal(ActivationExtractor(model, "layer").transform(X), expected)


def test_a_forward_pass_that_catches_errors_catches_no_hook():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, X):
            try:
                return self.layer(X)
            except Exception:
                raise AssertionError from None

    X = np.ones((2, 3))
    assert np.array_equal(ActivationExtractor(Careful(), "layer").transform(X), X)


@pytest.mark.parametrize(
    "keep", [lambda X: X[::-1], np.asfortranarray, lambda X: X.astype(">f8")]
)
def test_arrays_may_be_kept_in_any_way(keep):
    X = np.arange(12.0).reshape(4, 3)
    extractor = ActivationExtractor(nn.Sequential(nn.Identity()), "0")
    assert np.array_equal(extractor.transform(keep(X)), keep(X))


def test_precision_of_double_and_half_models():
    X = np.ones((2, 3))
    for dtype, expected in [(torch.float64, "float64"), (torch.bfloat16, "float32")]:
        model = nn.Sequential(nn.Linear(3, 4)).to(dtype)
        assert ActivationExtractor(model, "0").transform(X).dtype == expected


def test_means_of_half_models_are_taken_in_float32(gpt2):
    model, X = deepcopy(gpt2).bfloat16(), [[1, 2, 3, 4, 5, 6, 7], [3, 4]]
    each = ActivationExtractor(model, LAYER, positions="all").transform(X)
    rows = ActivationExtractor(model, LAYER, positions="mean").transform(X)
    expected = [each[:7].mean(0), each[7:].mean(0)]
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-8)


def test_an_error_in_a_forward_pass_changes_nothing():
    class Broken(nn.Module):
        def forward(self, X):
            raise RuntimeError("broken")

    model = nn.Sequential(nn.Linear(2, 2), Broken(), nn.Linear(2, 2)).train()
    with pytest.raises(RuntimeError, match="broken"):
        ActivationExtractor(model, "2").transform(np.ones((2, 2)))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_threads_share_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Dropout(), nn.Linear(8, 256)).train()
    extractor = ActivationExtractor(model, "2", positions="all", batch_size=2)
    inputs = np.random.default_rng(0).integers(50, size=(8, 40, 16))
    expected = [extractor.transform(X) for X in inputs]
    with ThreadPoolExecutor(4) as threads:
        for rows, truth in zip(
            threads.map(extractor.transform, inputs), expected, strict=True
        ):
            assert np.array_equal(rows, truth)
    assert all(module.training for module in model.modules())


def test_the_model_is_as_before(gpt2, tokens):
    model = deepcopy(gpt2)
    model.train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    first = ActivationExtractor(model, LAYER).transform(tokens)
    # Dropout is off while it runs.
    assert np.array_equal(first, ActivationExtractor(gpt2, LAYER).transform(tokens))
    with pytest.raises(ValueError, match="never runs"):
        ActivationExtractor(model, "transformer.h").transform(tokens)
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(w, weights[n]) for n, w in model.state_dict().items())


def test_nothing_after_the_layer_runs(gpt2, tokens, count):
    later = count(gpt2.transformer.h[1])
    ActivationExtractor(gpt2, LAYER).transform(tokens)
    assert not later


def test_clones_and_copies_share_the_module(gpt2):
    extractor = ActivationExtractor(gpt2, LAYER)
    assert clone(extractor).model is gpt2
    assert pickle.loads(pickle.dumps(extractor)).model is gpt2


def test_a_module_is_known_by_its_weights(gpt2):
    extractor = ActivationExtractor(gpt2, LAYER)
    other = deepcopy(gpt2)
    assert other is not gpt2
    assert joblib.hash(extractor) == joblib.hash(clone(extractor))
    assert joblib.hash(extractor) == joblib.hash(extractor.set_params(model=other))
    before = joblib.hash(extractor)
    with torch.no_grad():
        other.transformer.wte.weight[0, 0] += 1
    assert joblib.hash(extractor) != before


def test_a_module_is_known_by_its_settings_and_hooks():
    class Scaled(nn.Linear):
        factor = 1.0

    torch.manual_seed(0)
    model = nn.Sequential(Scaled(2, 2))
    hashes = {joblib.hash(ActivationExtractor(model, "0"))}
    model[0].factor = 2.0
    hashes.add(joblib.hash(ActivationExtractor(model, "0")))
    # The second function may get the address of the first.
    for _ in range(2):
        handle = model.register_forward_hook(lambda module, X, output: 2 * output)
        hashes.add(joblib.hash(ActivationExtractor(model, "0")))
        handle.remove()
    assert len(hashes) == 4
    model.train(not model.training)
    assert joblib.hash(ActivationExtractor(model, "0")) in hashes


def test_a_cache_sees_that_a_model_is_steered(gpt2, tokens, tmp_path):
    pca = PCA(2).fit(truth(gpt2, tokens).reshape(-1, WIDTH))
    extractor = ActivationExtractor(gpt2, "transformer.h.1.mlp", memory=str(tmp_path))
    plain = extractor.transform(tokens)
    changes = []
    for value in [5.0, -5.0]:
        with steer(gpt2, LAYER, pca, 0, value):
            changes.append(extractor.transform(tokens) - plain)
    assert np.abs(changes).max(axis=(1, 2)).min() > 1e-3
    assert not np.allclose(*changes)
    assert np.array_equal(extractor.transform(tokens), plain)


def test_a_module_of_a_class_that_cannot_be_imported_comes_back():
    class Local(nn.Module):
        def forward(self, X):
            return 2 * X

    extractor = ActivationExtractor(nn.Sequential(Local()), "0")
    pickled = pickle.dumps(extractor)
    del extractor, Local
    X = np.ones((2, 2))
    assert np.array_equal(pickle.loads(pickled).transform(X), 2 * X)


def test_a_pickled_module_comes_back_where_it_does_not_live(tokens):
    model = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 6))
    extractor = ActivationExtractor(model, "1")
    expected, pickled = extractor.transform(tokens), pickle.dumps(extractor)
    del model, extractor
    assert np.array_equal(pickle.loads(pickled).transform(tokens), expected)


def test_a_module_that_cannot_be_pickled_says_so_elsewhere(tokens):
    model = nn.Sequential(nn.Embedding(50, 4), nn.Identity())
    model.lock = Lock()
    extractor = ActivationExtractor(model, "1")
    pickled = pickle.dumps(extractor)
    assert pickle.loads(pickled).model is model
    del model, extractor
    with pytest.raises(pickle.UnpicklingError, match="lock"):
        pickle.loads(pickled)


@pytest.mark.parametrize("named", [False, True])
def test_a_pipeline_caches_activations(gpt2, tokens, tmp_path, named, count):
    model = gpt2
    if named:
        gpt2.save_pretrained(tmp_path / "gpt2")
        model = str(tmp_path / "gpt2")
    y = tokens[:, -1] % 2
    pipeline = make_pipeline(
        ActivationExtractor(model, LAYER, batch_size=5),
        MFRSparseAutoencoder(8, k=2, n_saes=1, n_witnesses=0, max_steps=5),
        LogisticRegression(),
        memory=str(tmp_path / "cache"),
    )
    if named:
        from skmfr.activations._loading import load_model

        model = load_model(model)
    calls = count(model)
    pipeline.fit(tokens, y)
    # One for fit to see the width, and four batches.
    assert len(calls) == 5
    clone(pipeline).set_params(mfrsparseautoencoder__k=3).fit(tokens, y)
    assert len(calls) == 5


def test_a_grid_search_passes_through_the_model_once_per_fold(
    gpt2, tokens, tmp_path, count
):
    y = tokens[:, -1] % 2
    pipeline = make_pipeline(
        ActivationExtractor(gpt2, LAYER, memory=str(tmp_path)),
        MFRSparseAutoencoder(8, n_saes=1, n_witnesses=0, max_steps=5),
        LogisticRegression(),
    )
    calls = count(gpt2)
    grid = {"mfrsparseautoencoder__k": [1, 2, 3], "logisticregression__C": [0.1, 1]}
    search = GridSearchCV(pipeline, grid, cv=2, refit=False).fit(tokens, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    # The two halves, each fitted and scored with by turns, and the first input that
    # each of 12 fits looks at.
    assert len(calls) == 2 + 12


def test_a_grid_search_over_an_sae_inside_takes_activations_once(
    gpt2, tokens, tmp_path, count
):
    sae = MFRSparseAutoencoder(8, k=1, n_saes=1, n_witnesses=0, max_steps=5)
    extractor = ActivationExtractor(
        gpt2, LAYER, positions="mean", sae=sae, memory=str(tmp_path)
    )
    pipeline = make_pipeline(extractor, LogisticRegression())
    calls = count(gpt2)
    grid = {"activationextractor__sae__k": [1, 2, 3]}
    search = GridSearchCV(pipeline, grid, cv=2, refit=False)
    search.fit(tokens, tokens[:, -1] % 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    # The two halves, and the first input that each of 6 fits looks at.
    assert len(calls) == 2 + 6


def test_workers_of_a_grid_search_share_the_cache(tokens, tmp_path, call_in_process):
    exitcode, logs = call_in_process(search_twice, tokens, tmp_path)
    assert exitcode == 0, logs
    first, second = logs
    # Two workers that begin together may both go through the same half.
    assert 2 <= first.count("10") <= 4
    assert set(second) == {"1"}


def search_twice(tokens, folder):
    """Sizes of the batches that go through a model in two searches."""
    log = folder / "log"

    class Logged(nn.Module):
        """Of a class that workers cannot import; writes down its batches."""

        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 8)

        def forward(self, ids):
            with open(log, "a") as file:
                file.write(f"{len(ids)}\n")
            return self.embedding(ids)

    torch.manual_seed(0)
    pipeline = make_pipeline(
        ActivationExtractor(Logged(), "embedding", memory=str(folder / "cache")),
        LogisticRegression(),
    )
    grid, y = {"logisticregression__C": [0.1, 1]}, tokens[:, -1] % 2
    search = GridSearchCV(
        pipeline, grid, cv=2, refit=False, n_jobs=2, error_score="raise"
    )
    logs = []
    with workers_of_joblib():
        for _ in range(2):
            search.fit(tokens, y)
            logs.append(log.read_text().split())
            log.unlink()
    return logs


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("given", ["list", "array"])
@pytest.mark.parametrize("positions", ["last", 1, -2, "mean", "max", "all"])
def test_codes_are_pooled_over_what_each_input_has(
    gpt2, positions, given, memory, tmp_path
):
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, 50, size=n) for n in (4, 9, 2, 6)]
    padded = np.zeros((4, 9), dtype=int)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    each = ActivationExtractor(gpt2, LAYER, positions="all").transform(sequences)
    sae = MFRSparseAutoencoder(
        12, k=2, n_saes=1, n_witnesses=0, max_steps=10, random_state=0
    ).fit(each)
    reduce = {"mean": lambda z: z.mean(0), "max": lambda z: z.max(0)}
    codes = sae.transform(each)
    if positions != "all":
        nth = -1 if positions == "last" else positions
        pick = reduce.get(positions, lambda z: z[nth])
        codes = np.stack([pick(z) for z in np.split(codes, [4, 13, 15])])
    extractor = ActivationExtractor(
        gpt2,
        LAYER,
        positions=positions,
        sae=FrozenEstimator(sae),
        memory=str(tmp_path) if memory else None,
        pad_token_id=0,
    )
    X = sequences if given == "list" else padded
    np.testing.assert_allclose(extractor.fit_transform(X), codes, atol=1e-5)


@pytest.mark.parametrize("sparse_output", [False, True])
@pytest.mark.parametrize("algorithm", ["encoder", "omp"])
@pytest.mark.parametrize("positions", ["last", 2, "mean", "max", "all"])
def test_codes_are_pooled_after_the_sae(
    gpt2, tokens, positions, algorithm, sparse_output
):
    sae = MFRSparseAutoencoder(
        24,
        k=3,
        n_saes=1,
        n_witnesses=0,
        max_steps=30,
        transform_algorithm=algorithm,
        sparse_output=sparse_output,
        random_state=0,
    )
    extractor = ActivationExtractor(gpt2, LAYER, positions=positions, sae=sae)
    rows = extractor.fit_transform(tokens)
    each = ActivationExtractor(gpt2, LAYER, positions="all").transform(tokens)
    codes = clone(sae).fit(each).transform(each)
    codes = (codes.toarray() if sparse_output else codes).reshape(20, 10, 24)
    expected = {
        "last": codes[:, -1],
        2: codes[:, 2],
        "mean": codes.mean(1),
        "max": codes.max(1),
        "all": codes.reshape(-1, 24),
    }[positions]
    rows = rows.toarray() if sparse_output else rows
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert extractor.get_feature_names_out().shape == (24,)


def test_a_frozen_sae_is_used_as_it_is(gpt2, tokens):
    each = ActivationExtractor(gpt2, LAYER, positions="all").transform(tokens)
    pca = PCA(3).fit(each[:50])
    extractor = ActivationExtractor(gpt2, LAYER, sae=FrozenEstimator(pca))
    expected = pca.transform(each.reshape(20, 10, WIDTH)[:, -1])
    np.testing.assert_allclose(extractor.fit_transform(tokens), expected, atol=1e-5)
    with pytest.raises(NotFittedError):
        clone(extractor).transform(tokens)


def test_models_load_by_folder(gpt2, tokens, tmp_path):
    gpt2.save_pretrained(tmp_path)
    extractor = ActivationExtractor(tmp_path, LAYER)
    expected = ActivationExtractor(gpt2, LAYER).transform(tokens)
    np.testing.assert_allclose(extractor.fit_transform(tokens), expected, atol=1e-6)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    again = ActivationExtractor(loaded, LAYER).transform(tokens)
    assert np.array_equal(extractor.transform(tokens), again)


def test_rows_go_to_a_file(gpt2, tokens, tmp_path, count):
    expected = ActivationExtractor(gpt2, LAYER, positions="all").transform(tokens)
    out = tmp_path / "new" / "acts.npy"
    extractor = ActivationExtractor(gpt2, LAYER, positions="all", out=out)
    rows = extractor.transform(tokens)
    assert isinstance(rows, np.memmap)
    assert np.array_equal(rows, expected)
    assert np.array_equal(np.load(out), expected)
    calls = count(gpt2)
    assert np.array_equal(extractor.transform(tokens), expected)
    assert not calls
    with pytest.raises(ValueError, match="other inputs"):
        extractor.transform(tokens[::-1])
    with pytest.raises(ValueError, match="other inputs"):
        clone(extractor).set_params(layer="transformer.h.1.mlp").transform(tokens)
    assert np.array_equal(np.load(out), expected)


def test_a_file_goes_on_after_a_stop(gpt2, tokens, tmp_path):
    expected = ActivationExtractor(gpt2, LAYER, positions="all").transform(tokens)
    out = tmp_path / "acts.npy"
    extractor = ActivationExtractor(gpt2, LAYER, positions="all", out=out, batch_size=4)
    passed: list = []

    def stop(*_):
        passed.append(1)
        if len(passed) == 3:
            raise KeyboardInterrupt

    handle = gpt2.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        extractor.transform(tokens)
    assert not out.exists()
    rows = extractor.transform(tokens)
    handle.remove()
    # Two batches of five were done, the third stopped.
    assert len(passed) == 3 + 3
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "acts.npy",
        "acts.npy.json",
    ]


def test_a_file_goes_on_after_any_end(gpt2, tokens, tmp_path, monkeypatch):
    """Copies of the folder are what an end of the process would leave."""
    monkeypatch.setattr("skmfr.activations._storage.SECONDS_BETWEEN_NOTES", 0)
    folder = tmp_path / "whole"
    out = folder / "acts.npy"
    extractor = ActivationExtractor(gpt2, LAYER, positions="all", out=out, batch_size=4)

    def copy(module, inputs):
        if module is gpt2 and folder.exists():
            copytree(folder, tmp_path / str(len(list(tmp_path.iterdir()))))

    handle = register_module_forward_pre_hook(copy)
    extractor.transform(tokens)
    handle.remove()
    copies = [path for path in tmp_path.iterdir() if path != folder]
    assert len(copies) == 4
    for path in copies:
        # The last rows had not come to a note.
        with open(path / "acts.npy.part", "ab") as file:
            file.write(b"more")
        extractor.set_params(out=path / "acts.npy").transform(tokens)
        assert (path / "acts.npy").read_bytes() == out.read_bytes()


def test_a_full_disk_is_an_error_and_no_end(gpt2, tokens, tmp_path):
    resource = pytest.importorskip("resource")
    expected = ActivationExtractor(gpt2, LAYER, positions="all").transform(tokens)
    out = tmp_path / "acts.npy"
    extractor = ActivationExtractor(gpt2, LAYER, positions="all", out=out, batch_size=4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for about two of five batches.
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            extractor.transform(tokens)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    np.testing.assert_allclose(extractor.transform(tokens), expected, atol=1e-6)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"{}", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["acts.npy", "acts.npy.json"])
def test_damaged_files_are_named(gpt2, tokens, tmp_path, name, content):
    extractor = ActivationExtractor(gpt2, LAYER, out=tmp_path / "acts.npy")
    extractor.transform(tokens)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    elif name == "acts.npy":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-10])
    else:
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"because {name} is damaged or missing"):
        extractor.transform(tokens)


def test_a_part_that_is_shorter_than_its_note_is_named(gpt2, tokens, tmp_path):
    extractor = ActivationExtractor(gpt2, LAYER, out=tmp_path / "acts.npy")
    extractor.transform(tokens)
    part = tmp_path / "acts.npy.part"
    part.write_bytes((tmp_path / "acts.npy").read_bytes()[:-10])
    (tmp_path / "acts.npy").unlink()
    note = json.loads((tmp_path / "acts.npy.json").read_text())
    (tmp_path / "acts.npy.json").write_text(json.dumps(note | {"n_inputs": 19}))
    with pytest.raises(ValueError, match=r"acts.npy.part is damaged"):
        extractor.transform(tokens)


def test_an_error_before_the_first_row_leaves_no_file(gpt2, tokens, tmp_path):
    out = tmp_path / "new" / "acts.npy"
    with pytest.raises(ValueError, match="never runs"):
        ActivationExtractor(gpt2, "transformer.h", out=out).transform(tokens)
    sae = MFRSparseAutoencoder(
        8, k=2, n_saes=1, n_witnesses=0, max_steps=5, sparse_output=True
    )
    extractor = ActivationExtractor(gpt2, LAYER, sae=sae, out=out).fit(tokens)
    with pytest.raises(ValueError, match="out stores dense rows"):
        extractor.transform(tokens)
    assert not list(tmp_path.iterdir())


def test_inputs_are_known_by_content(gpt2, tokens, tmp_path, count):
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    extractor = ActivationExtractor(gpt2, LAYER, out=tmp_path / "acts.npy")
    expected, calls = extractor.transform(mapped), count(gpt2)
    for same in [tokens, np.asfortranarray(tokens), tokens.tolist()]:
        assert np.array_equal(extractor.transform(same), expected)
    assert not calls


def test_unknown_layers_are_answered_with_like_ones(gpt2, tokens):
    with pytest.raises(ValueError, match=r"transformer\.h\.0\.mpl.*transformer\.h\.0"):
        ActivationExtractor(gpt2, "transformer.h.0.mpl").fit(tokens)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros((0, 5), dtype=int), ValueError, "X is empty"),
        ([], ValueError, "X is empty"),
        ([[1, 2], []], ValueError, r"X\[1\] has no token"),
        (np.zeros((2, 13), dtype=int), ValueError, "13 tokens.*context is 12"),
        ([[0] * 13], ValueError, "13 tokens.*context is 12"),
        ([[3, 50]], ValueError, "token id 50.*0 to 49"),
        (np.array([[-1, 2]]), ValueError, "token id -1"),
        (np.zeros((2, 3)), TypeError, "integers, got dtype float64"),
        (np.zeros(5, dtype=int), ValueError, "row for each input"),
        (["a text"], TypeError, "tokenizer must be given"),
        ("a text", TypeError, "got str"),
        (7, TypeError, "got int"),
        ({"input_ids": [[1]], "attention_mask": [[0]]}, ValueError, "all padding"),
        (
            {"input_ids": [[1]], "attention_mask": []},
            ValueError,
            "same number of inputs",
        ),
        ({"input_ids": [[1, 2], [3]]}, ValueError, r"X\['input_ids'\].*padding=True"),
        ({"inputs_embeds": [[[np.inf]]]}, ValueError, r"X\['inputs_embeds'\] contains"),
        ({"input_ids": np.zeros((2, 0))}, ValueError, r"X\['input_ids'\] is empty"),
        ({"input_ids": [["a"]]}, TypeError, r"X\['input_ids'\] must hold numbers"),
    ],
)
def test_bad_inputs_are_named(gpt2, X, error, message):
    with pytest.raises(error, match=message):
        ActivationExtractor(gpt2, LAYER).fit(X)


def test_numbers_that_are_not_finite_are_refused():
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="X contains NaN"):
        ActivationExtractor(model, "0").fit([[0.0, np.nan]])


def test_positions_that_are_not_there_are_refused(gpt2):
    with pytest.raises(ValueError, match="only 2 positions"):
        ActivationExtractor(gpt2, LAYER, positions=2).transform([[1, 2, 3], [1, 2]])


def test_long_sequences_may_be_cut(gpt2):
    long = [list(range(20)), [1, 2]]
    extractor = ActivationExtractor(gpt2, LAYER, max_length=5)
    expected = extractor.transform([[0, 1, 2, 3, 4], [1, 2]])
    assert np.array_equal(extractor.transform(long), expected)
    mapping = {"input_ids": [list(range(20))], "attention_mask": np.ones((1, 20))}
    # A batch of one rounds otherwise than a batch of two.
    rows = extractor.transform(mapping)
    np.testing.assert_allclose(rows, expected[:1], rtol=1e-5, atol=1e-7)


def test_a_model_must_be_one(tokens):
    with pytest.raises(TypeError, match="model must be a torch.nn.Module.*got int"):
        ActivationExtractor(3, "0").fit(tokens)
    model = nn.Sequential(nn.Embedding(50, 4))
    with pytest.raises(ValueError, match="positions"):
        ActivationExtractor(model, "0", positions="first").fit(tokens)


def test_fit_transform_that_fails_leaves_the_fit_before(gpt2, tokens):
    extractor = ActivationExtractor(gpt2, LAYER, max_norm_ratio=10).fit(tokens)
    before = dict(vars(extractor))
    # No norm of three that is the median, or more, is below it.
    extractor.set_params(max_norm_ratio=0.999)
    with pytest.raises(ValueError, match="leave out fewer"):
        extractor.fit_transform(tokens[:3, :1])
    assert vars(extractor) == before | {"max_norm_ratio": 0.999}
