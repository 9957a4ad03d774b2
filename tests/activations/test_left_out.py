"""skip_first and max_norm_ratio: positions that are in no row and no pool."""

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
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import GPT2Config, GPT2LMHeadModel

from skmfr import MFRSparseAutoencoder
from skmfr.activations import (
    ActivationExtractor,
    ablate,
    loss_recovered,
    steer,
    top_contexts,
)
from skmfr.activations._extraction import Extraction

LENGTHS = [4, 9, 3, 6, 1, 5]
WIDTH = 6
RATIO = 3.0
REDUCE = {
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.max(0),
    "last": lambda x: x[-1],
    0: lambda x: x[0],
    -2: lambda x: x[-2],
}


@pytest.fixture(scope="module")
def model():
    """Token 9 has a hundred times the norm of others, 8 ten times."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, WIDTH), nn.Identity())
    with torch.no_grad():
        model[0].weight /= model[0].weight.norm(dim=1, keepdim=True)
        model[0].weight[9] *= 100
        model[0].weight[8] *= 10
    return model


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 8, size=n) for n in LENGTHS]
    for row in rows:
        row[0] = 9
    rows[1][4], rows[3][5], rows[5][2] = 8, 8, 9
    return rows


@pytest.fixture
def count():
    """Inputs that went through a model."""
    calls: list[int] = []

    def note(module, inputs):
        if isinstance(module, nn.Embedding):
            calls.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(note)
    yield calls
    handle.remove()


def truth(model, sequences, skip_first, ratio, median=None) -> list[np.ndarray]:
    """Activations that are left of each sequence."""
    weight = model[0].weight.detach().numpy()
    rows = [weight[s][skip_first:] for s in sequences]
    if ratio is None:
        return rows
    if median is None:
        median = np.median(np.linalg.norm(np.concatenate(rows), axis=1))
    return [r[np.linalg.norm(r, axis=1) <= ratio * median] for r in rows]


def padded(sequences, side="left") -> np.ndarray:
    X = np.zeros((len(sequences), 10), dtype=int)
    for row, s in zip(X, sequences, strict=True):
        row[slice(10 - len(s), None) if side == "left" else slice(len(s))] = s
    return X


OPTIONS = [(1, None), (0, RATIO), (2, RATIO)]


@pytest.mark.parametrize("given", ["list", "left", "right"])
@pytest.mark.parametrize("way", ["memory", "cache", "file"])
@pytest.mark.parametrize(("skip_first", "ratio"), OPTIONS)
def test_rows_are_left_out(
    model, sequences, skip_first, ratio, way, given, tmp_path, count
):
    extractor = ActivationExtractor(
        model,
        "1",
        positions="all",
        skip_first=skip_first,
        max_norm_ratio=ratio,
        batch_size=1 if given == "list" else 4,
        pad_token_id=0,
        memory=str(tmp_path / "cache") if way == "cache" else None,
        out=tmp_path / "rows.npy" if way == "file" else None,
    )
    X = sequences if given == "list" else padded(sequences, given)
    expected = np.concatenate(truth(model, sequences, skip_first, ratio))
    np.testing.assert_allclose(extractor.fit_transform(X), expected, rtol=1e-6)
    if way != "file":
        # The first for the width, all for the rows.
        assert sum(count) == 1 + len(sequences)
    np.testing.assert_allclose(extractor.transform(X), expected, rtol=1e-6)
    if way == "file":
        np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), expected, rtol=1e-6)


def test_a_fit_for_a_file_holds_norms_alone(model, sequences, tmp_path, monkeypatch):
    def taken(*_):
        raise AssertionError("all rows were in memory")

    monkeypatch.setattr(Extraction, "rows", taken)
    extractor = ActivationExtractor(
        model, "1", positions="all", max_norm_ratio=RATIO, out=tmp_path / "rows.npy"
    )
    rows = extractor.fit_transform(sequences)
    expected = np.concatenate(truth(model, sequences, 0, RATIO))
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


@pytest.mark.parametrize("positions", REDUCE)
@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize(("skip_first", "ratio"), OPTIONS)
def test_pools_are_of_what_is_left(
    model, sequences, positions, skip_first, ratio, memory, tmp_path, count
):
    extractor = ActivationExtractor(
        model,
        "1",
        positions=positions,
        skip_first=skip_first,
        max_norm_ratio=ratio,
        memory=str(tmp_path) if memory else None,
    )
    long = [s for s in sequences if len(s) > 3]
    left = truth(model, long, skip_first, ratio)
    expected = np.stack([REDUCE[positions](x) for x in left])
    np.testing.assert_allclose(extractor.fit_transform(long), expected, rtol=1e-5)
    if memory:
        assert sum(count) == 1 + len(long)
    np.testing.assert_allclose(extractor.transform(long), expected, rtol=1e-5)


@pytest.mark.parametrize("positions", ["mean", "max", "last", "all"])
@pytest.mark.parametrize("memory", [False, True])
def test_codes_are_of_what_is_left(model, sequences, positions, memory, tmp_path):
    long = [s for s in sequences if len(s) > 3]
    left = truth(model, long, 1, RATIO)
    pca = PCA(3).fit(np.concatenate(left))
    codes = [pca.transform(x) for x in left]
    if positions == "all":
        expected = np.concatenate(codes)
    else:
        expected = np.stack([REDUCE[positions](z) for z in codes])
    extractor = ActivationExtractor(
        model,
        "1",
        positions=positions,
        sae=PCA(3),
        skip_first=1,
        max_norm_ratio=RATIO,
        memory=str(tmp_path) if memory else None,
    )
    rows = extractor.fit_transform(long)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    np.testing.assert_allclose(extractor.transform(long), expected, atol=1e-5)
    # A frozen one is used as it is, and the bound is learned all the same.
    extractor.set_params(sae=FrozenEstimator(pca))
    np.testing.assert_allclose(extractor.fit(long).transform(long), expected, atol=1e-5)


def test_first_tokens_no_longer_make_all_texts_alike(model):
    rng = np.random.default_rng(1)
    X = rng.integers(1, 8, size=(2, 9))
    X[:, 0] = 9

    def cosine(**options):
        a, b = ActivationExtractor(
            model, "1", positions="mean", **options
        ).fit_transform(X)
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    rows = model[0].weight.detach().numpy()[X[:, 1:]].mean(1)
    expected = rows[0] @ rows[1] / np.prod(np.linalg.norm(rows, axis=1))
    assert cosine() > 0.99 > expected + 0.05
    assert cosine(skip_first=1) == pytest.approx(expected, abs=1e-5)
    assert cosine(max_norm_ratio=RATIO) == pytest.approx(expected, abs=1e-5)


def test_the_median_is_that_of_fit(model, sequences):
    extractor = ActivationExtractor(
        model, "1", positions="all", skip_first=1, max_norm_ratio=RATIO
    )
    with pytest.raises(NotFittedError):
        extractor.transform(sequences)
    extractor.fit(sequences)
    rows = np.concatenate(truth(model, sequences, 1, None))
    median = np.median(np.linalg.norm(rows, axis=1))
    assert extractor.median_norm_ == pytest.approx(median, rel=1e-6)
    # Other data are judged by it, whatever theirs is.
    large = [[8, 8, 8, 1], [8, 8, 2]]
    expected = np.concatenate(truth(model, large, 1, RATIO, median))
    np.testing.assert_allclose(extractor.transform(large), expected, rtol=1e-6)
    assert len(expected) == 2
    assert extractor.__sklearn_tags__().requires_fit
    with pytest.raises(NotFittedError):
        clone(extractor).transform(sequences)


def test_a_fit_that_fails_leaves_the_one_before(model, sequences):
    extractor = ActivationExtractor(model, "1", sae=PCA(2), max_norm_ratio=RATIO)
    before = dict(vars(extractor.fit(sequences)))
    with pytest.raises(ValueError, match="n_components=7"):
        extractor.set_params(sae=PCA(7)).fit(sequences[::-1])
    assert extractor.sae_ is before["sae_"]
    assert extractor.median_norm_ == before["median_norm_"]
    extractor.set_params(sae=None, max_norm_ratio=None).fit(sequences)
    assert not {"sae_", "median_norm_"} & set(vars(extractor))
    assert extractor.n_features_out_ == WIDTH


def test_one_vector_for_an_input_is_at_no_position(sequences):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = ActivationExtractor(model, "1").transform(X)
    extractor = ActivationExtractor(model, "1", positions="all", skip_first=1)
    assert np.array_equal(extractor.transform(X), expected)


def test_places_of_images_are_left_out_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3))
    images = np.random.default_rng(0).normal(size=(4, 1, 5, 4))
    extractor = ActivationExtractor(model, "0", positions="all")
    expected = extractor.transform(images).reshape(4, 6, 5)[:, 2:].reshape(-1, 5)
    assert np.array_equal(
        extractor.set_params(skip_first=2).transform(images), expected
    )


def test_inputs_with_nothing_left_are_named(model, sequences):
    extractor = ActivationExtractor(
        model, "1", positions="mean", skip_first=1, batch_size=3
    )
    with pytest.raises(ValueError, match=r"all positions of X\[4\]"):
        extractor.transform(sequences)
    extractor.set_params(positions="all", skip_first=9)
    with pytest.raises(ValueError, match="all positions of all inputs"):
        extractor.transform(sequences)
    with pytest.raises(ValueError, match="all positions of all inputs"):
        extractor.set_params(max_norm_ratio=2.0).fit(sequences)
    with pytest.raises(ValueError, match="all positions of all inputs"):
        top_contexts(PCA(2), extractor.set_params(max_norm_ratio=None), sequences)


@pytest.mark.parametrize(
    "wrong",
    [
        {"skip_first": -1},
        {"skip_first": 1.5},
        {"skip_first": True},
        {"max_norm_ratio": 0},
        {"max_norm_ratio": True},
    ],
)
def test_options_are_checked(model, sequences, wrong):
    (name,) = wrong
    extractor = ActivationExtractor(model, "1", **wrong)
    with pytest.raises(ValueError, match=name):
        extractor.fit(sequences)
    sae = MFRSparseAutoencoder(4, k=1, n_saes=1, n_witnesses=0, max_steps=1)
    sae.fit(np.random.default_rng(0).standard_normal((20, WIDTH)))
    with pytest.raises(ValueError, match=f"'{name}' parameter of steer"):
        steer(model, "1", sae, 0, 1.0, **wrong)
    with pytest.raises(ValueError, match=f"'{name}' parameter of loss_recovered"):
        loss_recovered(model, "1", sae, sequences, **wrong)


def test_a_grid_search_over_the_bound_takes_activations_once(model, tmp_path, count):
    extractor = ActivationExtractor(
        model, "1", positions="mean", skip_first=1, memory=str(tmp_path)
    )
    X = np.random.default_rng(0).integers(1, 10, size=(16, 6))
    pipeline = make_pipeline(extractor, LogisticRegression())
    grid = {"activationextractor__max_norm_ratio": [RATIO, 20.0, 200.0]}
    search = GridSearchCV(pipeline, grid, cv=2, refit=False)
    search.fit(X, np.arange(16) % 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    # The two halves, and the first input that each of 6 fits looks at.
    assert sum(count) == 16 + 6


def test_contexts_are_where_they_are_in_the_input(model, sequences):
    extractor = ActivationExtractor(
        model, "1", positions="all", skip_first=1, max_norm_ratio=RATIO
    )
    rows = extractor.fit_transform(sequences)
    sae = MFRSparseAutoencoder(
        12, k=2, n_saes=1, n_witnesses=0, max_steps=30, random_state=0
    ).fit(rows)
    for X in [sequences, padded(sequences)]:
        extractor.set_params(pad_token_id=0)
        contexts = top_contexts(sae, extractor, X, before=2, after=2)
        np.testing.assert_allclose(
            contexts.density, (sae.transform(rows) != 0).mean(0), atol=1e-6
        )
        found = np.argwhere(contexts.inputs >= 0)
        assert len(found)
        for atom, rank in found:
            text = sequences[contexts.inputs[atom, rank]]
            position = contexts.positions[atom, rank]
            around = np.concatenate([[-1] * 2, text, [-1] * 2])[position : position + 5]
            assert np.array_equal(contexts.tokens[atom, rank], around)
            assert position >= 1
            assert text[position] < 8
            code = sae.transform(model[0].weight.detach().numpy()[[text[position]]])
            assert contexts.codes[atom, rank] == pytest.approx(code[0, atom], abs=1e-5)


def test_a_file_goes_on_where_it_was_with_fewer_rows(model, sequences, tmp_path):
    out = tmp_path / "rows.npy"
    extractor = ActivationExtractor(
        model, "1", positions="all", skip_first=1, batch_size=1, out=out
    )
    passed: list = []

    def stop(*_):
        passed.append(1)
        if len(passed) == 4:
            raise KeyboardInterrupt

    handle = register_module_forward_pre_hook(
        lambda module, _: stop() if isinstance(module, nn.Embedding) else None
    )
    with pytest.raises(KeyboardInterrupt):
        extractor.transform(sequences)
    rows = extractor.transform(sequences)
    handle.remove()
    assert len(passed) == 4 + 3
    expected = np.concatenate(truth(model, sequences, 1, None))
    assert np.array_equal(rows, expected)


# Splicing and steering

LAYER = "transformer.h.0"


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20,
        n_positions=16,
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight[9] *= 200
    return model


@pytest.fixture(scope="module")
def pca(gpt2):
    """Reconstructs badly; knows the median norm, as fitted estimators do."""
    X = ActivationExtractor(gpt2, LAYER, positions="all").transform(
        np.random.default_rng(0).integers(1, 8, size=(20, 8))
    )
    pca = PCA(2).fit(X)
    pca.median_norm_ = float(np.median(np.linalg.norm(X, axis=1)))
    return pca


def changed_by_hand(model, change):
    """Hook that changes outputs (n_inputs, n_positions, width) of the layer."""

    def hook(module, inputs, output):
        first = output[0] if isinstance(output, tuple) else output
        new = change(first.clone())
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return model.get_submodule(LAYER).register_forward_hook(hook)


def kept_by_hand(outputs, skip_first, bound) -> torch.Tensor:
    counting = torch.ones(outputs.shape[:2], dtype=torch.bool)
    counting[:, :skip_first] = False
    return counting if bound is None else counting & (outputs.norm(dim=-1) <= bound)


@pytest.mark.parametrize(("skip_first", "ratio"), [(2, None), (0, RATIO), (1, RATIO)])
def test_what_is_left_out_is_neither_spliced_nor_ablated(gpt2, pca, skip_first, ratio):
    tokens = np.random.default_rng(1).integers(1, 10, size=(6, 8))
    bound = None if ratio is None else ratio * pca.median_norm_
    means = []

    def changed(of_rows):
        def change(outputs):
            counting = kept_by_hand(outputs, skip_first, bound)
            outputs[counting] = of_rows(outputs[counting])
            return outputs

        return change

    def mean_of(rows):
        means.append(rows.mean(0))
        return rows

    def spliced(rows):
        codes = pca.transform(rows.numpy())
        return torch.tensor(pca.inverse_transform(codes), dtype=torch.float32)

    recovered, losses = loss_recovered(
        gpt2,
        LAYER,
        pca,
        tokens,
        skip_first=skip_first,
        max_norm_ratio=ratio,
        return_losses=True,
    )
    ways = {
        "clean": mean_of,
        "spliced": spliced,
        "zero": torch.zeros_like,
        "mean": lambda rows: means[0].expand_as(rows),
    }
    for name, of_rows in ways.items():
        handle = changed_by_hand(gpt2, changed(of_rows))
        with torch.no_grad():
            ids = torch.tensor(tokens)
            expected = float(gpt2(ids, labels=ids).loss)
        handle.remove()
        assert losses[name] == pytest.approx(expected, abs=1e-5)
    everywhere = loss_recovered(gpt2, LAYER, pca, tokens)
    assert abs(recovered - everywhere) > 1e-3
    zeros = lambda rows: 0 * rows  # noqa: E731
    zeros.median_norm_ = pca.median_norm_
    options = {"skip_first": skip_first, "max_norm_ratio": ratio}
    assert loss_recovered(gpt2, LAYER, zeros, tokens, **options) == 0


def test_left_out_positions_are_those_of_the_text(gpt2, pca):
    """However it is padded."""
    texts = [[9, 3, 4, 5, 2], [9, 6, 7]]
    padded = [[9, 3, 4, 5, 2], [0, 0, 9, 6, 7]]
    one, other = (
        loss_recovered(gpt2, LAYER, pca, X, skip_first=1, pad_token_id=0)
        for X in (texts, padded)
    )
    assert one == pytest.approx(other, abs=1e-6)


def hidden(model, **given) -> torch.Tensor:
    """What the layer gives, hooks included."""
    kept: list = []
    handle = changed_by_hand(model, lambda outputs: kept.append(outputs) or outputs)
    with torch.no_grad():
        model(**given)
    handle.remove()
    return kept[0]


def test_steering_leaves_out_first_tokens_of_each_text(gpt2, pca):
    ids = torch.tensor([[9, 3, 4, 5, 2], [0, 0, 9, 6, 7]])
    mask = (ids != 0).long()
    change = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]], dtype=torch.bool)
    for given, changing in [
        ({"input_ids": ids, "attention_mask": mask}, change),
        ({"input_ids": ids}, change[:1].expand(2, -1)),
        ({"inputs_embeds": gpt2.transformer.wte(ids)}, change[:1].expand(2, -1)),
    ]:
        before = hidden(gpt2, **given)
        with steer(gpt2, LAYER, pca, 0, 7.0, skip_first=1):
            after = hidden(gpt2, **given)
        assert torch.equal((after != before).any(-1), changing)
    assert not gpt2._forward_pre_hooks
    assert not gpt2._forward_hooks


def test_steering_leaves_out_huge_norms(gpt2, pca):
    ids = torch.tensor([[2, 3, 9, 5, 9], [4, 9, 3, 6, 7]])
    before = hidden(gpt2, input_ids=ids)
    with ablate(gpt2, LAYER, pca, [0, 1], max_norm_ratio=RATIO):
        after = hidden(gpt2, input_ids=ids)
    small = before.norm(dim=-1) <= RATIO * pca.median_norm_
    assert torch.equal(small, ids != 9)
    assert torch.equal((after != before).any(-1), small)
    codes = pca.transform(before[small].numpy())
    expected = before[small].numpy() - codes @ pca.components_
    np.testing.assert_allclose(after[small], expected, atol=1e-4)


def test_generation_goes_on_counting(gpt2, pca):
    prompt = torch.tensor([[0, 2, 3], [4, 5, 6]])
    mask = (prompt != 0).long()
    usual = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    value = 40.0
    with steer(gpt2, LAYER, pca, 0, value, skip_first=4):
        generated = gpt2.generate(prompt, attention_mask=mask, **usual)
        alone = gpt2.generate(prompt[:1, 1:], **usual)
    # By hand, without a cache: all tokens go through the model again each time.
    expected = prompt[:1, 1:]

    def change(outputs):
        codes = torch.tensor(pca.transform(outputs[0].numpy())[4:, :1])
        atom = torch.tensor(pca.components_[:1], dtype=torch.float32)
        outputs[0, 4:] += ((value - codes) @ atom.to(codes)).float()
        return outputs

    handle = changed_by_hand(gpt2, change)
    for _ in range(5):
        with torch.no_grad():
            logits = gpt2(expected, use_cache=False).logits[:, -1]
        expected = torch.cat([expected, logits.argmax(1)[None]], dim=1)
    handle.remove()
    assert torch.equal(alone, expected)
    assert torch.equal(generated[:1, 1:], expected)
    others = [gpt2.generate(prompt[:1, 1:], **usual)]
    with steer(gpt2, LAYER, pca, 0, value):
        others.append(gpt2.generate(prompt[:1, 1:], **usual))
    assert not any(torch.equal(other, expected) for other in others)


def test_a_cache_of_fixed_size_does_not_change_the_count(gpt2, pca):
    """Its mask has four dimensions, and columns for tokens to come."""
    prompt = torch.tensor([[0, 2, 3], [0, 0, 6], [4, 5, 6]])
    given = {"attention_mask": (prompt != 0).long(), "pad_token_id": 0}
    usual = {"max_new_tokens": 5, "do_sample": False, **given}
    plain = gpt2.generate(prompt, **usual)
    with steer(gpt2, LAYER, pca, 0, 40.0, skip_first=4):
        expected = gpt2.generate(prompt, **usual)
        found = gpt2.generate(prompt, cache_implementation="static", **usual)
    assert torch.equal(found, expected)
    assert not torch.equal(plain, expected)


def test_masks_of_four_dimensions_tell_padding_from_what_is_not_attended_to(gpt2, pca):
    ids = torch.tensor([[2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2]])
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    packed = causal.clone()
    packed[3:, :3] = False  # two texts in a row
    window = causal & torch.ones(6, 6, dtype=torch.bool).triu(-2)
    padded = causal.clone()
    padded[:, :2] = False
    everywhere = padded.clone()
    everywhere[:2] = True  # as some versions have it in rows of padding
    for mask, first in [
        (packed, 2),
        (window, 2),
        (padded, 4),
        (everywhere, 4),
    ]:
        large = torch.finfo(torch.float32).min
        numbers = torch.where(mask, 0.0, large)
        for form in (mask, numbers):
            given = {"input_ids": ids, "attention_mask": form.expand(2, 1, 6, 6)}
            before = hidden(gpt2, **given)
            with steer(gpt2, LAYER, pca, 0, 7.0, skip_first=2):
                after = hidden(gpt2, **given)
            changed = (after != before).any(-1)
            assert torch.equal(changed, (torch.arange(6) >= first).expand(2, -1))


def test_a_row_for_all_inputs_is_counted_from_the_cache_on(gpt2):
    """Embeddings of positions are the same for all inputs."""
    prompt = torch.tensor([[2, 3], [4, 5]])
    usual = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    usual["attention_mask"] = torch.ones_like(prompt)
    layer = "transformer.wpe"
    pca = PCA(2).fit(gpt2.get_submodule(layer).weight.detach().numpy())
    kept = []
    with steer(gpt2, layer, pca, 0, 50.0, skip_first=4):
        hook = gpt2.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: kept.append(output.detach().clone())
        )
        gpt2.generate(prompt, **usual)
    hook.remove()
    rows = torch.cat([each[0] for each in kept])
    same = (rows == gpt2.get_submodule(layer).weight[: len(rows)]).all(1)
    assert same.tolist() == [True] * 4 + [False]


class Flat(nn.Module):
    """A language model with a layer whose rows are the tokens of all inputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layer = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 20)

    def forward(self, input_ids):
        rows = self.layer(self.embed(input_ids).flatten(0, 1))
        return self.head(rows).unflatten(0, input_ids.shape)


