"""Codes of new data against NumPy, SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

import skmfr._kernels.dense
import skmfr._sae.pursuit
from skmfr._kernels.dense import same_dot
from skmfr._sae.coder import ALGORITHMS
from skmfr._sae.encoder import encoder_coder
from skmfr._sae.ensemble import Ensemble
from skmfr._sae.lstsq import lstsq_coder
from skmfr._sae.pursuit import omp_coder


def random_sae(n_features, n_components, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((n_components, n_features))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    encoder = atoms + 0.1 * rng.standard_normal(atoms.shape)
    arrays = (
        encoder,
        0.1 * rng.standard_normal(n_components),
        atoms,
        rng.standard_normal(n_features),
    )
    return Ensemble(*(torch.from_numpy(array)[None].to(dtype) for array in arrays))


def samples(n, n_features, seed=1, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, n_features))).to(dtype)


def dense(codes, n_components):
    out = np.zeros((len(codes.values), n_components))
    np.add.at(
        out,
        (np.arange(len(out))[:, None], codes.indices.numpy()),
        codes.values.double().numpy(),
    )
    return out


def test_encoder_codes_are_the_largest_k_positive_pre_activations():
    sae, X, k = random_sae(10, 40), samples(30, 10), 6
    scores = (X - sae.decoder_bias) @ sae.encoder[0].T + sae.encoder_bias
    expected = np.maximum(scores.numpy(), 0)
    smallest = np.sort(expected, axis=1)[:, -k][:, None]
    expected[expected < smallest] = 0

    np.testing.assert_allclose(dense(encoder_coder(sae, k)(X), 40), expected)


@pytest.mark.parametrize("largest_gram", [0, 1 << 20])
@pytest.mark.parametrize("k", [1, 5, 12])
def test_omp_codes_equal_scikit_learns(k, largest_gram, monkeypatch):
    monkeypatch.setattr(skmfr._sae.pursuit, "MAX_GRAM", largest_gram)
    sae, X = random_sae(24, 60), samples(70, 24)
    expected = orthogonal_mp(
        sae.decoder[0].T.numpy(),
        (X - sae.decoder_bias).T.numpy(),
        n_nonzero_coefs=k,
    ).T
    # The same support, so both are least squares on well-conditioned atoms.
    np.testing.assert_allclose(dense(omp_coder(sae, k)(X), 60), expected, rtol=1e-8)


def test_omp_stops_when_nothing_is_left():
    sae = random_sae(30, 50)
    true = np.zeros((20, 50))
    true[np.arange(20), np.arange(20)] = 2.0
    X = torch.from_numpy(true) @ sae.decoder[0] + sae.decoder_bias

    codes = dense(omp_coder(sae, k=8)(X), 50)

    # Up to the ridge of 1e-12.
    np.testing.assert_allclose(codes, true, atol=1e-11)
    assert np.all(np.count_nonzero(codes, axis=1) == 1)


def test_omp_of_a_sample_at_the_bias_is_zero():
    sae = random_sae(10, 20)
    assert torch.all(omp_coder(sae, 4)(sae.decoder_bias.clone()).values == 0)


def test_lstsq_codes_are_least_squares_on_the_encoders_support():
    sae, X, k = random_sae(16, 40), samples(30, 16), 5
    codes = dense(lstsq_coder(sae, k)(X), 40)
    support = dense(encoder_coder(sae, k)(X), 40) != 0
    atoms, X_centred = sae.decoder[0].numpy(), (X - sae.decoder_bias).numpy()

    for row in range(30):
        expected = np.zeros(40)
        used = support[row]
        expected[used] = np.linalg.lstsq(atoms[used].T, X_centred[row], rcond=None)[0]
        np.testing.assert_allclose(codes[row], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("algorithm", ["lstsq", "omp"])
def test_dependent_atoms_give_finite_codes_that_reconstruct_as_well(algorithm):
    sae = random_sae(12, 20)
    for tensor in (sae.encoder, sae.encoder_bias, sae.decoder):
        tensor[:, 10:] = tensor[:, :10]
    X, k = samples(40, 12), 6
    codes = ALGORITHMS[algorithm](sae, k)(X)
    assert torch.isfinite(codes.values).all()

    # Against the optimum on the same support.
    support = dense(codes, 20) != 0
    atoms, X_centred = sae.decoder[0].numpy(), (X - sae.decoder_bias).numpy()
    residual = X_centred - dense(codes, 20) @ atoms
    for row in range(40):
        best = np.linalg.lstsq(atoms[support[row]].T, X_centred[row], rcond=None)[0]
        optimum = X_centred[row] - best @ atoms[support[row]]
        # The ridge of 1e-12 shows in the square root of rounding at worst.
        assert np.linalg.norm(residual[row]) <= np.linalg.norm(optimum) + 1e-6


def test_of_dependent_atoms_least_squares_takes_the_first():
    sae, k = random_sae(12, 20), 6
    # Copies up to rounding, which the encoder takes together.
    for tensor in (sae.encoder, sae.encoder_bias, sae.decoder):
        tensor[:, 10:] = tensor[:, :10]
    sae.decoder[:, 10:] *= 1 + 1e-15 * torch.randn(10, 12, dtype=torch.float64)
    X = samples(40, 12)
    codes = dense(lstsq_coder(sae, k)(X), 20)
    assert not codes[:, 10:].any()
    # As without copies.
    first = Ensemble(
        sae.encoder[:, :10], sae.encoder_bias[:, :10], sae.decoder[:, :10],
        sae.decoder_bias,
    )  # fmt: skip
    expected = dense(lstsq_coder(first, k // 2)(X), 10)
    np.testing.assert_allclose(codes[:, :10], expected, rtol=1e-9, atol=1e-12)


def test_omp_takes_atoms_that_are_nearly_parallel():
    # Two atoms .002 apart, and samples that need their difference.
    atoms = np.eye(20)
    atoms[1] = atoms[0] + 2e-3 * atoms[1]
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    sae = Ensemble.starting_from(torch.from_numpy(atoms[None]), tied=True)
    X = np.zeros((200, 20))
    X[:, :2] = np.random.default_rng(0).standard_normal((200, 2))
    codes = dense(omp_coder(sae, 2)(torch.from_numpy(X)), 20)
    # The ridge of 1e-12 against the smaller eigenvalue, 2e-6.
    np.testing.assert_allclose(codes @ atoms, X, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coding_row_by_row_equals_coding_the_batch(algorithm, dtype):
    sae, X = random_sae(512, 2048, dtype=dtype), samples(64, 512, dtype=dtype)
    k = 16
    together = ALGORITHMS[algorithm](sae, k)(X)
    apart = [ALGORITHMS[algorithm](sae, k)(row[None]) for row in X[:16]]

    together = dense(together, 2048)[:16]
    apart = np.concatenate([dense(codes, 2048) for codes in apart])
    np.testing.assert_array_equal(together != 0, apart != 0)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(together, apart, rtol=tolerance, atol=tolerance)


def test_matching_pursuit_with_atoms_that_are_much_alike_is_the_same_in_any_batch():
    rng = np.random.default_rng(3)
    n_components, k = 1500, 8
    # On a sphere in four dimensions, and a little beside it.
    atoms = rng.standard_normal((n_components, 4)) @ rng.standard_normal((4, 100))
    atoms += 1e-2 * rng.standard_normal(atoms.shape)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    sae = Ensemble.starting_from(torch.from_numpy(atoms[None]).float(), tied=True)
    one, other = rng.integers(n_components, size=(2, 400))
    noise = 0.1 * rng.standard_normal((400, 100))
    X = torch.from_numpy(atoms[one] + 0.5 * atoms[other] + noise).float()
    # Of so many samples products of all atoms are made, of one they are not.
    together = dense(omp_coder(sae, k)(X), n_components)
    apart = [dense(omp_coder(sae, k)(row[None]), n_components) for row in X[:100]]
    np.testing.assert_allclose(together[:100], np.concatenate(apart), rtol=1e-5)


@pytest.mark.parametrize("k", [20, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_of_zero_up_to_rounding_are_decided_without_the_batch(k, dtype):
    """Pairs of features cancel, so that only a few biases are positive scores."""
    rng = np.random.default_rng(0)
    half = torch.from_numpy(rng.standard_normal((40, 25))).to(dtype)
    bias = torch.zeros(40, dtype=dtype)
    bias[:5] = 0.5
    atoms = torch.nn.functional.normalize(samples(40, 50, dtype=dtype))
    encoder = torch.cat([half, -half], dim=1)
    zero = torch.zeros(1, 50, dtype=dtype)
    sae = Ensemble(encoder[None], bias[None], atoms[None], zero)
    X = samples(2000, 25, dtype=dtype).repeat(1, 2)
    for coder in (encoder_coder(sae, k), lstsq_coder(sae, k)):
        together = dense(coder(X), 40)[:30]
        apart = np.concatenate([dense(coder(row[None]), 40) for row in X[:30]])
        np.testing.assert_array_equal(together != 0, apart != 0)
        np.testing.assert_allclose(together, apart, atol=1e-5)


def test_atoms_without_an_encoder_are_never_candidates(monkeypatch):
    """As of pruned SAEs: their scores are all equal, and exactly 0."""
    sae = random_sae(16, 200, dtype=torch.float32)
    sae.encoder[:, 20:], sae.encoder_bias[:, 20:] = 0, 0
    sizes = []

    def counted(rows, *others):
        sizes.append(len(rows))
        return same_dot(rows, *others)

    monkeypatch.setattr("skmfr._sae.encoder.same_dot", counted)
    X, k = samples(50, 16, dtype=torch.float32), 15
    found = dense(encoder_coder(sae, k)(X), 200)
    scores = (X - sae.decoder_bias) @ sae.encoder[0].T + sae.encoder_bias
    np.testing.assert_allclose(found, scores.clamp(min=0), atol=1e-5)
    assert not sizes


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("unit", [2.0**-100, 2.0**100])
def test_units_in_which_squares_leave_float32_change_no_code(algorithm, unit):
    sae = random_sae(64, 300, dtype=torch.float32)
    X, k = samples(50, 64, dtype=torch.float32), 7
    expected = ALGORITHMS[algorithm](sae, k)(X)
    scaled = Ensemble(
        sae.encoder, sae.encoder_bias * unit, sae.decoder, sae.decoder_bias * unit
    )
    codes = ALGORITHMS[algorithm](scaled, k)(X * unit)
    # A power of two: the same bits but for the exponent.
    torch.testing.assert_close(codes.indices, expected.indices)
    torch.testing.assert_close(codes.values / unit, expected.values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_of_equal_atoms_the_first_is_taken_whatever_the_batch(algorithm):
    sae = random_sae(64, 300, dtype=torch.float32)
    for tensor in (sae.encoder, sae.encoder_bias, sae.decoder):
        tensor[:, 100:200] = tensor[:, :100]
        tensor[:, 200:] = tensor[:, :100]
    X, k = samples(50, 64, dtype=torch.float32), 7

    def support(X):
        return dense(ALGORITHMS[algorithm](sae, k)(X), 300) != 0

    together = support(X)
    np.testing.assert_array_equal(
        together, np.concatenate([support(row[None]) for row in X])
    )
    np.testing.assert_array_equal(together[::-1], support(X.flip(0)))
    # A copy is never active without the atoms before it.
    assert not np.any(together[:, 200:] & ~together[:, 100:200])
    assert not np.any(together[:, 100:200] & ~together[:, :100])


def test_codes_are_the_scores_of_their_atoms_where_rounding_could_decide():
    sae, X = random_sae(64, 300, dtype=torch.float32), samples(50, 64).float()
    for tensor in (sae.encoder, sae.encoder_bias, sae.decoder):
        tensor[:, 150:] = tensor[:, :150]
    values, indices = encoder_coder(sae, 7)(X)
    scores = (X - sae.decoder_bias) @ sae.encoder[0].T + sae.encoder_bias
    torch.testing.assert_close(values, scores.gather(1, indices))


def test_hardly_a_sample_is_scored_again(monkeypatch):
    sae, X = random_sae(64, 300, dtype=torch.float32), samples(500, 64)
    rescored = []

    def counting(X, atoms, indices):
        rescored.append(len(X))
        return same_dot(X, atoms, indices)

    monkeypatch.setattr("skmfr._sae.encoder.same_dot", counting)
    encoder_coder(sae, 7)(X.float())
    # Scores of size 1 that are k-th and next lie .05 apart; what rounding can do to
    # them is 1e-4.
    assert sum(rescored) < 0.02 * len(X)


def test_k_of_all_atoms_keeps_all_positive_ones():
    sae, X = random_sae(5, 7), samples(9, 5)
    scores = (X - sae.decoder_bias) @ sae.encoder[0].T + sae.encoder_bias
    np.testing.assert_allclose(
        dense(encoder_coder(sae, 7)(X), 7), np.maximum(scores.numpy(), 0), rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_features", [7, 64, 301])
def test_same_dot_has_the_same_bits_wherever_sample_and_atom_stand(
    n_features, dtype, monkeypatch
):
    X = samples(40, n_features, dtype=dtype)
    atoms = samples(90, n_features, seed=2, dtype=dtype)
    indices = torch.from_numpy(np.random.default_rng(3).integers(90, size=(40, 11)))
    together = same_dot(X, atoms, indices)

    expected = torch.einsum("nd,nkd->nk", X.double(), atoms.double()[indices])
    # Sums of n_features products of size 1.
    tolerance = 20 * n_features * torch.finfo(dtype).eps
    torch.testing.assert_close(together.double(), expected, rtol=0, atol=tolerance)
    moved, order = torch.cat([atoms[:1], atoms]), torch.arange(11).flip(0)
    for row in range(40):
        alone = same_dot(X[row][None].clone(), moved, indices[row][None, order] + 1)
        assert torch.equal(alone[0, order], together[row])
    monkeypatch.setattr(skmfr._kernels.dense, "BLOCK_SIZE", 3 * 11 * n_features)
    assert torch.equal(same_dot(X, atoms, indices), together)
