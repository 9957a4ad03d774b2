"""Which axes of a layer's output are inputs, positions and features."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from transformers import LongformerConfig, LongformerModel

from skmfr.activations import (
    ActivationExtractor,
    ablate,
    loss_recovered,
    steer,
    top_contexts,
)

WIDTH = 6


class Channels(nn.Module):
    """A text model that convolves, and puts the features elsewhere for a while."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        nn.init.zeros_(self.conv.weight[..., 2])  # of the next token
        self.norm = nn.BatchNorm1d(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 30)

    def forward(self, ids):
        x = self.norm(self.conv(self.embedding(ids).movedim(-1, 1))).movedim(1, -1)
        # Four axes, features last.
        return self.head(self.linear(x[:, :, None])[:, :, 0])


# The axis of the features, and the others in the order of the positions.
AXES = {"embedding": -1, "conv": 1, "norm": 1, "linear": -1}


@pytest.fixture(scope="module")
def channels():
    torch.manual_seed(0)
    return Channels().eval()


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(30, size=(5, 8))


def output_of(model, layer, ids) -> torch.Tensor:
    outputs: list = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: outputs.append(output.detach().clone())
    )
    with torch.no_grad():
        model(torch.tensor(ids))
    handle.remove()
    return outputs[0]


@pytest.mark.parametrize("layer", AXES)
def test_features_are_where_the_type_of_a_layer_has_them(channels, ids, layer):
    output = output_of(channels, layer, ids)
    expected = output.movedim(AXES[layer], -1).reshape(-1, WIDTH)
    extractor = ActivationExtractor(channels, layer, positions="all")
    rows = extractor.fit_transform(ids)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)

    pca = PCA(2).fit(rows)
    with steer(channels, layer, pca, 0, 7.0):
        steered = output_of(channels, layer, ids).movedim(AXES[layer], -1)
    codes = pca.transform(steered.reshape(-1, WIDTH).double())
    np.testing.assert_allclose(codes[:, 0], 7, atol=1e-4)
    np.testing.assert_allclose(codes[:, 1], pca.transform(rows)[:, 1], atol=1e-4)
    with ablate(channels, layer, pca, 0):
        ablated = output_of(channels, layer, ids).movedim(AXES[layer], -1)
    codes = pca.transform(ablated.reshape(-1, WIDTH).double())
    np.testing.assert_allclose(codes[:, 0], 0, atol=1e-4)


def test_splices_are_of_features(channels, ids):
    given: list = []

    def reconstruct(rows):
        given.append(rows)
        return rows

    loss_recovered(channels, "conv", reconstruct, ids)
    expected = output_of(channels, "conv", ids).movedim(1, -1).reshape(-1, WIDTH)
    np.testing.assert_allclose(given[0], expected, rtol=1e-6)


class Tuned(nn.Module):
    """A layer inside one that adds to what it gives, as PEFT has them."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer

    def forward(self, x):
        return self.base_layer(x) + 1


class Quantised(nn.Module):
    in_features = out_features = WIDTH

    def forward(self, x):
        return x + 1


class OtherRMSNorm(nn.Module):
    """As each model of transformers has its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * x / x.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (Tuned(nn.Linear(WIDTH, WIDTH)), (2, 4, 5, WIDTH), -1),
        (Tuned(nn.Conv1d(4, 7, 1)), (2, 4, 5), 1),
        (Quantised(), (2, 4, 5, WIDTH), -1),
        (OtherRMSNorm(), (2, 4, 5, WIDTH), -1),
    ],
)
def test_layers_that_stand_for_others_have_their_axes(layer, shape, axis):
    X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows = ActivationExtractor(nn.Sequential(layer), "0", positions="all").transform(X)
    expected = layer(torch.tensor(X)).detach().movedim(axis, -1)
    np.testing.assert_allclose(rows, expected.flatten(0, -2), rtol=1e-5)