def test_tokens_of_all_inputs_in_one_row_are_counted_too():
    model, ids = Flat().eval(), torch.randint(1, 20, (4, 6))
    pca = PCA(2).fit(model.layer(model.embed(ids)).detach().reshape(-1, WIDTH))
    n_rows = []

    def same(rows):
        n_rows.append(len(rows))
        return rows

    loss_recovered(model, "layer", same, ids, skip_first=2)
    assert n_rows == [4 * 4]
    kept = []
    model.layer.register_forward_hook(lambda *given: kept.append(given[-1].clone()))
    with torch.no_grad():
        model(ids)
        with steer(model, "layer", pca, 0, 9.0, skip_first=2):
            model.layer._forward_hooks.move_to_end(
                next(iter(model.layer._forward_hooks))
            )
            model(ids)
    changed = (kept[0] != kept[1]).any(1).reshape(4, 6)
    assert torch.equal(changed, torch.arange(6).expand(4, -1) >= 2)


def test_vectors_of_inputs_are_steered_whatever_is_skipped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Identity())
    X = torch.randn(9, 4)
    pca = PCA(2).fit(model(X).detach().numpy())
    with steer(model, "0", pca, 0, 3.0), torch.no_grad():
        expected = model(X)
    with steer(model, "0", pca, 0, 3.0, skip_first=1), torch.no_grad():
        assert torch.equal(model(X), expected)


def test_tools_without_a_median_say_so(gpt2, pca):
    tokens = [[1, 2, 3]]
    other = PCA(2).fit(np.eye(WIDTH))
    for tool in [
        lambda: loss_recovered(gpt2, LAYER, other, tokens, max_norm_ratio=2.0),
        lambda: steer(gpt2, LAYER, other, 0, 1.0, max_norm_ratio=2.0),
        lambda: ablate(gpt2, LAYER, other, 0, max_norm_ratio=2.0),
    ]:
        with pytest.raises(ValueError, match=r"median_norm_.*this PCA has none"):
            tool()
    with pytest.raises(ValueError, match="all positions of tokens"):
        loss_recovered(gpt2, LAYER, pca, tokens, skip_first=3)
    for wrong in [{"skip_first": -1}, {"max_norm_ratio": 0.0}]:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            loss_recovered(gpt2, LAYER, pca, tokens, **wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ablate(gpt2, LAYER, pca, 0, **wrong)
