import sys
import warnings
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from copy import deepcopy
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import bootstrap, entropy
from sklearn.decomposition import PCA
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from skmfr import MFRSparseAutoencoder
from skmfr.activations import (
    ActivationExtractor,
    _loss,
    ablate,
    loss_recovered,
    steer,
)

LAYER = "transformer.h.0.mlp"
WIDTH = 16


@pytest.fixture(scope="module")
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_positions=24, n_embd=WIDTH, n_layer=2, n_head=2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(50, size=(12, 8))


@pytest.fixture(scope="module")
def sae(gpt2, tokens) -> MFRSparseAutoencoder:
    X = ActivationExtractor(gpt2, LAYER, positions="all").transform(tokens)
    return MFRSparseAutoencoder(
        32, k=4, n_saes=1, n_witnesses=0, max_steps=100, random_state=0
    ).fit(X)


def loss_with(model, tokens, change) -> float:
    """Loss by transformers, with a hook of the test's own."""
    handle = model.transformer.h[0].mlp.register_forward_hook(
        lambda module, inputs, output: change(output)
    )
    ids = torch.tensor(tokens)
    with torch.no_grad():
        loss = model(ids, labels=ids).loss
    handle.remove()
    return float(loss)


def test_losses_are_those_of_the_spliced_model(gpt2, tokens, sae):
    def reconstructed(output):
        X_hat = sae.reconstruct(output.flatten(0, 1).numpy())
        return torch.tensor(X_hat).view_as(output)

    recovered, losses = loss_recovered(
        gpt2, LAYER, sae, tokens, batch_size=5, return_losses=True
    )
    ablations = {
        "clean": lambda x: x,
        "spliced": reconstructed,
        "zero": torch.zeros_like,
        "mean": lambda x: x.mean((0, 1)).expand_as(x),
    }
    for name, change in ablations.items():
        assert losses[name] == pytest.approx(loss_with(gpt2, tokens, change), abs=1e-5)
    expected = (losses.zero - losses.spliced) / (losses.zero - losses.clean)
    assert recovered == pytest.approx(expected, rel=1e-9)
    of_mean = loss_recovered(gpt2, LAYER, sae, tokens, ablation="mean")
    expected = (losses.mean - losses.spliced) / (losses.mean - losses.clean)
    assert of_mean == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_divergence_is_that_of_scipy(gpt2, tokens, sae, ablation):
    def prediction(change) -> np.ndarray:
        handle = gpt2.transformer.h[0].mlp.register_forward_hook(
            lambda module, inputs, output: change(output)
        )
        with torch.no_grad():
            logits = gpt2(torch.tensor(tokens)).logits
        handle.remove()
        return logits[:, :-1].double().softmax(-1).numpy()

    def reconstructed(output):
        X_hat = sae.reconstruct(output.flatten(0, 1).numpy())
        return torch.tensor(X_hat).view_as(output)

    recovered, losses = loss_recovered(
        gpt2,
        LAYER,
        sae,
        tokens,
        loss="kl_divergence",
        ablation=ablation,
        batch_size=5,
        return_losses=True,
    )
    own = prediction(lambda x: x)
    changes = {
        "spliced": reconstructed,
        "zero": torch.zeros_like,
        "mean": lambda x: x.mean((0, 1)).expand_as(x),
    }
    for name, change in changes.items():
        expected = entropy(own, prediction(change), axis=-1).mean()
        # Float32 logits, whose differences are about 1e-2.
        assert losses[name] == pytest.approx(expected, rel=1e-2, abs=1e-7)
    assert losses.clean == 0
    assert recovered == pytest.approx(1 - losses.spliced / losses[ablation], rel=1e-9)


def test_divergence_of_identity_and_zero(gpt2, tokens):
    of = {"loss": "kl_divergence"}
    assert loss_recovered(gpt2, LAYER, lambda X: X, tokens, **of) == 1
    assert loss_recovered(gpt2, LAYER, np.zeros_like, tokens, **of) == 0
    with pytest.raises(ValueError, match="'loss' parameter of loss_recovered"):
        loss_recovered(gpt2, LAYER, np.zeros_like, tokens, loss="mse")