class Heads(nn.Module):
    """A language model with hooks on the heads of its attention."""

    def __init__(self, heads_first=False):
        super().__init__()
        self.embedding = nn.Embedding(30, 3 * WIDTH)
        self.heads, self.head = nn.Identity(), nn.Linear(3 * WIDTH, 30)
        self.axis = 1 if heads_first else 2

    def heads_of(self, ids):
        return self.embedding(ids).unflatten(-1, (3, WIDTH))

    def forward(self, ids, attention_mask=None):
        heads = self.heads(self.heads_of(ids).movedim(2, self.axis))
        return self.head(heads.movedim(self.axis, 2).flatten(-2))


def test_heads_have_their_features_last(ids):
    torch.manual_seed(0)
    model = Heads()
    rows = ActivationExtractor(model, "heads", positions="all").transform(ids)
    expected = model.embedding.weight.detach()[ids.ravel()].reshape(-1, WIDTH)
    np.testing.assert_array_equal(rows, expected)
    pca = PCA(2).fit(rows)
    with steer(model, "heads", pca, 0, 7.0):
        steered = output_of(model, "heads", ids).reshape(-1, WIDTH)
    np.testing.assert_allclose(pca.transform(steered)[:, 0], 7, atol=1e-5)
    given: list = []
    loss_recovered(model, "heads", lambda rows: given.append(rows) or rows, ids)
    np.testing.assert_array_equal(given[0], expected)


LENGTHS = [8, 3, 8, 5, 4]


@pytest.mark.parametrize("skip_first", [0, 2])
@pytest.mark.parametrize("heads_first", [False, True])
def test_heads_are_left_out_with_their_tokens(ids, skip_first, heads_first, tmp_path):
    torch.manual_seed(0)
    model = Heads(heads_first)
    texts = [text[:n] for text, n in zip(ids, LENGTHS, strict=True)]
    # (n_tokens, 3, width) of each text
    kept = [model.heads_of(torch.tensor(t[skip_first:])).detach() for t in texts]
    if heads_first:
        kept = [heads.movedim(0, 1) for heads in kept]
    rows = [heads.reshape(-1, WIDTH) for heads in kept]
    extractor = ActivationExtractor(model, "heads", skip_first=skip_first)

    def extracted(positions, **options):
        return extractor.set_params(positions=positions, **options).fit_transform(texts)

    np.testing.assert_array_equal(extracted("all"), torch.cat(rows))
    with_file = extracted("all", out=tmp_path / "rows.npy")
    np.testing.assert_array_equal(with_file, torch.cat(rows))
    means = torch.stack([each.mean(0) for each in rows])
    np.testing.assert_allclose(extracted("mean", out=None), means, atol=1e-6)
    pca = PCA(2).fit(torch.cat(rows))
    with pytest.raises(ValueError, match="3 positions for each token, as for heads"):
        extracted("last")
    top_contexts(pca, extractor, texts)

    before = output_of(model, "heads", ids)
    with steer(model, "heads", pca, 0, 7.0, skip_first=skip_first):
        changed = (output_of(model, "heads", ids) != before).any(-1)
    at_token = torch.arange(8).reshape([1, 8] if heads_first else [8, 1])
    assert torch.equal(changed, (at_token >= skip_first).expand(changed.shape))
    given: list = []
    loss_recovered(
        model, "heads", lambda x: given.append(x) or x, ids, skip_first=skip_first
    )
    np.testing.assert_array_equal(given[0], before[changed])


def test_maps_of_models_with_embedded_classes_have_their_features_on_axis_one():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.classes = nn.Conv2d(1, WIDTH, 3), nn.Embedding(4, WIDTH)
            self.relu = nn.ReLU()

        def forward(self, images, labels):
            return self.relu(self.conv(images) + self.classes(labels)[..., None, None])

    torch.manual_seed(0)
    model, images = Labelled(), torch.randn(4, 1, 6, 7)
    X = {"images": images.numpy(), "labels": np.arange(4)}
    rows = ActivationExtractor(model, "relu", positions="all").transform(X)
    expected = model(images, torch.arange(4)).detach().movedim(1, -1)
    np.testing.assert_allclose(rows, expected.reshape(-1, WIDTH), atol=1e-6)


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, WIDTH)
        self.swapped = nn.Identity()
        self.out = nn.Identity()

    def forward(self, ids):
        return self.out(self.swapped(self.embedding(ids).movedim(0, 1)).movedim(0, 1))


