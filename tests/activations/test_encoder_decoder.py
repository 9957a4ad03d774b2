"""The layers of a decoder have the decoder's tokens, not those of the encoder."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LEDConfig,
    LEDForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from skmfr.activations import (
    ActivationExtractor,
    loss_recovered,
    steer,
    top_contexts,
)

LENGTHS, DECODED = [4, 6, 3], [6, 2, 5]


@pytest.fixture(scope="module")
def t5():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=30,
        d_model=8,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 30, n) for n in LENGTHS], [
        rng.integers(1, 30, n) for n in DECODED
    ]


def padded(rows) -> tuple[np.ndarray, np.ndarray]:
    mask = np.arange(max(map(len, rows))) < np.array([[len(row)] for row in rows])
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask.astype(np.int64)


@pytest.fixture(scope="module")
def given(texts):
    """Both have as many columns, so that their masks can be confused."""
    (ids, mask), (decoded, of_decoded) = map(padded, texts)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": decoded,
        "decoder_attention_mask": of_decoded,
    }


def alone(t5, texts, layer) -> list[np.ndarray]:
    """Activations of each pair of texts by itself."""
    found: list = []

    def keep(module, inputs, output):
        output = output if isinstance(output, torch.Tensor) else output[0]
        found.append(output[0].detach().numpy())

    handle = t5.get_submodule(layer).register_forward_hook(keep)
    with torch.no_grad():
        for ids, decoded in zip(*texts, strict=True):
            t5(torch.tensor(ids[None]), decoder_input_ids=torch.tensor(decoded[None]))
    handle.remove()
    return found


@pytest.mark.parametrize(
    "layer",
    [
        "encoder.block.0",
        "decoder.block.0",
        "decoder.block.0.layer.1.EncDecAttention.k",
        "lm_head",
    ],
)
def test_padding_is_that_of_the_layers_own_tokens(t5, texts, given, layer):
    expected = np.concatenate(alone(t5, texts, layer))
    extractor = ActivationExtractor(t5, layer, positions="all", batch_size=2)
    # Sums of numbers up to 50 in float32.
    np.testing.assert_allclose(
        extractor.transform(given), expected, rtol=1e-5, atol=1e-5
    )


def test_all_tokens_of_a_decoder_without_a_mask_count(t5, given):
    X = {n: a for n, a in given.items() if n != "decoder_attention_mask"}
    extractor = ActivationExtractor(t5, "decoder.block.0", positions="all")
    assert len(extractor.transform(X)) == given["decoder_input_ids"].size


def test_contexts_are_of_the_decoders_tokens(t5, texts, given):
    extractor = ActivationExtractor(t5, "decoder.block.0", positions="all")
    pca = PCA(2).fit(extractor.transform(given))
    contexts = top_contexts(pca, extractor, given, n_contexts=1, before=0, after=0)
    for i, position, token in zip(
        contexts.inputs.flat, contexts.positions.flat, contexts.tokens.flat, strict=True
    ):
        assert texts[1][i][position] == token


@pytest.mark.parametrize("layer", ["encoder.block.0", "decoder.block.0"])
def test_the_loss_is_that_of_the_decoders_tokens(t5, texts, given, layer):
    def loss(skipped) -> float:
        """With the layer's output set to zero from a position on, without padding."""

        def change(module, inputs, output):
            first = output if isinstance(output, torch.Tensor) else output[0]
            first[:, skipped:] = 0
            return output

        total, n_tokens = 0.0, 0
        handle = t5.get_submodule(layer).register_forward_hook(change)
        with torch.no_grad():
            for ids, decoded in zip(*texts, strict=True):
                decoded = torch.tensor(decoded[None])
                logits = t5(torch.tensor(ids[None]), decoder_input_ids=decoded).logits
                total += cross_entropy(logits[0, :-1], decoded[0, 1:], reduction="sum")
                n_tokens += decoded.numel() - 1
        handle.remove()
        return float(total) / n_tokens

    _, losses = loss_recovered(
        t5, layer, lambda X: X, given, skip_first=2, return_losses=True
    )
    assert losses.clean == pytest.approx(loss(100), rel=1e-5)
    assert losses.zero == pytest.approx(loss(2), rel=1e-5)


def test_the_loss_needs_the_decoders_tokens(t5, given):
    for tokens in (given["input_ids"], {"input_ids": given["input_ids"]}):
        with pytest.raises(ValueError, match="a mapping with 'decoder_input_ids'"):
            loss_recovered(t5, "decoder.block.0", lambda X: X, tokens)