def test_standard_error_is_that_of_inputs_drawn_again():
    """A model that predicts the next number, of counts with errors."""
    rng = np.random.default_rng(0)
    counts = (rng.integers(20, size=(60, 1)) + np.arange(8)) % 20
    errors = rng.random(counts.shape) < rng.random((60, 1))
    tokens = np.where(errors, rng.integers(20, size=counts.shape), counts)
    model = nn.Sequential(
        nn.Embedding.from_pretrained(torch.eye(20)), nn.Identity(), nn.Linear(20, 20)
    )
    with torch.no_grad():
        model[2].weight.copy_(2 * torch.eye(20).roll(1, 0))
        model[2].bias.zero_()
    _, losses = loss_recovered(model, "1", lambda X: X / 3, tokens, return_losses=True)

    def of_inputs(factor: float) -> np.ndarray:
        logits = factor * 2 * np.eye(20)[(tokens[:, :-1] + 1) % 20]
        told = np.take_along_axis(logits, tokens[:, 1:, None], 2)[..., 0]
        return (logsumexp(logits, axis=2) - told).mean(1)

    drawn = bootstrap(
        (of_inputs(0) - of_inputs(1 / 3), of_inputs(0) - of_inputs(1)),
        lambda gained, worth, axis: gained.mean(axis) / worth.mean(axis),
        paired=True,
        n_resamples=5_000,
        method="percentile",
        rng=0,
    )
    # 5,000 draws are within 3 %, and the first-order formula within a few per cent.
    assert losses.standard_error == pytest.approx(drawn.standard_error, rel=0.1)


def test_one_input_has_no_standard_error(gpt2, tokens, sae):
    _, losses = loss_recovered(gpt2, LAYER, sae, tokens[:1], return_losses=True)
    assert np.isnan(losses.standard_error)


def test_the_identity_recovers_all_and_zero_nothing(gpt2, tokens):
    assert loss_recovered(gpt2, LAYER, lambda X: X, tokens) == 1
    assert loss_recovered(gpt2, LAYER, np.zeros_like, tokens) == 0
    full = PCA().fit(np.random.default_rng(0).normal(size=(50, WIDTH)))
    assert loss_recovered(gpt2, LAYER, full, tokens) == pytest.approx(1, abs=1e-3)


def test_padding_does_not_count(gpt2, sae):
    rng = np.random.default_rng(2)
    sequences = [rng.integers(1, 50, size=n) for n in (8, 5, 7)]
    _, losses = loss_recovered(gpt2, LAYER, sae, sequences, return_losses=True)
    total = sum(loss_with(gpt2, s[None], lambda x: x) * (len(s) - 1) for s in sequences)
    assert losses.clean == pytest.approx(total / (7 + 4 + 6), abs=1e-5)
    padded = np.zeros((3, 8), dtype=int)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    _, same = loss_recovered(
        gpt2, LAYER, sae, padded, pad_token_id=0, return_losses=True
    )
    assert same.spliced == pytest.approx(losses.spliced, abs=1e-6)


@pytest.mark.parametrize("given", ["array", "mapping"])
def test_padding_at_the_left_changes_no_loss(gpt2, given):
    ids = torch.tensor([[0, 0, 0, 5, 6, 7], [1, 2, 3, 4, 5, 6]])
    alone = [ids[:1, 3:], ids[1:]]
    with torch.no_grad():
        losses = [float(gpt2(text, labels=text).loss) for text in alone]
    # The first token of a text is predicted by nothing.
    expected = np.average(losses, weights=[2, 5])
    mask = (ids != 0).long()
    tokens = {"input_ids": ids, "attention_mask": mask} if given == "mapping" else ids
    _, losses = loss_recovered(
        gpt2, LAYER, lambda X: X, tokens, pad_token_id=0, return_losses=True
    )
    assert losses.clean == pytest.approx(expected, abs=1e-6)


def test_any_module_with_logits_will_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 6), nn.Tanh(), nn.Linear(6, 20))
    tokens = torch.arange(40).remainder(20).view(4, 10)
    _, losses = loss_recovered(model, "1", lambda X: X, tokens, return_losses=True)
    logits = model(tokens)[:, :-1].flatten(0, 1)
    expected = cross_entropy(logits, tokens[:, 1:].flatten()).item()
    assert losses.clean == pytest.approx(expected, abs=1e-6)


def test_a_model_in_training_mode_is_not_dropped_out(gpt2, tokens, sae):
    model = deepcopy(gpt2).train()
    assert loss_recovered(model, LAYER, sae, tokens) == loss_recovered(
        gpt2, LAYER, sae, tokens
    )
    assert all(module.training for module in model.modules())


