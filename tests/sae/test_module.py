"""SAEs as PyTorch modules, against the estimators they are made of."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from skmfr import MFRSparseAutoencoder
from skmfr.io._weights import Weights, estimator_of

D, M = 6, 20


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(1).standard_normal((64, D)).astype(np.float32)


def with_thresholds(k=None):
    draw = np.random.default_rng(0)
    shapes = (M, D), (M,), (M, D), (D,), (M,)
    arrays = [draw.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[-1] = np.abs(arrays[-1])
    return estimator_of(Weights(*arrays)).set_params(k=k)


@pytest.fixture(scope="module")
def ours(X):
    return MFRSparseAutoencoder(
        M, k=3, n_witnesses=0, max_steps=20, random_state=0
    ).fit(X)


@pytest.fixture(scope="module", params=["TopK", "thresholds", "both"])
def sae(request, ours):
    if request.param == "TopK":
        return ours
    return with_thresholds(k=2 if request.param == "both" else None)


def test_it_computes_what_the_estimator_does(sae, X):
    module, x = sae.to_torch(), torch.tensor(X)
    codes, expected = module.encode(x).detach().numpy(), sae.transform(X)
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-6)
    # In any shape.
    shaped = module(x.view(4, 16, D)).detach().numpy().reshape(X.shape)
    np.testing.assert_allclose(shaped, sae.reconstruct(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        module.decode(module.encode(x)).detach(), sae.reconstruct(X), 1e-5, 1e-6
    )


def test_gradients_are_those_of_the_active_atoms(sae, X):
    module, x = sae.to_torch(), torch.tensor(X[:1], requires_grad=True)
    active = sae.transform(X[:1])[0] > 0
    assert active.any()
    E, D_ = sae.encoder_weights_[active], sae.components_[active]
    direction = np.random.default_rng(2).standard_normal(D).astype(np.float32)
    (module(x) @ torch.tensor(direction)).sum().backward()
    # x_hat = (E x + ...) D + b on this side of all edges.
    np.testing.assert_allclose(x.grad[0], E.T @ (D_ @ direction), rtol=1e-4, atol=1e-5)
    grad = module.decoder.grad.numpy()
    codes = sae.transform(X[:1])[0]
    np.testing.assert_allclose(grad, np.outer(codes, direction), rtol=1e-4, atol=1e-5)


def test_error_term_gives_the_input_back_unless_codes_are_changed(sae, X):
    module, x = sae.to_torch(error_term=True), torch.tensor(X)
    np.testing.assert_allclose(module(x).detach(), X, atol=1e-5)
    codes = sae.transform(X)

    def without_first(_, inputs, output):
        return output * (torch.arange(M) != 0)

    with_hook = module.codes.register_forward_hook(without_first)
    expected = X - np.outer(codes[:, 0], sae.components_[0])
    np.testing.assert_allclose(module(x).detach(), expected, atol=1e-5)
    with_hook.remove()
    errors = []
    module.error.register_forward_hook(lambda _, inputs, output: errors.append(output))
    module(x)
    np.testing.assert_allclose(errors[0], X - sae.reconstruct(X), atol=1e-5)


def test_error_term_is_that_of_codes_before_they_are_edited_in_place(sae, X):
    module = sae.to_torch(error_term=True)

    def without_first(_, inputs, output):
        output[..., 0] = 0

    module.codes.register_forward_hook(without_first)
    with torch.no_grad():
        edited = module(torch.tensor(X))
    expected = X - np.outer(sae.transform(X)[:, 0], sae.components_[0])
    assert np.abs(expected - X).max() > 0.01
    np.testing.assert_allclose(edited, expected, atol=1e-5)


# Inside the tools of others.


@pytest.fixture
def model(ours):
    """Tokens, a model of them, and a module that has learned its first layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, D), nn.Linear(D, D), nn.Linear(D, 30))
    tokens = torch.arange(30).view(3, 10)
    with torch.no_grad():
        inside = model[1](model[0](tokens)) + 0
    atom = int(ours.transform(inside.flatten(0, 1).numpy()).sum(0).argmax())
    return model, tokens, inside, atom


def without(ours, inside, atom):
    """Activations less what one atom writes."""
    codes = ours.transform(inside.flatten(0, 1).numpy())[:, atom]
    assert codes.max() > 0.1
    written = np.outer(codes, ours.components_[atom]).reshape(inside.shape)
    return inside - torch.tensor(written)