def test_positions_are_not_taken_for_inputs():
    """Though there are as many of both."""
    model, square = SequenceFirst(), np.arange(25).reshape(5, 5)
    extractor = ActivationExtractor(model, "swapped")
    pca = PCA(2).fit(np.random.default_rng(0).normal(size=(20, WIDTH)))
    with pytest.raises(ValueError, match="whose first axis is the inputs"):
        extractor.transform(square)
    with pytest.raises(ValueError, match="whose first axis is the inputs"):
        top_contexts(pca, extractor, square)
    rows = ActivationExtractor(model, "out", positions="all").transform(square)
    np.testing.assert_array_equal(rows, model.embedding.weight.detach()[:25])


class Cached:
    """A cache of transformers with a number of tokens in it."""

    def __init__(self, n_tokens):
        self.n_tokens = n_tokens

    def get_seq_length(self):
        return self.n_tokens


class SequenceFirstLM(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(30, WIDTH), nn.Linear(WIDTH, 30)
        self.swapped = nn.Linear(WIDTH, WIDTH)
        # Positions that are not tokens.
        self.halved = nn.AvgPool2d((2, 1), ceil_mode=True)
        self.mixed = nn.Identity()

    def forward(self, input_ids, attention_mask=None, past_key_values=None):
        embedded = self.embedding(input_ids)
        self.halved(embedded)
        self.mixed(embedded.flatten(0, 1)[1:])
        return self.head(self.swapped(embedded.movedim(0, 1)).movedim(0, 1))


def steered_tokens(model, pca, skip_first, passes):
    """Which tokens change in each pass, (n_inputs, n_tokens)."""
    changed = []
    with torch.no_grad():
        before = [model(**arguments) for arguments in passes]
        with steer(model, "swapped", pca, 0, 9.0, skip_first=skip_first):
            for arguments, expected in zip(passes, before, strict=True):
                changed.append((model(**arguments) != expected).any(-1))
    return changed


def test_tokens_on_the_first_axis_are_skipped():
    model = SequenceFirstLM()
    pca = PCA(2).fit(np.random.default_rng(0).normal(size=(20, WIDTH)))
    ids, mask = torch.randint(30, (3, 5)), torch.ones(3, 5, dtype=torch.long)
    mask[1, :2] = 0
    (changed,) = steered_tokens(model, pca, 1, [{"input_ids": ids}])
    assert torch.equal(changed, (torch.arange(5) >= 1).expand(3, -1))
    padded = {"input_ids": ids, "attention_mask": mask}
    (changed,) = steered_tokens(model, pca, 1, [padded])
    assert torch.equal(changed, mask.cumsum(1) * mask > 1)

    # As in generate. The last pass has as many inputs as tokens.
    passes = [{"input_ids": ids}] + [
        {"input_ids": ids[:, :n], "past_key_values": Cached(n_past)}
        for n, n_past in [(1, 5), (1, 6), (3, 5)]
    ]
    *_, first, second, square = steered_tokens(model, pca, 6, passes)
    assert not first.any()
    assert second.all()
    assert torch.equal(square, (torch.arange(3) >= 1).expand(3, -1))


@pytest.mark.parametrize("n_inputs", [3, 5])
def test_splices_skip_tokens_on_the_first_axis(n_inputs):
    model, ids = SequenceFirstLM(), torch.randint(30, (n_inputs, 5))
    _, losses = loss_recovered(
        model, "swapped", lambda rows: 0 * rows, ids, skip_first=2, return_losses=True
    )

    def zero(module, inputs, output):
        return torch.cat([output[:2], 0 * output[2:]])

    handle = model.swapped.register_forward_hook(zero)
    with torch.no_grad():
        logits = model(ids)[:, :-1]
    handle.remove()
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert losses.spliced == pytest.approx(float(expected), rel=1e-5)


def test_first_positions_must_be_known_to_be_skipped():
    model, ids = SequenceFirstLM(), torch.randint(30, (3, 6))
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[0, :2] = 0
    pca = PCA(2).fit(np.random.default_rng(0).normal(size=(20, WIDTH)))
    with steer(model, "mixed", pca, 0, 9.0):
        model(ids)
    with (
        steer(model, "mixed", pca, 0, 9.0, skip_first=1),
        pytest.raises(ValueError, match="gives 17 rows for 3 inputs"),
    ):
        model(ids)
    with steer(model, "halved", pca, 0, 9.0, skip_first=1):
        model(ids)
        with pytest.raises(ValueError, match="gives 3 positions for 6 tokens"):
            model(ids, mask)


def test_padding_that_the_model_adds_is_left_out():
    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        attention_window=8,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    model = LongformerModel(config).eval()
    layer = "encoder.layer.0.output"
    X = np.random.default_rng(0).integers(1, 30, size=(3, 9))
    extractor = ActivationExtractor(model, layer, positions="all")
    embedded = model.embeddings.word_embeddings.weight.detach().numpy()[X]
    given = {"inputs_embeds": embedded, "attention_mask": np.ones_like(X)}
    np.testing.assert_allclose(
        extractor.transform(given), extractor.transform(X), atol=1e-5
    )
    for texts in (X, [x[:n] for x, n in zip(X, [9, 3, 5], strict=True)]):
        expected = [output_of(model, layer, x[None])[0, : len(x)] for x in texts]
        np.testing.assert_allclose(
            extractor.transform(texts), np.concatenate(expected), atol=1e-5
        )
    pca, mask = PCA(2).fit(np.concatenate(expected)), torch.ones(3, 9)
    mask[1, :4] = 0
    given = {"input_ids": torch.tensor(X), "attention_mask": mask.long()}
    with torch.no_grad(), steer(model, layer, pca, 0, 7.0, skip_first=2):
        steered = model(**given)[0]
    with torch.no_grad():
        changed = (steered != model(**given)[0]).any(-1)
    assert torch.equal(changed, mask.cumsum(1) * mask > 2)


class Padded(nn.Module):
    """An encoder of PyTorch that is told about padding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, ids, padding):
        return self.encoder(self.embedding(ids), src_key_padding_mask=padding)


def test_encoders_of_pytorch_do_not_pack_their_inputs():
    torch.manual_seed(0)
    model = Padded().eval()
    rng = np.random.default_rng(0)
    ids, padding = rng.integers(30, size=(4, 6)), np.zeros((4, 6), dtype=bool)
    padding[0, 4:] = True
    X, layer = {"ids": ids, "padding": padding}, "encoder.layers.1"
    rows = ActivationExtractor(model, layer, positions="all").fit_transform(X)
    rows = rows.reshape(4, 6, 8)[~padding]
    outputs: list = []
    model.encoder.layers[1].register_forward_hook(
        lambda module, inputs, output: outputs.append(output.detach())
    )
    with torch.no_grad():
        for row, hidden in zip(ids, padding, strict=True):
            model(torch.tensor(row[~hidden])[None], None)
    expected = torch.cat([output[0] for output in outputs])
    np.testing.assert_allclose(rows, expected, atol=1e-5)

    assert torch.backends.mha.get_fastpath_enabled()
    pca = PCA(2).fit(rows)
    outputs.clear()
    with steer(model, layer, pca, 0, 7.0), torch.no_grad():
        steered = model(*map(torch.tensor, (ids, padding)))
    assert torch.backends.mha.get_fastpath_enabled()
    codes = pca.transform(steered[torch.tensor(~padding)].double())
    np.testing.assert_allclose(codes[:, 0], 7, atol=1e-4)


def test_a_module_has_all_of_its_names():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Tanh())
    model.last = model[1]
    rows = ActivationExtractor(model, "last").fit_transform([[1, 2], [3, 4]])
    expected = model[0].weight.detach()[[2, 4]].tanh()
    np.testing.assert_array_equal(rows, expected)
