import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    MusicgenConfig,
    XLNetConfig,
)

from skmfr.activations import ActivationExtractor

LENGTHS = [4, 9, 2, 8]
SEQUENCES = [np.random.default_rng(n).integers(1, 50, size=n) for n in LENGTHS]


class Backward(nn.Module):
    """Each token sees those after it, and padding too if there were any; no mask."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.sum = nn.Identity()

    def forward(self, input_ids):
        return self.sum(self.embedding(input_ids).flip(1).cumsum(1).flip(1))


def gpt2():
    return GPT2Model(
        GPT2Config(vocab_size=50, n_positions=12, n_embd=8, n_layer=1, n_head=2)
    )


def bert():
    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=12,
        )
    )


@pytest.fixture(scope="module", params=["gpt2", "bert", "without mask"])
def extractor(request):
    torch.manual_seed(0)
    make, layer = {
        "gpt2": (gpt2, "h.0"),
        "bert": (bert, "encoder.layer.0.output"),
        "without mask": (Backward, "sum"),
    }[request.param]
    # Batches hold sequences of several lengths.
    return ActivationExtractor(
        make().eval(), layer, positions="all", batch_size=3, pad_token_id=0
    )


def alone(extractor, sequences) -> np.ndarray:
    """Each text by itself, through the model as it is called by hand."""
    kept: list = []
    handle = extractor.model.get_submodule(extractor.layer).register_forward_hook(
        lambda module, inputs, output: kept.append(output)
    )
    with torch.no_grad():
        for sequence in sequences:
            extractor.model(torch.tensor(np.asarray(sequence)[None]))
    handle.remove()
    outputs = [x if isinstance(x, torch.Tensor) else x[0] for x in kept]
    return torch.cat([x.flatten(0, 1) for x in outputs]).numpy()


def padded(sequences, side: str, width: int = 10, pad: int = 0) -> np.ndarray:
    rows = np.full((len(sequences), width), pad)
    for row, sequence in zip(rows, sequences, strict=True):
        n = len(sequence)
        row[slice(width - n, None) if side == "left" else slice(n)] = sequence
    return rows


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("given", ["array", "mapping", "types"])
def test_each_text_is_as_if_alone(extractor, side, given):
    expected = alone(extractor, SEQUENCES)
    X = padded(SEQUENCES, side)
    if given != "array":
        X = {"input_ids": X}
    if given == "types":
        if isinstance(extractor.model, Backward):
            pytest.skip("takes token ids alone")
        # Segments that would be wrong by one position, were they not moved along.
        types = [np.arange(len(s)) % 2 for s in SEQUENCES]
        X |= {"token_type_ids": padded(types, side, pad=1)}
        X |= {"attention_mask": (X["input_ids"] != 0).astype(int)}
        rows = [
            {"input_ids": s[None], "token_type_ids": t[None]}
            for s, t in zip(SEQUENCES, types, strict=True)
        ]
        expected = np.concatenate([extractor.transform(row) for row in rows])
    np.testing.assert_allclose(extractor.transform(X), expected, atol=1e-5)


def test_embeddings_are_moved_as_ids_are():
    torch.manual_seed(0)
    model = gpt2().eval()
    extractor = ActivationExtractor(model, "h.0", positions="all")
    X = padded(SEQUENCES, "left")
    embedded = model.wte.weight.detach().numpy()[X]
    given = {"inputs_embeds": embedded, "attention_mask": (X != 0).astype(int)}
    rows = extractor.transform(given)
    np.testing.assert_allclose(rows, alone(extractor, SEQUENCES), atol=1e-5)


@pytest.mark.parametrize("width", [9, 10])
def test_a_first_token_with_the_pad_id_is_text(extractor, width):
    texts = [np.append(0, s[:-1]) for s in SEQUENCES]
    rows = extractor.transform(padded(texts, "right", width))
    np.testing.assert_allclose(rows, alone(extractor, texts), atol=1e-5)


def test_windows_that_all_begin_with_the_pad_id_are_whole(extractor):
    X = np.random.default_rng(0).integers(1, 50, size=(3, 6))
    X[:, 0] = 0
    for rows in [X, X[:1]]:
        expected = alone(extractor, rows)
        np.testing.assert_allclose(extractor.transform(rows), expected, atol=1e-5)


def test_a_mask_tells_bos_from_padding_at_the_left(extractor):
    if isinstance(extractor.model, Backward):
        pytest.skip("takes no mask")
    texts = [np.append(0, s[:-1]) for s in SEQUENCES]
    masks = [np.ones(len(s), dtype=int) for s in texts]
    X = {
        "input_ids": padded(texts, "left"),
        "attention_mask": padded(masks, "left"),
    }
    rows = extractor.transform(X)
    np.testing.assert_allclose(rows, alone(extractor, texts), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("given", ["array", "mapping"])
def test_max_length_counts_text(extractor, side, given):
    X = padded(SEQUENCES, side, 20)
    cut = ActivationExtractor(**extractor.get_params()).set_params(max_length=3)
    expected = alone(extractor, [s[:3] for s in SEQUENCES])
    rows = cut.transform(X if given == "array" else {"input_ids": X})
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_padding_beyond_the_context_is_no_text(extractor):
    # 20 columns, of which 9 hold text; the context is 12.
    rows = extractor.transform(padded(SEQUENCES, "left", 20))
    np.testing.assert_allclose(rows, alone(extractor, SEQUENCES), atol=1e-5)


def test_masks_have_a_row_of_tokens_each():
    model = gpt2().eval()
    X = {"input_ids": [[1, 2]], "attention_mask": np.ones((1, 2, 2))}
    with pytest.raises(ValueError, match=r"attention_mask'\] must be of shape"):
        ActivationExtractor(model, "h.0").fit(X)


def test_texts_hold_no_padding(extractor):
    ids = {"x": [0, 3, 0], "y": [4, 0, 0]}
    texts = ActivationExtractor(**extractor.get_params()).set_params(
        tokenizer=lambda texts: {"input_ids": [ids[text] for text in texts]}
    )
    rows = texts.transform(["x", "y"])
    np.testing.assert_allclose(rows, alone(extractor, ids.values()), atol=1e-5)


class Given(nn.Module):
    """Passes on what the model made of its arguments."""

    def __init__(self, change):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.change = change
        self.out = nn.Identity()

    def forward(self, **given):
        return self.out(self.change(**given) * self.weight)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4)])
def test_truth_values_stay_truth_values(shape):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(3, 5, 4)), rng.random(shape) < 0.5
    model = Given(lambda x, mask: x * ~mask.reshape(len(x), 5, -1))
    extractor = ActivationExtractor(model, "out", positions="all")
    rows = extractor.fit_transform({"x": x, "mask": mask})
    expected = (x * ~mask.reshape(3, 5, -1)).reshape(-1, 4)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_by_the_tokenizer_is_not_text(extractor, side):
    texts = [" ".join(map(str, sequence)) for sequence in SEQUENCES]

    def tokenizer(texts):
        ids = padded([np.array(text.split(), int) for text in texts], side)
        return {"input_ids": ids, "attention_mask": (ids != 0).astype(int)}

    rows = clone(extractor).set_params(tokenizer=tokenizer).transform(texts)
    np.testing.assert_allclose(rows, alone(extractor, SEQUENCES), atol=1e-5)


@pytest.mark.parametrize("kind", ["XLNet", "Musicgen"])
def test_a_context_that_is_not_known_is_not_a_limit(kind):
    if kind == "XLNet":  # gives -1
        config = XLNetConfig()
    else:  # gives one for each of its texts
        parts = {"text_encoder": {"model_type": "t5"}, "decoder": {}}
        config = MusicgenConfig(audio_encoder={"model_type": "encodec"}, **parts)
    model = nn.Sequential(nn.Embedding(50, 8))
    model.config = config
    X = np.random.default_rng(0).integers(50, size=(3, 6))
    rows = ActivationExtractor(model, "0", positions="all").fit_transform(X)
    np.testing.assert_array_equal(rows, model[0].weight.detach()[X.ravel()])


@pytest.mark.parametrize("side", ["left", "right"])
def test_vectors_of_tokens_are_moved_as_ids_are(side):
    rng = np.random.default_rng(0)
    boxes = [rng.normal(size=(n, 3)) for n in LENGTHS]
    X = {"input_ids": padded(SEQUENCES, side)}
    X["attention_mask"] = (X["input_ids"] != 0).astype(int)
    X["boxes"] = np.zeros((*X["input_ids"].shape, 3))
    X["boxes"][X["attention_mask"] == 1] = np.concatenate(boxes)
    # Its second axis is not tokens, though it is as long.
    X["pixel_values"] = rng.normal(size=X["boxes"].shape).astype(np.float32)

    def change(input_ids, attention_mask, boxes, pixel_values):
        assert np.isin(pixel_values[-1].numpy(), X["pixel_values"]).all()
        assert pixel_values.shape[1:] == X["pixel_values"].shape[1:]
        return boxes * input_ids[..., None]

    rows = ActivationExtractor(Given(change), "out", positions="all").transform(X)
    pairs = zip(SEQUENCES, boxes, strict=True)
    expected = np.concatenate([ids[:, None] * box for ids, box in pairs])
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_arrays_without_names_are_numbers():
    """Signals and images of truth values or integers, as of any other type."""
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    linear = nn.Linear(6, 4, bias=False)
    linear.weight = nn.Parameter(torch.from_numpy(weight))
    X = np.random.default_rng(1).normal(size=(10, 3, 6)) > 0
    model = nn.Sequential(linear)
    expected = (X @ weight.T).reshape(-1, 4)
    for given in (X, X.astype(np.int16), {"input": X.astype(np.int16)}):
        rows = ActivationExtractor(model, "0", positions="all").fit_transform(given)
        np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_masks_of_tokens_may_be_subtracted():
    x, mask = np.ones((2, 3, 4)), np.array([[True, True, False], [True, True, True]])
    model = Given(lambda x, attention_mask: x * (2.0 - attention_mask)[:, :, None])
    extractor = ActivationExtractor(model, "out", positions="all")
    rows = extractor.fit_transform({"x": x, "attention_mask": mask})
    np.testing.assert_array_equal(rows, np.ones((5, 4)))


def test_integers_stay_integers_unless_they_are_images():
    rng = np.random.default_rng(0)
    X = {
        "input_ids": rng.integers(5, size=(3, 4)),
        "labels": rng.integers(5, size=3),
        "boxes": rng.integers(5, size=(3, 4, 2)),
        "pixel_values": rng.integers(255, size=(3, 4, 4)),
        "image": rng.integers(255, size=(3, 1, 2, 2)),
    }
    table = torch.tensor(rng.normal(size=(5, 2)), dtype=torch.float32)

    def change(input_ids, labels, boxes, pixel_values, image):
        assert pixel_values.dtype == image.dtype == torch.float32
        return table[labels] + table[boxes].sum((1, 2))

    rows = ActivationExtractor(Given(change), "out").fit_transform(X)
    table = table.numpy()
    expected = table[X["labels"]] + table[X["boxes"]].sum((1, 2))
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("X", [["ab", "b"], [[1, 2], [3]], [[1, 2], [3, 4]]])
def test_columns_of_pyarrow_are_inputs(X, chunked):
    """It converts few of them without a copy, and others only if told to."""
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.chunked_array([X]) if chunked else pyarrow.array(X)

    def tokenizer(texts):
        return {"input_ids": [[ord(letter) - 90 for letter in text] for text in texts]}

    extractor = ActivationExtractor(nn.Embedding(50, 4), "", tokenizer=tokenizer)
    assert np.array_equal(extractor.transform(column), extractor.transform(X))