def outputs(model, tokens) -> np.ndarray:
    return outputs_of(model, tokens).numpy()


def outputs_of(model, tokens) -> torch.Tensor:
    """What the layer gives after hooks that are there."""
    kept: list = []
    handle = model.transformer.h[0].mlp.register_forward_hook(
        lambda *arguments: kept.append(arguments[2])
    )
    with torch.no_grad():
        model(torch.tensor(tokens))
    handle.remove()
    return kept[0].flatten(0, 1)


@pytest.mark.parametrize("algorithm", ["encoder", "omp"])
@pytest.mark.parametrize("sparse_output", [False, True])
@pytest.mark.parametrize(
    ("value", "how", "new"),
    [
        (3.0, "set", lambda z: np.full_like(z, 3.0)),
        ([1.0, -2.0], "set", lambda z: np.tile([1.0, -2.0], (len(z), 1))),
        (0.5, "scale", lambda z: 0.5 * z),
        ([0.0, 2.0], "scale", lambda z: z * [0.0, 2.0]),
    ],
)
def test_steering_changes_the_chosen_codes_alone(
    gpt2, tokens, sae, value, how, new, sparse_output, algorithm
):
    sae = deepcopy(sae).set_params(sparse_output=False, transform_algorithm=algorithm)
    before = outputs(gpt2, tokens)
    codes = sae.transform(before)
    atoms = np.argsort(-(codes != 0).sum(0))[:2]
    sae.set_params(sparse_output=sparse_output)
    with steer(gpt2, LAYER, sae, atoms, value, how=how) as model:
        after = outputs(model, tokens)
    change = (new(codes[:, atoms]) - codes[:, atoms]) @ sae.components_[atoms]
    np.testing.assert_allclose(after, before + change, atol=1e-5)
    assert np.array_equal(outputs(gpt2, tokens), before)


def test_ablated_atoms_are_gone(gpt2, tokens, sae):
    before = outputs(gpt2, tokens)
    atom = int(np.argmax((sae.transform(before) != 0).sum(0)))
    with ablate(gpt2, LAYER, sae, atom):
        after = outputs(gpt2, tokens)
    codes = sae.transform(before)[:, [atom]]
    np.testing.assert_allclose(after, before - codes * sae.components_[atom], atol=1e-5)


def test_a_mask_chooses_atoms(gpt2, tokens, sae):
    mask = np.arange(32) % 3 == 0
    with ablate(gpt2, LAYER, sae, np.flatnonzero(mask)):
        expected = outputs(gpt2, tokens)
    with ablate(gpt2, LAYER, sae, mask):
        np.testing.assert_array_equal(outputs(gpt2, tokens), expected)


def test_generation_is_steered(gpt2, tokens, sae):
    prompt = torch.tensor(tokens[:2])

    def generated():
        return gpt2.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
        )

    plain = generated()
    with steer(gpt2, LAYER, sae, [0, 1], 30.0):
        steered = generated()
    assert not torch.equal(plain, steered)
    assert torch.equal(plain, generated())
    # Scaling by one is the identity.
    with steer(gpt2, LAYER, sae, [0, 1], 1.0, how="scale"):
        assert torch.equal(plain, generated())


def test_contexts_nest_and_end_with_errors(gpt2, tokens, sae):
    before = outputs(gpt2, tokens)
    with steer(gpt2, LAYER, sae, 0, 1.0), steer(gpt2, LAYER, sae, 0, 0.0):
        # The second sees what the first gives; a code that is set is not read.
        assert not np.array_equal(outputs(gpt2, tokens), before)
    with pytest.raises(RuntimeError, match="stop"), steer(gpt2, LAYER, sae, 0, 1.0):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in gpt2.transformer.h[0].modules())


@contextmanager
def without_arrays():
    """Context in which a tensor that becomes an array, or the other way, is an error.

    Kernels for the CPU, which look at tensors as arrays, are let through.
    """
    kernels = "skmfr._kernels", "skmfr._sae.codes"

    def refusing(convert):
        def refused(*arguments, **options):
            caller = sys._getframe(1).f_globals["__name__"]
            assert caller.startswith(kernels), f"{caller} converts to or from NumPy"
            return convert(*arguments, **options)

        return refused

    conversions = [(torch, "from_numpy"), (torch.Tensor, "numpy")]
    conversions += [(torch.Tensor, "__array__"), (torch.Tensor, "tolist")]
    with ExitStack() as stack:
        for owner, name in conversions:
            convert = refusing(getattr(owner, name))
            stack.enter_context(patch.object(owner, name, convert))
        yield


