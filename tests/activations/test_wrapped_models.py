"""Models inside other modules, as from PEFT, and what their callers do not tell."""

import threading

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from skmfr.activations import ActivationExtractor, loss_recovered, steer

WIDTH, LAYER = 8, "model.layers.0"
IDS = torch.tensor([[0, 0, 0, 5, 6, 7], [9, 8, 7, 6, 5, 4]])
MASK = (IDS != 0).long()
# Of steering that leaves out two tokens of each text.
CHANGED = torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]], dtype=torch.bool)


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        max_position_embeddings=32,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def pca():
    return PCA(2).fit(np.random.default_rng(0).normal(size=(30, WIDTH)))


class Tuned(nn.Module):
    """Generates by the model inside, and runs its forward without its hooks."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *arguments, **named):
        return self.model.forward(*arguments, **named)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class Renaming(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, real=None):
        return self.model(input_ids=ids, attention_mask=real)


def outputs(layer, run) -> torch.Tensor:
    """What a layer gives the first time that it runs, after hooks that are there."""
    kept: list = []
    handle = layer.register_forward_hook(
        lambda module, inputs, output: kept.append(
            (output[0] if isinstance(output, tuple) else output).detach().clone()
        )
    )
    with torch.no_grad():
        run()
    handle.remove()
    return kept[0]


def changed_by_steering(model, layer, pca, run, skip_first=2) -> torch.Tensor:
    module = model.get_submodule(layer)
    before = outputs(module, run)
    with steer(model, layer, pca, 0, 7.0, skip_first=skip_first):
        after = outputs(module, run)
    return (after != before).any(-1)


GENERATION = {"max_new_tokens": 2, "do_sample": False}
NAMED = {"input_ids": IDS, "attention_mask": MASK}


@pytest.mark.parametrize(
    ("wrapper", "prefix", "run"),
    [
        (Tuned, "model.", lambda wrapped: wrapped.generate(**NAMED, **GENERATION)),
        (Tuned, "model.", lambda wrapped: wrapped(**NAMED)),
        (Tuned, "model.", lambda wrapped: wrapped(IDS, MASK)),
        (Renaming, "model.", lambda wrapped: wrapped(IDS, MASK)),
        (Renaming, "model.", lambda wrapped: wrapped.model.generate(**NAMED)),
        (nn.DataParallel, "module.", lambda wrapped: wrapped(IDS, MASK)),
        (lambda model: model, "", lambda model: model.model(**NAMED)),
        (lambda model: model, "", lambda model: model.forward(**NAMED)),
    ],
)
def test_padding_is_told_by_the_model_that_runs(llama, pca, wrapper, prefix, run):
    wrapped = wrapper(llama)
    changed = changed_by_steering(wrapped, prefix + LAYER, pca, lambda: run(wrapped))
    assert torch.equal(changed, CHANGED)
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in wrapped.modules()]
    assert not any(hooks)


def test_masks_that_only_the_outer_model_knows_count(llama, pca):
    """The inner model may receive one that tells which tokens see which."""
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    seen = (causal & MASK.bool()[:, None])[:, None]
    seen[:, :, :3, :3] = True  # as of an image, whose tokens see each other

    def to_inner(module, arguments, named):
        return arguments, named | {"attention_mask": seen}

    llama.model.register_forward_pre_hook(to_inner, with_kwargs=True, prepend=True)
    changed = changed_by_steering(llama, LAYER, pca, lambda: llama(**NAMED))
    assert torch.equal(changed, CHANGED)


def test_a_layer_outside_every_pass_warns(pca):
    model = nn.Sequential(nn.Embedding(20, WIDTH), nn.Identity())
    with (
        steer(model, "1", pca, 0, 7.0, skip_first=2),
        pytest.warns(UserWarning, match="outside a forward pass of Sequential"),
    ):
        model[1](model[0](IDS))


def wait(barrier) -> None:
    barrier.wait()


def test_threads_in_one_context_have_their_own_masks(llama, pca):
    texts = [torch.tensor([[0, 0, 3, 4, 5, 6]]), IDS[1:]]
    masks = [(text != 0).long() for text in texts]
    steered = {"layer": LAYER, "sae": pca, "atoms": 0, "value": 7.0, "skip_first": 2}
    with steer(llama, **steered), torch.no_grad():
        alone = [llama(*each).logits for each in zip(texts, masks, strict=True)]
    # Each waits, inside its pass, until the other is in its own.
    barrier = threading.Barrier(2, timeout=60)
    llama.model.embed_tokens.register_forward_hook(lambda *_: wait(barrier))
    found: dict = {}

    def run(i):
        with torch.no_grad():
            found[i] = llama(texts[i], masks[i]).logits

    with steer(llama, **steered):
        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, expected in enumerate(alone):
        torch.testing.assert_close(found[i], expected)


class Seq2Seq(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
        )


@pytest.mark.parametrize(
    ("wrapper", "prefix"), [(Seq2Seq, "model."), (nn.DataParallel, "module.")]
)
def test_decoders_inside_wrappers_have_their_own_tokens(pca, wrapper, prefix):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=20, d_model=WIDTH, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    model, layer = T5ForConditionalGeneration(config).eval(), "decoder.block.0.layer.0"
    decoded = IDS.flip(0).clone()
    decoded[decoded == 0] = 1
    X = {"input_ids": IDS.flip(1), "decoder_input_ids": decoded}
    X["attention_mask"] = MASK.flip(1)  # as wide as what is decoded
    expected = ActivationExtractor(model, layer, positions="all").transform(X)
    wrapped = wrapper(model)
    extractor = ActivationExtractor(wrapped, prefix + layer, positions="all")
    rows = extractor.transform(X)
    assert len(rows) == decoded.numel()
    np.testing.assert_array_equal(rows, expected)
    of_wrapped, of_model = (
        loss_recovered(m, name, lambda x: 0.5 * x, X, return_losses=True)[1]
        for m, name in [(wrapped, prefix + layer), (model, layer)]
    )
    assert of_wrapped == of_model

    changed = changed_by_steering(
        wrapped, prefix + layer, pca, lambda: wrapped(**X), skip_first=2
    )
    assert torch.equal(changed, (torch.arange(6) >= 2).expand(2, -1))