def test_nnsight_reads_and_changes_codes(ours, model):
    nnsight = pytest.importorskip("nnsight", minversion="0.5")
    model, tokens, inside, atom = model
    expected = model[2](without(ours, inside, atom))
    module = ours.to_torch(error_term=True)
    spliced = nnsight.NNsight(nn.Sequential(model[0], model[1], module, model[2]))
    with torch.no_grad(), spliced.trace(tokens):
        codes = spliced[2].codes.output.clone().save()
        spliced[2].codes.output[..., atom] = 0
        logits = spliced[3].output.save()
    np.testing.assert_allclose(
        codes.flatten(0, 1), ours.transform(inside.flatten(0, 1).numpy()), atol=1e-5
    )
    torch.testing.assert_close(logits, expected.detach(), atol=1e-4, rtol=1e-4)


def test_transformer_lens_takes_the_module_in_a_hook(ours):
    lens = pytest.importorskip("transformer_lens")
    config = lens.HookedTransformerConfig(
        n_layers=1, d_model=D, n_ctx=10, d_head=3, d_vocab=30, act_fn="gelu", seed=0
    )
    model, tokens = lens.HookedTransformer(config), torch.arange(30).view(3, 10)
    site = "blocks.0.hook_mlp_out"
    inside = model.run_with_cache(tokens)[1][site].detach()
    module = ours.to_torch(error_term=True)

    def through(x, hook):
        return module(x)

    with torch.no_grad():
        spliced = model.run_with_hooks(tokens, fwd_hooks=[(site, through)])
        torch.testing.assert_close(spliced, model(tokens), atol=1e-4, rtol=1e-4)
        atom = int(ours.transform(inside.flatten(0, 1).numpy()).sum(0).argmax())
        changed = without(ours, inside, atom)
        expected = model.run_with_hooks(
            tokens, fwd_hooks=[(site, lambda x, hook: changed)]
        )
        module.codes.register_forward_hook(
            lambda _, inputs, codes: codes * (torch.arange(M) != atom)
        )
        ablated = model.run_with_hooks(tokens, fwd_hooks=[(site, through)])
    assert (ablated - spliced).abs().max() > 1e-3
    torch.testing.assert_close(ablated, expected, atol=1e-4, rtol=1e-4)


def test_gradient_times_code_tells_what_an_atom_does_to_a_linear_model(ours, X):
    # Exactly, as nothing after the SAE bends.
    module = ours.to_torch(error_term=True)
    head = nn.Linear(D, 5)
    kept = []

    def keep(_, inputs, output):
        output.retain_grad()
        kept.append(output)

    module.codes.register_forward_hook(keep)
    head(module(torch.tensor(X)))[:, 2].sum().backward()
    attribution = (kept[0].grad * kept[0]).detach().numpy()
    weight = head.weight.detach().numpy()[2]
    expected = ours.transform(X) * (ours.components_ @ weight)
    np.testing.assert_allclose(attribution, expected, rtol=1e-4, atol=1e-5)


def test_it_can_be_exported(sae, X):
    module, x = sae.to_torch(), torch.tensor(X)
    batch = torch.export.Dim("batch", min=2, max=1024)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x[:7]), module(x[:7]))


def test_dtypes_are_the_modules_inside_and_the_inputs_outside(ours, X):
    module = ours.to_torch()
    assert module(torch.tensor(X).bfloat16()).dtype == torch.bfloat16
    assert module.encode(torch.tensor(X).bfloat16()).dtype == torch.float32
    double = ours.to_torch().double()(torch.tensor(X).double()).detach()
    np.testing.assert_allclose(double, ours.reconstruct(X), rtol=1e-4, atol=1e-5)


def test_weights_are_copies(ours, X):
    before = ours.components_.copy()
    module = ours.to_torch()
    with torch.no_grad():
        module.decoder.zero_()
    np.testing.assert_array_equal(ours.components_, before)


def test_what_is_not_fitted_has_no_module():
    with pytest.raises(NotFittedError):
        MFRSparseAutoencoder().to_torch()
    with pytest.raises(ValueError, match="'error_term' parameter of to_torch"):
        with_thresholds().to_torch(error_term="yes")
