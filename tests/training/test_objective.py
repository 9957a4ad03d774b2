"""Gradients written by hand against torch autograd."""

from itertools import combinations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from skmfr._sae.encoder import encode
from skmfr._sae.ensemble import Ensemble
from skmfr._training.matches import Matches
from skmfr._training.objective import (
    Gradients,
    add_encoder_penalty_,
    add_mutual_penalty_,
    reconstruction_,
)

# Three SAEs of a group and a witness.
N_SAES, N_MEMBERS = 3, 4
N_SAMPLES, N_COMPONENTS, N_FEATURES, K = 40, 17, 7, 5
TOTAL_VARIANCE = 3.0
NAMES = ("encoder", "encoder_bias", "decoder", "decoder_bias")


def random_numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_ensemble(tied):
    shape = N_MEMBERS, N_COMPONENTS, N_FEATURES
    atoms = normalize(random_numbers(*shape, seed=1), dim=2)
    ensemble = Ensemble.starting_from(atoms, tied)
    if not tied:
        ensemble.encoder += 0.3 * random_numbers(*shape, seed=2)
    ensemble.encoder_bias += 0.2 * random_numbers(*shape[:2], seed=3) - 0.8
    ensemble.decoder_bias += 0.5 * random_numbers(N_MEMBERS, N_FEATURES, seed=4)
    return ensemble


def matches_of(dictionaries, matching):
    matches = Matches(matching, N_SAES, N_COMPONENTS, least_cosine=-2.0)
    for pair in matches.pairs:
        matches.renew(dictionaries[:N_SAES], pair)
    return matches


def gradients_by_hand(X, ensemble, fvu_weight, alpha, matching):
    """What a training step gives to the optimiser, for either term or both."""
    X_centred = ensemble.centred(X)
    codes = encode(X_centred, ensemble, K)
    gradients = Gradients.like(ensemble)
    reconstruction_(gradients, X_centred, codes, ensemble, TOTAL_VARIANCE)
    for gradient in gradients:
        gradient *= fvu_weight
    pull = matches_of(ensemble.decoder, matching).graph(like=ensemble.decoder)
    group = slice(N_SAES)
    add_mutual_penalty_(
        gradients.decoder[group], ensemble.decoder[group], pull, alpha, group
    )
    if ensemble.tied:
        gradients.decoder.add_(gradients.encoder)
    # The optimiser takes what is tangent.
    along = (gradients.decoder * ensemble.decoder).sum(-1, keepdim=True)
    gradients.decoder.sub_(along * ensemble.decoder)
    found = dict(zip(NAMES, gradients, strict=True))
    if ensemble.tied:
        del found["encoder"]
    return found


def fvu_by_definition(X, support, encoder, encoder_bias, atoms, decoder_bias):
    """FVU of each member, dense; the support of the codes is fixed."""
    X_centred = X - decoder_bias.unsqueeze(1)
    codes = X_centred @ encoder.transpose(1, 2) + encoder_bias.unsqueeze(1)
    X_hat = (codes * support) @ atoms + decoder_bias.unsqueeze(1)
    return (X - X_hat).square().sum((1, 2)) / (len(X) * TOTAL_VARIANCE)


def matched_cosine_by_definition(atoms, others, matching):
    """Mean cosine of matched atoms; the matches are fixed."""
    cosines = atoms @ others.T
    fixed = cosines.detach().numpy()
    if matching == "hungarian":
        return cosines[linear_sum_assignment(fixed, maximize=True)].mean()
    there = cosines[torch.arange(N_COMPONENTS), fixed.argmax(1)].mean()
    back = cosines[fixed.argmax(0), torch.arange(N_COMPONENTS)].mean()
    return (there + back) / 2


def mean_matched_cosine(dictionaries, matching):
    pairs = combinations(dictionaries[:N_SAES], 2)
    return torch.stack(
        [matched_cosine_by_definition(*pair, matching) for pair in pairs]
    ).mean()


def support_of(X, ensemble):
    """Mask of the active codes, (n_members, n_samples, n_components)."""
    scores = ensemble.centred(X) @ ensemble.encoder.transpose(1, 2)
    scores = (scores + ensemble.encoder_bias.unsqueeze(1)).relu()
    values, indices = scores.topk(K, dim=2)
    assert (values == 0).any()  # some entries are clipped by ReLU
    return torch.zeros_like(scores).scatter_(2, indices, values) > 0