def test_labels_are_no_tokens_of_the_decoder(t5, given):
    X = {"input_ids": given["input_ids"], "labels": given["decoder_input_ids"]}
    extractor = ActivationExtractor(t5, "decoder.block.0", positions="all")
    with pytest.raises(ValueError, match="shifted to the right, as decoder_input_ids"):
        extractor.transform(X)


def changed_positions(t5, layer, pca, run) -> list[np.ndarray]:
    """Which positions are steered in each run of a layer, (n_inputs, n_positions)."""
    outputs: list = []

    def keep(module, inputs, output):
        outputs.append(output[0].detach().clone())

    handles = [t5.get_submodule(layer).register_forward_hook(keep)]
    with steer(t5, layer, pca, 0, 50.0, skip_first=1), torch.no_grad():
        handles += [t5.get_submodule(layer).register_forward_hook(keep)]
        run()
    for handle in handles:
        handle.remove()
    before, after = outputs[::2], outputs[1::2]
    return [
        (a != b).any(-1).numpy().astype(int) for a, b in zip(before, after, strict=True)
    ]


@pytest.fixture(scope="module")
def pca():
    return PCA(2).fit(np.random.default_rng(0).normal(size=(20, 8)))


def test_steering_counts_the_decoders_tokens(t5, given, pca):
    tensors = {name: torch.tensor(array) for name, array in given.items()}
    for layer, name in [
        ("encoder.block.0", "attention_mask"),
        ("decoder.block.0", "decoder_attention_mask"),
    ]:
        (changed,) = changed_positions(t5, layer, pca, lambda: t5(**tensors))
        expected = given[name] * (np.arange(6) > 0)
        np.testing.assert_array_equal(changed, expected)


def test_generation_is_steered_beyond_the_encoders_length(t5, given, pca):
    n_new = given["input_ids"].shape[1] + 3
    ids, mask = (torch.tensor(given[n]) for n in ("input_ids", "attention_mask"))
    usual = {"max_new_tokens": n_new, "do_sample": False, "eos_token_id": None}

    def run():
        t5.generate(ids, attention_mask=mask, **usual)

    steps = changed_positions(t5, "decoder.block.0", pca, run)
    expected = np.tile(np.arange(n_new) > 0, (3, 1))
    np.testing.assert_array_equal(np.concatenate(steps, axis=1), expected)
    (of_encoder,) = changed_positions(t5, "encoder.block.0", pca, run)
    np.testing.assert_array_equal(
        of_encoder, given["attention_mask"] * (np.arange(6) > 0)
    )


def test_the_projection_for_the_decoder_has_the_tokens_of_the_encoder():
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    encoder = BertConfig(vocab_size=30, hidden_size=8, **small)
    small |= {"is_decoder": True, "add_cross_attention": True}
    decoder = BertConfig(vocab_size=30, hidden_size=12, **small)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    torch.manual_seed(0)
    model = EncoderDecoderModel(config).eval()
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ids = np.random.default_rng(0).integers(1, 30, size=(2, 5))
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}
    extractor = ActivationExtractor(model, "enc_to_dec_proj", positions="all")
    with torch.no_grad():
        arguments = torch.from_numpy(ids), torch.from_numpy(mask)
        hidden = model.encoder(*arguments).last_hidden_state
        expected = model.enc_to_dec_proj(hidden)[torch.from_numpy(mask).bool()]
    # Sums of numbers up to 50 in float32.
    np.testing.assert_allclose(
        extractor.transform(given), expected, rtol=1e-5, atol=1e-5
    )


def test_decoders_have_no_windows_to_fill():
    config = LEDConfig(
        vocab_size=30,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        attention_window=8,
        max_encoder_position_embeddings=32,
        max_decoder_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = LEDForConditionalGeneration(config).eval()
    rng = np.random.default_rng(0)
    given = {
        "input_ids": rng.integers(3, 30, size=(2, 5)),
        "decoder_input_ids": rng.integers(3, 30, size=(2, 8)),
    }
    for layer, n_rows in [("led.decoder.layers.0", 16), ("led.encoder.layers.0", 10)]:
        extractor = ActivationExtractor(model, layer, positions="all")
        assert extractor.transform(given).shape == (n_rows, 8)
