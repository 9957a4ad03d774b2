import pickle
from copy import deepcopy

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from skmfr import MFRSparseAutoencoder
from skmfr.activations import ActivationExtractor

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
    """Forward passes of a module, counted by a hook of the test's own."""
    handles = []

    def counted(model) -> list:
        calls: list = []
        handles.append(model.register_forward_pre_hook(lambda *_: calls.append(1)))
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
@pytest.mark.parametrize("given", ["list", "right", "left", "mapping"])
def test_padding_does_not_count(gpt2, positions, given):
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, 50, size=n) for n in (4, 9, 2, 6)]
    alone = ActivationExtractor(gpt2, LAYER, positions=positions)
    expected = np.concatenate([alone.transform(s[None]) for s in sequences])
    padded, mask = np.zeros((2, 4, 9), dtype=int)
    for row, used, sequence in zip(padded, mask, sequences, strict=True):
        row[: len(sequence)] = sequence
        used[: len(sequence)] = 1
    X, pad = {
        "list": (sequences, None),
        "right": (padded, 0),
        "left": (padded[:, ::-1], 0),
        "mapping": ({"input_ids": padded, "attention_mask": mask}, None),
    }[given]
    if given == "left":
        # GPT-2 numbers positions from the first column, padding or not: the truth is
        # transformers' own.
        X = np.stack(
            [np.roll(r, 9 - len(s)) for r, s in zip(padded, sequences, strict=True)]
        )
        used = torch.tensor(X != 0)
        kept: list = []
        handle = gpt2.transformer.h[0].mlp.register_forward_hook(
            lambda *_: kept.append(_[2])
        )
        with torch.no_grad():
            gpt2(torch.tensor(X), attention_mask=used.long())
        handle.remove()
        reduce = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0)}
        if positions == "all":
            expected = kept[0][used].numpy()
        else:
            nth = -1 if positions == "last" else positions
            pick = reduce.get(positions, lambda x: x[nth])
            rows = zip(kept[0].numpy(), used.numpy(), strict=True)
            expected = np.stack([pick(a[u]) for a, u in rows])
    rows = alone.set_params(pad_token_id=pad).transform(X)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_texts_are_tokenized(gpt2):
    texts = ["a bb ccc", "dd e", "eee eee"]
    extractor = ActivationExtractor(gpt2, LAYER, tokenizer=Words())
    expected = ActivationExtractor(gpt2, LAYER).transform([[1, 2, 3], [2, 1], [3, 3]])
    assert np.array_equal(extractor.fit_transform(texts), expected)
    assert np.array_equal(extractor.transform(np.array(texts)), expected)


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


def test_precision_of_double_and_half_models():
    X = np.ones((2, 3))
    for dtype, expected in [(torch.float64, "float64"), (torch.bfloat16, "float32")]:
        model = nn.Sequential(nn.Linear(3, 4)).to(dtype)
        assert ActivationExtractor(model, "0").transform(X).dtype == expected


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


def test_a_pickled_module_comes_back_where_it_does_not_live(tokens):
    model = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 6))
    extractor = ActivationExtractor(model, "1")
    expected, pickled = extractor.transform(tokens), pickle.dumps(extractor)
    del model, extractor
    assert np.array_equal(pickle.loads(pickled).transform(tokens), expected)


def test_a_module_that_cannot_be_pickled_says_so_elsewhere(tokens):
    model = nn.Sequential(nn.Embedding(50, 4), nn.Identity())
    handle = model.register_forward_hook(lambda *_: None)
    extractor = ActivationExtractor(model, "1")
    pickled = pickle.dumps(extractor)
    assert pickle.loads(pickled).model is model
    del model, extractor, handle
    with pytest.raises(pickle.UnpicklingError, match="lambda"):
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
        from skmfr.activations._models import load_model

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
    with pytest.raises(ValueError, match="something else"):
        extractor.transform(tokens[::-1])
    with pytest.raises(ValueError, match="something else"):
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
        ({"input_ids": [[1]], "attention_mask": []}, ValueError, "same inputs"),
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
    with pytest.raises(ValueError, match="2 positions only"):
        ActivationExtractor(gpt2, LAYER, positions=2).transform([[1, 2, 3], [1, 2]])


def test_long_sequences_may_be_cut(gpt2):
    long = [list(range(20)), [1, 2]]
    extractor = ActivationExtractor(gpt2, LAYER, max_length=5)
    expected = extractor.transform([[0, 1, 2, 3, 4], [1, 2]])
    assert np.array_equal(extractor.transform(long), expected)


def test_a_model_must_be_one(tokens):
    with pytest.raises(TypeError, match="model must be a torch.nn.Module.*got int"):
        ActivationExtractor(3, "0").fit(tokens)
    model = nn.Sequential(nn.Embedding(50, 4))
    with pytest.raises(ValueError, match="positions"):
        ActivationExtractor(model, "0", positions="first").fit(tokens)
