"""Layers for images, in models that read texts beside them."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn.functional import cross_entropy
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from skmfr.activations import (
    ActivationExtractor,
    loss_recovered,
    steer,
    top_contexts,
)

N_INPUTS, IMAGE = 4, 5
TOWER = "model.vision_tower.encoder.layers.0"  # 4 patches and the class
PROJECTOR = "model.multi_modal_projector"  # 4 patches
TEXT = "model.language_model.layers.0"


@pytest.fixture(scope="module")
def llava():
    torch.manual_seed(0)
    shape = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, image_size=8, patch_size=4),
        text_config=LlamaConfig(**shape, vocab_size=30),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval()


# As many tokens as positions of the tower, and as patches, and more.
@pytest.fixture(params=[5, 4, 12], ids="{} tokens".format)
def X(request):
    rng = np.random.default_rng(0)
    ids = rng.integers(6, 30, size=(N_INPUTS, request.param))
    ids[:, -4 if request.param < 6 else 1 :][:, :4] = IMAGE
    mask = np.ones_like(ids)
    if request.param > 5:
        mask[[1, 3], -1] = 0
    elif request.param > 4:
        mask[[1, 3], 0] = 0
    images = rng.normal(size=(N_INPUTS, 3, 8, 8)).astype(np.float32)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": images}


def run(model, layer, X, change=lambda output: output):
    """Output of a layer, changed, and logits."""
    outputs: list = []

    def hook(module, inputs, output):
        outputs.append(change(output))
        return outputs[0]

    handle = model.get_submodule(layer).register_forward_hook(hook)
    with torch.no_grad():
        logits = model(**{name: torch.tensor(x) for name, x in X.items()}).logits
    handle.remove()
    return outputs[0], logits


@pytest.mark.parametrize("layer", [TOWER, PROJECTOR])
def test_padding_of_texts_leaves_places_of_images(llava, X, layer):
    output, _ = run(llava, layer, X)
    for skip_first in (0, 1):
        extractor = ActivationExtractor(
            llava, layer, positions="all", skip_first=skip_first, batch_size=3
        )
        rows = extractor.fit_transform(X)
        expected = output[:, skip_first:].reshape(-1, output.shape[-1])
        np.testing.assert_allclose(rows, expected, atol=1e-5)
    contexts = top_contexts(PCA(2).fit(rows), extractor, X)
    assert contexts.tokens is None


def test_padding_of_texts_is_left_out_of_texts(llava, X):
    output, _ = run(llava, TEXT, X)
    rows = ActivationExtractor(llava, TEXT, positions="all").fit_transform(X)
    expected = output[torch.tensor(X["attention_mask"] > 0)]
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize("layer", [TOWER, PROJECTOR])
def test_first_places_of_images_are_skipped(llava, X, layer):
    output, _ = run(llava, layer, X)
    pca = PCA(2).fit(output.flatten(0, 1))
    with steer(llava, layer, pca, 0, 3.0, skip_first=2):
        changed = (run(llava, layer, X)[0] != output).any(-1)
    expected = torch.arange(output.shape[1]) >= 2
    assert torch.equal(changed, expected.expand(N_INPUTS, -1))


@pytest.mark.parametrize("layer", [TOWER, PROJECTOR])
@pytest.mark.parametrize("X", [12], indirect=True)
def test_first_places_of_images_are_not_spliced(llava, layer, X):
    def zero(output):
        return torch.cat([output[:, :2], 0 * output[:, 2:]], 1)

    _, losses = loss_recovered(
        llava, layer, lambda rows: 0 * rows, X, skip_first=2, return_losses=True
    )
    _, logits = run(llava, layer, X, zero)
    ids, mask = torch.tensor(X["input_ids"]), torch.tensor(X["attention_mask"] > 0)
    told = mask[:, 1:]
    expected = cross_entropy(logits[:, :-1][told], ids[:, 1:][told])
    assert losses.spliced == pytest.approx(float(expected), rel=1e-5)


def test_texts_about_sounds_are_counted_by_token():
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=30,
        num_mel_bins=4,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_source_positions=6,
        max_target_positions=9,
        **dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id"], 1),
        decoder_start_token_id=2,
    )
    model = WhisperForConditionalGeneration(config).eval()
    X = {
        "input_features": np.random.default_rng(0).normal(size=(2, 4, 12)),
        "decoder_input_ids": np.array([[2, 3, 4, 5], [2, 6, 7, 1]]),
        "decoder_attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    given = {name: torch.tensor(x) for name, x in X.items()}
    given["input_features"] = given["input_features"].float()
    # Layers of the decoder, and of the encoder, which has no mask.
    for layer, counting in {
        "proj_out": given["decoder_attention_mask"] > 0,
        "model.decoder.layers.0": given["decoder_attention_mask"] > 0,
        "model.encoder.layers.0": torch.ones(2, 6, dtype=torch.bool),
    }.items():
        outputs: list = []
        handle = model.get_submodule(layer).register_forward_hook(
            lambda *passed, kept=outputs: kept.append(first_of(passed[-1]))
        )
        with torch.no_grad():
            model(**given)
        rows = ActivationExtractor(model, layer, positions="all").transform(X)
        np.testing.assert_allclose(rows, outputs[0][counting], atol=1e-5)
        pca = PCA(2).fit(rows)
        with torch.no_grad(), steer(model, layer, pca, 0, 9.0, skip_first=2):
            # Hooks run in the order in which they are registered.
            model.get_submodule(layer)._forward_hooks.move_to_end(handle.id)
            model(**given)
        handle.remove()
        changed = (outputs[-1] != outputs[0]).any(-1)
        assert torch.equal(changed, (counting.cumsum(1) * counting) > 2)


def first_of(output):
    return (output[0] if isinstance(output, tuple) else output).detach().clone()