@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
def test_activations_of_a_forward_pass_never_become_arrays(
    gpt2, tokens, sae, algorithm, monkeypatch
):
    sae = deepcopy(sae).set_params(transform_algorithm=algorithm)
    ids = torch.tensor(tokens)
    call, n_calls = _loss.call, []

    def guarded(*arguments):
        n_calls.append(1)
        with without_arrays():
            return call(*arguments)

    # Those that a function of arrays needs are found.
    with (
        pytest.raises(AssertionError, match="converts to or from NumPy"),
        steer(gpt2, LAYER, PCA(4).fit(np.eye(WIDTH)), 0, 1.0),
        without_arrays(),
    ):
        gpt2(ids)
    for how in ("set", "scale"):
        with steer(gpt2, LAYER, sae, [1, 2], 3.0, how=how), without_arrays():
            gpt2(ids)
    monkeypatch.setattr(_loss, "call", guarded)
    loss_recovered(gpt2, LAYER, sae, tokens)
    assert n_calls


def test_models_in_bfloat16_are_changed_by_codes_in_float32(gpt2, tokens, sae):
    model = deepcopy(gpt2).bfloat16()
    before = outputs_of(model, tokens)
    assert before.dtype == torch.bfloat16
    with steer(model, LAYER, sae, [0, 3], 0.5, how="scale"):
        after = outputs_of(model, tokens)
    codes = sae.transform(before.float().numpy())[:, [0, 3]]
    change = torch.from_numpy(-0.5 * codes @ sae.components_[[0, 3]])
    torch.testing.assert_close(after, before + change.bfloat16(), rtol=0.01, atol=1e-4)
    _, losses = loss_recovered(model, LAYER, sae, tokens, return_losses=True)

    def reconstructed(output):
        X_hat = sae.reconstruct(output.flatten(0, 1).float().numpy())
        return torch.tensor(X_hat).view_as(output).bfloat16()

    assert losses.spliced == pytest.approx(
        loss_with(model, tokens, reconstructed), abs=0.01
    )


def test_gradients_pass(gpt2, tokens, sae):
    model = deepcopy(gpt2)
    with ablate(model, LAYER, sae, [1, 2]):
        model(torch.tensor(tokens)).logits.sum().backward()
    assert model.transformer.wte.weight.grad.abs().sum() > 0


def test_tuples_keep_what_else_they_hold():
    class Two(nn.Module):
        def forward(self, X):
            return X, "kept"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, X):
            return self.two(X)

    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    sae = MFRSparseAutoencoder(8, k=2, n_saes=1, n_witnesses=0, max_steps=20).fit(X)
    with steer(Model(), "two", sae, 0, 0.0) as model:
        changed, other = model(torch.tensor(X))
    assert other == "kept"
    assert changed.shape == X.shape


def test_steering_what_does_not_run_warns(gpt2, sae):
    with (
        pytest.warns(UserWarning, match="did not run"),
        steer(gpt2, LAYER, sae, 0, 1.0),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": "transformer.h.9"}, ValueError, "layer='transformer.h.9' is no"),
        ({"atoms": 32}, ValueError, "atoms must be from 0 to 31"),
        ({"atoms": [-1]}, ValueError, "atoms must be from 0 to 31"),
        ({"atoms": []}, ValueError, "atoms must be one or more"),
        ({"atoms": [0.5]}, ValueError, "atoms must be one or more"),
        ({"atoms": [False] * 32}, ValueError, "atoms must be one or more"),
        ({"atoms": [True]}, ValueError, "atoms must be one or more"),
        ({"atoms": [1, 1]}, ValueError, "must not repeat"),
        ({"value": np.inf}, ValueError, "value must be"),
        ({"value": [1, 2, 3]}, ValueError, "value must be"),
        ({"how": "add"}, ValueError, "how must be"),
        ({"sae": None}, TypeError, "sae must be fitted"),
    ],
)
def test_bad_interventions_are_named(gpt2, sae, changes, error, message):
    good = {"layer": LAYER, "sae": sae, "atoms": 0, "value": 1.0}
    with pytest.raises(error, match=message):
        steer(gpt2, **(good | changes))


