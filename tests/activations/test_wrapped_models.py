"""Models inside other modules, as from PEFT, and what their callers do not tell."""

import threading
from types import SimpleNamespace

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

from skmfr import MFRSparseAutoencoder
from skmfr.activations import (
    ActivationExtractor,
    logit_effects,
    loss_recovered,
    steer,
    top_contexts,
)

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
    # Steering adds 7; two runs of a model may round differently.
    return ((after - before).abs() > 1e-3).any(-1)


GENERATION = {"max_new_tokens": 2, "do_sample": False}
NAMED = {"input_ids": IDS, "attention_mask": MASK}


@pytest.mark.parametrize(
    ("wrapper", "prefix", "run"),
    [
        (Tuned, "model.", lambda wrapped: wrapped.generate(**NAMED, **GENERATION)),
        (Tuned, "model.", lambda wrapped: wrapped(**NAMED)),
        (Tuned, "model.", lambda wrapped: wrapped(IDS, MASK)),
        (Renaming, "model.", lambda wrapped: wrapped(IDS, MASK)),
        (
            Renaming,
            "model.",
            lambda wrapped: wrapped.model.generate(**NAMED, **GENERATION),
        ),
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
    # Products of another library, or at other addresses, round differently.
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5)
    of_wrapped, of_model = (
        loss_recovered(m, name, lambda x: 0.5 * x, X, return_losses=True)[1]
        for m, name in [(wrapped, prefix + layer), (model, layer)]
    )
    assert of_wrapped == pytest.approx(of_model, rel=1e-5)

    changed = changed_by_steering(
        wrapped, prefix + layer, pca, lambda: wrapped(**X), skip_first=2
    )
    assert torch.equal(changed, (torch.arange(6) >= 2).expand(2, -1))


class Saved(nn.Module):
    """An embedding inside one that tunes some of its rows."""

    def __init__(self, inner, name):
        super().__init__()
        self.add_module(name, inner)
        self.name = name

    def forward(self, ids):
        return self.get_submodule(self.name)(ids)


@pytest.mark.parametrize("name", ["base_layer", "original_module"])
def test_tuned_embeddings_take_token_ids(llama, name):
    given = [IDS.numpy(), [[5, 6, 7], [9, 8]], {"input_ids": IDS}]
    extractor = ActivationExtractor(llama, LAYER)
    expected = [extractor.transform(X) for X in given]
    llama.model.embed_tokens = Saved(llama.model.embed_tokens, name)
    for X, rows in zip(given, expected, strict=True):
        np.testing.assert_array_equal(extractor.transform(X), rows)
    assert loss_recovered(llama, LAYER, lambda x: x, IDS) == 1
    with pytest.raises(ValueError, match="vocabulary goes from 0 to 19"):
        extractor.transform([[20, 1]])


class Hooked(nn.Module):
    """Looks its tokens up by itself, as models of TransformerLens do."""

    def __init__(self):
        super().__init__()
        self.cfg = SimpleNamespace(d_vocab=20)
        self.W_E = nn.Parameter(torch.arange(60.0).reshape(20, 3))
        self.hook = nn.Identity()

    def forward(self, input):
        return self.hook(self.W_E[input])


def test_a_vocabulary_in_a_configuration_is_known():
    model = Hooked()
    rows = ActivationExtractor(model, "hook", positions="all").transform(IDS)
    assert np.array_equal(rows, model.W_E.detach()[IDS].flatten(0, 1))
    rows = ActivationExtractor(model, "hook").transform([[1, 2, 3], [4]])
    assert np.array_equal(rows, model.W_E.detach()[[3, 4]])
    with pytest.raises(ValueError, match="vocabulary goes from 0 to 19"):
        ActivationExtractor(model, "hook").transform([[20, 1]])


def offload(module: nn.Module) -> None:
    """Keep weights on the device "meta", except while a module runs."""
    weights = {n: p.detach() for n, p in module.named_parameters(recurse=False)}
    if not weights:
        return

    def put(device):
        for name, weight in weights.items():
            there = weight.to(device) if device == "meta" else weight
            setattr(module, name, nn.Parameter(there))

    module._hf_hook = SimpleNamespace(execution_device="cpu")
    put("meta")
    module.register_forward_pre_hook(lambda *_: put("cpu"))
    module.register_forward_hook(lambda *_: put("meta"))


def test_weights_that_are_loaded_for_each_pass(llama, pca):
    sae = MFRSparseAutoencoder(8, k=2, n_saes=1, n_witnesses=0, max_steps=5)
    sae.fit(np.random.default_rng(0).normal(size=(30, WIDTH)))

    def found():
        return [
            ActivationExtractor(llama, LAYER).transform(IDS),
            loss_recovered(llama, LAYER, pca, IDS),
            logit_effects(sae, llama).promoted_logits,
        ]

    expected = found()
    for module in llama.modules():
        offload(module)
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer)
    for one, other in zip(found(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


class Merging(nn.Linear):
    """Adds to its weight in evaluation mode, as layers of loralib do."""

    merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -1 if mode else 1
            self.merged = not mode
        return self


class Frozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


def test_modules_that_change_with_their_mode_change_back():
    model = nn.Sequential(Merging(4, 4), Frozen(4), nn.Sequential(Merging(4, 4)))
    model.train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    ActivationExtractor(model, "1").transform(np.ones((3, 4)))
    assert [module.training for module in model.modules()] == modes
    for parameter, expected in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["trace", "script"])
def test_torchscript_is_refused(pca, kind):
    model = nn.Sequential(nn.Embedding(20, WIDTH), nn.Identity())
    compiled = (
        torch.jit.trace(model, IDS) if kind == "trace" else torch.jit.script(model)
    )
    for use in [
        lambda: ActivationExtractor(compiled, "1").transform(IDS),
        lambda: steer(compiled, "1", pca, 0, 1.0),
        lambda: steer(nn.Sequential(compiled), "0.1", pca, 0, 1.0),
    ]:
        with pytest.raises(TypeError, match="of TorchScript"):
            use()


class Prompted(nn.Module):
    """Puts learned tokens before each input, as prompt tuning does."""

    def __init__(self, model, n_virtual=3):
        super().__init__()
        self.active_peft_config = SimpleNamespace(num_virtual_tokens=n_virtual)
        self.model = model
        self.prompt = nn.Parameter(torch.randn(n_virtual, WIDTH))

    def forward(self, input_ids, attention_mask=None):
        n = len(input_ids)
        embedded = self.model.get_input_embeddings()(input_ids)
        prompt = self.prompt.expand(n, -1, -1)
        if attention_mask is not None:
            ones = attention_mask.new_ones(n, len(self.prompt))
            attention_mask = torch.cat([ones, attention_mask], 1)
        return self.model(
            inputs_embeds=torch.cat([prompt, embedded], 1),
            attention_mask=attention_mask,
        )


@pytest.mark.parametrize("skip_first", [0, 2])
def test_learned_tokens_are_none_of_the_text(llama, pca, skip_first):
    torch.manual_seed(0)
    model, layer = Prompted(llama), "model." + LAYER
    module = model.get_submodule(layer)
    extractor = ActivationExtractor(
        model, layer, positions="all", skip_first=skip_first
    )
    texts = [[5, 6, 7], [9, 8, 7, 6, 5, 4]]
    expected = [
        outputs(module, lambda t=t: model(torch.tensor([t])))[0, 3 + skip_first :]
        for t in texts
    ]
    rows = extractor.transform(texts)
    np.testing.assert_allclose(rows, np.concatenate(expected), atol=1e-5)
    contexts = top_contexts(pca, extractor, texts, n_contexts=1)
    assert contexts.tokens is not None
    if skip_first:
        changed = changed_by_steering(model, layer, pca, lambda: model(IDS, MASK))
        virtual = torch.zeros(2, 3, dtype=torch.bool)
        assert torch.equal(changed, torch.cat([virtual, CHANGED], 1))
