"""Encoding against its definition, written densely."""

import pytest
import torch
from torch.nn.functional import normalize

import skmfr._sae.encoder
from skmfr._sae.encoder import encode, encode_batch, rows_per_block
from skmfr._sae.ensemble import Ensemble

N_MEMBERS, N_SAMPLES, N_COMPONENTS, N_FEATURES, K = 3, 10, 29, 6, 4


def random_numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_ensemble(n_components=N_COMPONENTS, n_features=N_FEATURES):
    shape = N_MEMBERS, n_components, n_features
    return Ensemble(
        encoder=random_numbers(*shape, seed=1),
        encoder_bias=random_numbers(*shape[:2], seed=2) - 4.0,
        decoder=normalize(random_numbers(*shape, seed=3), dim=2),
        decoder_bias=random_numbers(N_MEMBERS, n_features, seed=4),
    )


def dense_codes(X, ensemble, k):
    """The definition, member by member, (n_members, n_samples, n_components)."""
    scores = torch.einsum("isf,iaf->isa", ensemble.centred(X), ensemble.encoder)
    scores = (scores + ensemble.encoder_bias.unsqueeze(1)).relu()
    values, indices = scores.topk(k, dim=2)
    return torch.zeros_like(scores).scatter_(2, indices, values)


def as_dense(codes, n_samples, n_components):
    """Codes of an ensemble; fails if a member uses another one's atom."""
    indices = codes.indices.view(N_MEMBERS, n_samples, -1)
    indices = indices - torch.arange(N_MEMBERS).view(-1, 1, 1) * n_components
    values = codes.values.view(indices.shape)
    dense = values.new_zeros(N_MEMBERS, n_samples, n_components)
    return dense.scatter_(2, indices, values)


def test_starting_from_has_the_atoms_as_encoder_and_no_biases():
    atoms = random_numbers(2, 5, 3)
    ensemble = Ensemble.starting_from(atoms, tied=False)
    assert torch.equal(ensemble.encoder, atoms)
    assert ensemble.decoder is atoms
    assert ensemble.encoder_bias.shape == (2, 5)
    assert ensemble.decoder_bias.shape == (2, 3)
    assert not ensemble.encoder_bias.any()
    assert not ensemble.decoder_bias.any()


def test_untied_encoder_does_not_share_memory_with_the_decoder():
    ensemble = Ensemble.starting_from(random_numbers(2, 5, 3), tied=False)
    before = ensemble.encoder.clone()
    ensemble.decoder.zero_()
    assert torch.equal(ensemble.encoder, before)


@pytest.mark.parametrize("tied", [False, True])
def test_slice_is_an_ensemble_of_views(tied):
    ensemble = Ensemble.starting_from(random_numbers(3, 5, 2), tied)
    part = ensemble[1:]
    assert len(part) == 2
    assert part.tied == tied
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
        getattr(part, name)[:] = 7.0
        assert (getattr(ensemble, name)[1:] == 7.0).all()
        assert not (getattr(ensemble, name)[0] == 7.0).any()


def test_encode_equals_dense_reference():
    X, ensemble = random_numbers(N_SAMPLES, N_FEATURES), random_ensemble()
    codes = encode(ensemble.centred(X), ensemble, K)
    assert codes.indices.shape == (N_MEMBERS * N_SAMPLES, K)
    expected = dense_codes(X, ensemble, K)
    assert (expected.count_nonzero(2) < K).any()  # ReLU clips some
    torch.testing.assert_close(as_dense(codes, N_SAMPLES, N_COMPONENTS), expected)


# Rows of a block: several blocks per member, cut inside members and at their ends,
# several members per block, all at once, room for more.
@pytest.mark.parametrize("n_rows", [1, 3, 7, 10, 13, 20, 25, 30, 64])
def test_encode_does_not_depend_on_the_blocks(monkeypatch, n_rows):
    monkeypatch.setattr(skmfr._sae.encoder, "rows_per_block", lambda *_: n_rows)
    X, ensemble = random_numbers(N_SAMPLES, N_FEATURES), random_ensemble()
    codes = encode(ensemble.centred(X), ensemble, K)
    torch.testing.assert_close(
        as_dense(codes, N_SAMPLES, N_COMPONENTS), dense_codes(X, ensemble, K)
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_blocks_have_fewer_rows_the_more_atoms_there_are_but_never_few(device):
    n_atoms = [1, 64, 1000, 4096, 65536, 10**7]
    n_rows = [rows_per_block(n, torch.device(device), torch.float32) for n in n_atoms]
    assert n_rows == sorted(n_rows, reverse=True)
    # A product of fewer rows is slow.
    assert n_rows[-2] == n_rows[-1] >= 256
    assert all(n * m <= 1 << 23 for n, m in zip(n_rows, n_atoms[:4], strict=False))


@pytest.mark.parametrize("n_rows", [17, 200, 1000])
def test_bfloat16_screening_gives_the_codes_of_float32(monkeypatch, n_rows):
    # bfloat16 errs by about 1 % of a score; among 512 normal scores the 8th is 15 %
    # above the 16th, the last candidate, so that no atom is lost.
    monkeypatch.setattr(skmfr._sae.encoder, "rows_per_block", lambda *_: n_rows)
    n_samples, n_components, n_features, k = 200, 512, 32, 8
    X = random_numbers(n_samples, n_features).float()
    ensemble = random_ensemble(n_components, n_features)
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
        setattr(ensemble, name, getattr(ensemble, name).float())
    codes = encode(ensemble.centred(X), ensemble, k, low_precision=True)
    assert codes.values.dtype == torch.float32
    expected = dense_codes(X, ensemble, k)
    torch.testing.assert_close(as_dense(codes, n_samples, n_components), expected)


def test_bfloat16_screening_where_all_atoms_are_candidates():
    X, ensemble = random_numbers(N_SAMPLES, N_FEATURES), random_ensemble()
    k = N_COMPONENTS - 1
    codes = encode(ensemble.centred(X), ensemble, k, low_precision=True)
    torch.testing.assert_close(
        as_dense(codes, N_SAMPLES, N_COMPONENTS), dense_codes(X, ensemble, k)
    )


@pytest.mark.parametrize("k", [1, 4, 10])
def test_a_batch_shares_its_active_atoms(k):
    ensemble = random_ensemble()
    X = random_numbers(N_SAMPLES, N_FEATURES, seed=5) * 3
    codes = encode_batch(ensemble.centred(X), ensemble, k)
    found = as_dense(codes, N_SAMPLES, N_COMPONENTS)
    each = dense_codes(X, ensemble, min(2 * k, N_COMPONENTS))
    n_active = []
    for dense, expected in zip(found, each, strict=True):
        positive = expected[expected > 0].sort(descending=True).values
        n_active.append(min(N_SAMPLES * k, len(positive)))
        smallest = positive[n_active[-1] - 1]
        expected = torch.where(expected >= smallest, expected, 0.0)
        torch.testing.assert_close(dense, expected, atol=1e-12, rtol=0)
    assert (found > 0).sum((1, 2)).tolist() == n_active
    # More are never active than are positive.
    assert (k < 10) == (min(n_active) == N_SAMPLES * k)


def test_a_batch_of_one_sample_shares_nothing():
    ensemble = random_ensemble()
    X = random_numbers(1, N_FEATURES, seed=5) * 3
    codes = encode_batch(ensemble.centred(X), ensemble, K)
    found = as_dense(codes, 1, N_COMPONENTS)
    torch.testing.assert_close(found, dense_codes(X, ensemble, K))