def test_a_wrong_width_is_named(gpt2, tokens):
    other = MFRSparseAutoencoder(8, k=2, n_saes=1, n_witnesses=0, max_steps=5)
    other.fit(np.random.default_rng(0).normal(size=(20, 7)))
    with pytest.raises(ValueError, match="gives 16 features, but sae was fitted to 7"):
        loss_recovered(gpt2, LAYER, other, tokens)
    with (
        pytest.raises(ValueError, match="gives 16 features, but sae was fitted to 7"),
        steer(gpt2, LAYER, other, 0, 1.0),
    ):
        gpt2(torch.tensor(tokens))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": "transformer.h"}, ValueError, "never runs"),
        ({"sae": 3}, TypeError, "sae must have reconstruct"),
        ({"tokens": []}, ValueError, "tokens is empty"),
        ({"tokens": [[1, 50]]}, ValueError, "tokens has the token id 50"),
        ({"tokens": [[1]]}, ValueError, "two tokens"),
        ({"ablation": "none"}, ValueError, "ablation"),
    ],
)
def test_bad_splices_are_named(gpt2, tokens, changes, error, message):
    good = {"layer": LAYER, "sae": lambda X: X, "tokens": tokens}
    with pytest.raises(error, match=message):
        loss_recovered(gpt2, **(good | changes))


def test_a_model_without_logits_is_refused(tokens):
    model = nn.Sequential(nn.Embedding(50, 4), nn.Flatten())
    with pytest.raises(ValueError, match="gives logits for each token"):
        loss_recovered(model, "0", lambda X: X, tokens)


def test_a_context_can_be_entered_again(gpt2, tokens, sae):
    context = steer(gpt2, LAYER, sae, 0, 7.0)
    with context:
        first = outputs(gpt2, tokens)
    with context:
        assert np.array_equal(outputs(gpt2, tokens), first)
        with context:
            assert not np.array_equal(outputs(gpt2, tokens), first)
        assert np.array_equal(outputs(gpt2, tokens), first)
    assert not gpt2.transformer.h[0].mlp._forward_hooks
    with pytest.warns(UserWarning, match="did not run") as caught, context:
        pass
    assert caught[0].filename == __file__


def test_hidden_states_are_steered_whenever_they_were_first_asked_for(
    gpt2, tokens, sae
):
    block, ids = "transformer.h.0", torch.tensor(tokens)
    found = []
    for before in (False, True):
        model = deepcopy(gpt2)
        if before:
            model(ids, output_hidden_states=True)
        # The order of nested contexts remains.
        with steer(model, block, sae, 0, 3.0), steer(model, block, sae, 0, 7.0):
            states = model(ids, output_hidden_states=True).hidden_states[1]
            extractor = ActivationExtractor(model, block, positions="all")
            steered = extractor.transform(tokens)
        found.append(states.detach().flatten(0, 1).numpy())
        np.testing.assert_allclose(found[-1], steered, atol=1e-6)
    assert np.array_equal(*found)


def gradients(model, ids, checkpointing, inside, layer, sae, skip_first):
    model = deepcopy(model).train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    labels = ids.masked_fill(ids == 0, -100)
    given = {"attention_mask": ids != 0, "labels": labels, "use_cache": False}
    with steer(model, layer, sae, 0, 9.0, skip_first=skip_first):
        loss = model(ids, **given).loss
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("skip_first", [0, 2])
@pytest.mark.parametrize("layer", ["transformer.h.1.attn", "transformer.h.1.ln_1"])
def test_gradients_with_checkpoints_are_those_without(
    gpt2, sae, reentrant, skip_first, layer
):
    model = deepcopy(gpt2)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ids = torch.tensor([[0, 0, 0, 5, 6, 7], [9, 8, 7, 6, 5, 4]])
    given = layer, sae, skip_first
    expected = gradients(model, ids, None, True, *given)
    found = gradients(model, ids, reentrant, True, *given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    # After the context, what runs again is not steered; torch may notice.
    noticed = nullcontext() if reentrant else suppress(RuntimeError)
    with pytest.warns(UserWarning, match=f"{layer}.*backward"), noticed:
        gradients(model, ids, reentrant, False, *given)
    # The output of a whole block is not needed again.
    block = "transformer.h.1", *given[1:]
    expected = gradients(model, ids, None, True, *block)
    found = gradients(model, ids, reentrant, False, *block)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_run_nothing_again_without_gradients(gpt2, sae, reentrant):
    model, ids = deepcopy(gpt2).train(), torch.tensor([[5, 6, 7]])
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    given = model, "transformer.h.1.mlp", sae, 0, 5.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with steer(*given), torch.no_grad():
            model(ids, use_cache=False)
    with pytest.warns(UserWarning, match="backward"), steer(*given):
        model(ids, use_cache=False)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (BertForMaskedLM, {}, "depend on the tokens after it"),
        (BertForTokenClassification, {"num_labels": 50}, "depend on the tokens after"),
        (BertForTokenClassification, {"num_labels": 2}, "gives logits for each token"),
        # as many classes as tokens
        (BertForSequenceClassification, {"num_labels": 8}, "gives logits for each"),
    ],
)
def test_models_that_predict_no_next_token_are_refused(tokens, kind, options, message):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, **options,
    )  # fmt: skip
    model = kind(config).eval()
    with pytest.raises(ValueError, match=message):
        loss_recovered(model, "bert.encoder.layer.0", lambda X: 0 * X, tokens)