def gradients_by_autograd(X, ensemble, fvu_weight, alpha, matching):
    """Of the loss as a function of parameters whose atoms it normalises itself."""
    support = support_of(X, ensemble)
    leaves = {name: getattr(ensemble, name).clone() for name in NAMES}
    if ensemble.tied:
        del leaves["encoder"]
    for leaf in leaves.values():
        leaf.requires_grad_()
    atoms = normalize(leaves["decoder"], dim=2)
    fvu = fvu_by_definition(
        X,
        support,
        leaves.get("encoder", atoms),
        leaves["encoder_bias"],
        atoms,
        leaves["decoder_bias"],
    )
    penalty = 1 - mean_matched_cosine(atoms, matching)
    (fvu_weight * fvu.sum() + alpha * penalty).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("matching", ["hungarian", "max"])
@pytest.mark.parametrize(("fvu_weight", "alpha"), [(1, 0), (0, 0.7), (1, 0.7)])
def test_gradients_equal_autograd(fvu_weight, alpha, matching, tied):
    X, ensemble = random_numbers(N_SAMPLES, N_FEATURES), random_ensemble(tied)
    case = X, ensemble, fvu_weight, alpha, matching
    expected = gradients_by_autograd(*case)
    found = gradients_by_hand(*case)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.any() or not fvu_weight
        # Gradients are of size 0.01; atol is for entries that cancel.
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("tied", [False, True])
def test_reconstruction_loss_equals_its_definition(tied):
    X, ensemble = random_numbers(N_SAMPLES, N_FEATURES), random_ensemble(tied)
    X_centred = ensemble.centred(X)
    codes = encode(X_centred, ensemble, K)
    fvu, _ = reconstruction_(
        Gradients.like(ensemble), X_centred, codes, ensemble, TOTAL_VARIANCE
    )
    expected = fvu_by_definition(
        X,
        support_of(X, ensemble),
        ensemble.encoder,
        ensemble.encoder_bias,
        ensemble.decoder,
        ensemble.decoder_bias,
    )
    torch.testing.assert_close(fvu, expected, rtol=1e-12, atol=0)


def test_float32_loss_of_a_large_batch_is_accurate():
    # A million squares in float32 are summed with an error far below their number
    # times its precision.
    ensemble = random_ensemble(tied=True)
    X = random_numbers(1 << 17, N_FEATURES)
    losses = []
    for dtype in (torch.float64, torch.float32):
        part = Ensemble.starting_from(ensemble.decoder.to(dtype), tied=True)
        X_centred = part.centred(X.to(dtype))
        codes = encode(X_centred, part, K)
        room = Gradients.like(part)
        fvu, _ = reconstruction_(room, X_centred, codes, part, TOTAL_VARIANCE)
        losses.append(fvu)
    torch.testing.assert_close(losses[1].double(), losses[0], rtol=1e-5, atol=0)


def test_witness_feels_no_penalty():
    X, ensemble = random_numbers(N_SAMPLES, N_FEATURES), random_ensemble(tied=False)
    without = gradients_by_hand(X, ensemble, 1, 0.0, "hungarian")
    with_penalty = gradients_by_hand(X, ensemble, 1, 0.7, "hungarian")
    for name in NAMES:
        assert torch.equal(without[name][N_SAES:], with_penalty[name][N_SAES:])
    moved = without["decoder"][:N_SAES] != with_penalty["decoder"][:N_SAES]
    assert moved.all()


def test_encoder_penalty_equals_autograd():
    encoder = random_ensemble(tied=False).encoder.clone().requires_grad_()
    fvu = torch.tensor([0.5, 0.1, 0.0, 2.0], dtype=torch.float64)
    active = random_numbers(N_MEMBERS, N_COMPONENTS, seed=6) > 0
    squares = encoder.square().sum(2) * active
    (0.3 / 2 * fvu * squares.sum(1)).sum().backward()
    before = random_numbers(*encoder.shape, seed=5)
    gradient = before.clone()
    add_encoder_penalty_(gradient, encoder.detach(), fvu, active, 0.3)
    torch.testing.assert_close(gradient, before + encoder.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("matching", ["hungarian", "max"])
def test_mean_matched_cosine_is_half_the_quadratic_form_of_the_pull(matching):
    dictionaries = random_ensemble(tied=True).decoder[:N_SAES]
    pull = matches_of(dictionaries, matching).graph(like=dictionaries)
    # sum_ab W_ab <D_a, D_b> = <D, W D>
    gradient = torch.zeros_like(dictionaries)
    add_mutual_penalty_(gradient, dictionaries, pull, 1)
    form = -(dictionaries * gradient).sum()
    expected = mean_matched_cosine(dictionaries, matching)
    torch.testing.assert_close(form / 2, expected, rtol=1e-12, atol=0)