def test_a_causal_bert_is_none_of_them(tokens):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, is_decoder=True,
    )  # fmt: skip
    model = BertLMHeadModel(config).eval()
    assert loss_recovered(model, "bert.encoder.layer.0", lambda X: X, tokens) == 1


def test_a_model_whose_first_pass_differs_is_causal(gpt2, sae, tokens):
    """As one was seen to, by more than rounding; later passes agreed to the bit."""
    model = deepcopy(gpt2)
    n_passes = 0

    def differ(module, inputs, output):
        nonlocal n_passes
        n_passes += 1
        return output * (1 + 1e-3 * (n_passes == 1))

    model.lm_head.register_forward_hook(differ)
    layer = "transformer.h.1.mlp"
    expected = loss_recovered(gpt2, layer, sae, tokens)
    assert loss_recovered(model, layer, sae, tokens) == pytest.approx(expected)


def test_only_tokens_tell_whether_a_model_is_causal():
    """Padding before the first token may attend to everything."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    ids = np.random.default_rng(0).integers(3, 50, (2, 8))
    mask = np.ones_like(ids)
    mask[0, :4] = 0
    given = {
        "input_ids": ids, "decoder_input_ids": ids, "decoder_attention_mask": mask,
    }  # fmt: skip
    assert loss_recovered(model, "decoder.block.0", lambda X: X, given) == 1


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_scales_of_all_tokens_are_no_knowledge_of_later_ones():
    ao = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    layers = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50)
    with torch.no_grad():
        layers[0].weight[7] *= 100
    model = ao.quantize_dynamic(nn.Sequential(*layers), {nn.Linear})
    assert loss_recovered(model, "1", lambda X: X, [[1, 2, 3, 4, 5, 7]]) == 1


def test_inputs_of_equal_tokens_are_enough(gpt2):
    assert loss_recovered(gpt2, LAYER, lambda X: X, [[0, 0, 0]]) == 1


def test_unlabelled_tokens_are_not_predicted(gpt2, tokens):
    labels = tokens.copy()
    labels[:, :3] = -100
    labels[::2, 5] = -100
    given = {"input_ids": tokens, "labels": labels}
    _, losses = loss_recovered(gpt2, LAYER, lambda X: X, given, return_losses=True)
    with torch.no_grad():
        own = gpt2(torch.tensor(tokens), labels=torch.tensor(labels)).loss
    assert losses.clean == pytest.approx(float(own), rel=1e-5)


def test_texts_in_one_row_do_not_predict_each_other(tokens):
    """The layers know no positions, so that the loss is that of the texts alone."""
    torch.manual_seed(0)
    model = WithPositions()
    lengths = [3, 1, 4]
    numbers = np.tile(np.concatenate([np.arange(n) for n in lengths]), (12, 1))
    given = {"input_ids": tokens, "position_ids": numbers}
    _, packed = loss_recovered(model, "0", lambda X: X, given, return_losses=True)
    alone = [list(text) for row in tokens for text in np.split(row, [3, 4])]
    _, losses = loss_recovered(model, "0", lambda X: X, alone, return_losses=True)
    assert packed.clean == pytest.approx(losses.clean, rel=1e-5)


class WithPositions(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(50, 4), nn.Linear(4, 50))

    def forward(self, input_ids, position_ids=None):
        return super().forward(input_ids)
