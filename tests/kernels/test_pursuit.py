"""Matching pursuit and least squares against SciPy, scikit-learn and a slow path."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp_gram
from threadpoolctl import threadpool_limits

from skmfr._kernels import _numba, _numba_search, _torch, batched

# Parts of the rows run in several threads in the same way for both types.
ON_THREADS = [(torch.float32, 1), (torch.float64, 1), (torch.float32, 2)]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def dictionary(n_components, n_features, seed=0):
    atoms = numbers(n_components, n_features, seed=seed)
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def slow_pursuit(X, atoms, k, positive):
    """Codes (n_samples, n_components), by definition, a sample at a time."""
    codes = np.zeros((len(X), len(atoms)))
    for x, code in zip(X, codes, strict=True):
        support, refused = [], []
        values = np.zeros(0)
        for _ in range(3 * k):
            scores = atoms @ (x - values @ atoms[support])
            scores = scores if positive else abs(scores)
            scores[support + refused] = 0.0
            atom = int(scores.argmax())
            if len(support) == k or scores[atom] <= 1e-8 * np.linalg.norm(x):
                break
            tried = atoms[[*support, atom]].T
            best = np.linalg.lstsq(tried[:, :-1], tried[:, -1], rcond=None)[0]
            if np.linalg.norm(tried[:, -1] - tried[:, :-1] @ best) ** 2 < 1e-10:
                refused.append(atom)
                continue
            if positive:
                values, _ = nnls(tried, x)
                if values[-1] == 0:
                    refused.append(atom)
                support = [*support, atom]
                support = [j for j, v in zip(support, values, strict=True) if v > 0]
                values = values[values > 0]
            else:
                support.append(atom)
                values = np.linalg.lstsq(tried, x, rcond=None)[0]
        code[support] = values
    return codes


def pursued(kernels, X, atoms, k, positive, with_gram=True):
    gram = kernels.gram(atoms) if with_gram else None
    values, indices = kernels.pursuit(X, atoms, gram, k, positive)
    codes = np.zeros((len(X), len(atoms)))
    np.add.at(
        codes, (np.arange(len(X))[:, None], indices.numpy()), values.double().numpy()
    )
    return codes


@pytest.fixture
def _threads(request):
    with threadpool_limits(request.param):
        yield


@pytest.fixture(params=["torch", "numba", "numba in 16 bits"])
def modules(request, monkeypatch):
    """Those that differ: Triton's are PyTorch's."""
    monkeypatch.setattr(_numba, "WORTH_A_THREAD", 1)
    if request.param == "numba in 16 bits":
        monkeypatch.setattr(_numba_search, "WORTHWHILE", 1)
    return _torch if request.param == "torch" else _numba


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("dtype", "_threads"), ON_THREADS, indirect=["_threads"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("with_gram", [False, True])
def test_pursuit_is_what_its_definition_says(modules, dtype, positive, with_gram):
    atoms, X = dictionary(60, 24), numbers(40, 24, seed=1)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-9}[dtype]
    tensors = (torch.from_numpy(array).to(dtype) for array in (X, atoms))
    found = pursued(modules, *tensors, 9, positive, with_gram)
    expected = slow_pursuit(X, atoms, 9, positive)
    np.testing.assert_array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_pursuit_equals_that_of_scikit_learn(modules):
    atoms, X = dictionary(100, 30), numbers(50, 30, seed=1)
    expected = orthogonal_mp_gram(atoms @ atoms.T, atoms @ X.T, n_nonzero_coefs=7).T
    found = pursued(modules, *map(torch.from_numpy, (X, atoms)), 7, False)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_an_atom_that_left_may_return(modules):
    """Of 200 samples this is the only one that needs it."""
    atoms = numbers(12, 6, seed=18) + 1
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    X = numbers(200, 6, seed=118)[136:137]
    found = pursued(modules, *map(torch.from_numpy, (X, atoms)), 6, True)
    np.testing.assert_allclose(found, slow_pursuit(X, atoms, 6, True), atol=1e-8)


@given(
    data=st.data(),
    positive=st.booleans(),
    exponent=st.sampled_from([-30, -3, 0, 12, 30]),
)
def test_codes_of_odd_data_are_those_of_the_slow_path(data, positive, exponent):
    """Equal atoms, zero rows, constant features, k of all, units far from 1."""
    n_features = data.draw(st.integers(1, 6))
    n_components = data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, n_components))
    seed = data.draw(st.integers(0, 99))
    atoms = dictionary(n_components, n_features, seed=seed)
    originals = st.integers(0, n_components - 1)
    copies = data.draw(st.lists(originals, max_size=min(3, n_components)))
    atoms[: len(copies)] = atoms[copies]
    X = numbers(8, n_features, seed=seed + 100)
    X[:2] = 0.0
    X[2:5] = atoms[data.draw(st.integers(0, n_components - 1))]
    X[:, : data.draw(st.integers(0, n_features - 1))] = 1.0
    expected = slow_pursuit(X, atoms, k, positive)
    for kernels in (_torch, _numba):
        for with_gram, worthwhile in ((False, 1), (True, 1), (True, 1024)):
            tensors = torch.from_numpy(X * 10.0**exponent), torch.from_numpy(atoms)
            with patch.object(_numba_search, "WORTHWHILE", worthwhile):
                found = pursued(kernels, *tensors, k, positive, with_gram)
            found /= 10.0**exponent
            # Where atoms are equal, or nothing but rounding is left, other codes are as
            # good: what counts is what they leave.
            left = np.linalg.norm(X - found @ atoms, axis=1)
            least = np.linalg.norm(X - expected @ atoms, axis=1)
            np.testing.assert_allclose(left, least, atol=1e-6)
            assert (np.count_nonzero(found, axis=1) <= k).all()
            assert not positive or (found >= 0).all()
            assert not found[~X.any(1)].any()


def spread(n_atoms, n_features, decades):
    """Samples of ten atoms, with coefficients that spread over decades."""
    atoms, rng = dictionary(n_atoms, n_features), np.random.default_rng(1)
    codes = np.zeros((200, n_atoms))
    for code in codes:
        code[rng.choice(n_atoms, 10, False)] = 10 ** rng.uniform(-decades, 0, 10)
    return codes @ atoms, atoms


def offset():
    """A component that no atom has, far larger than those that they have."""
    atoms, X = dictionary(300, 40), numbers(200, 40, seed=1)
    atoms[:, 0], X[:, 0] = 0.0, 1e4
    return X, atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


ANY_DATA = {
    "noise": (numbers(300, 64, seed=1), dictionary(700, 64)),
    "close atoms": (numbers(300, 64, seed=1) + 3, dictionary(700, 64) + 0.2),
    "many decades": spread(600, 128, 5),
    "no residual": spread(600, 128, 0),
    "offset": offset(),
    "near 0": (numbers(50, 64, seed=1) * 1e-40, dictionary(700, 64)),
    "large": (numbers(50, 64, seed=1) * 1e18, dictionary(700, 64)),
}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("k", [9, 50])
@pytest.mark.parametrize("data", ANY_DATA)
def test_a_search_in_16_bits_finds_the_same_codes(data, k, positive, monkeypatch):
    X, atoms = (torch.from_numpy(array).float() for array in ANY_DATA[data])
    atoms = torch.nn.functional.normalize(atoms)
    gram = _numba.gram(atoms)
    monkeypatch.setattr(_numba_search, "MOST_IN_USE", k - 1)
    expected = _numba.pursuit(X, atoms, gram, k, positive)
    assert "short" not in vars(gram)
    monkeypatch.setattr(_numba_search, "MOST_IN_USE", k)
    for worthwhile in (k * len(atoms) + 1, k * len(atoms)):
        monkeypatch.setattr(_numba_search, "WORTHWHILE", worthwhile)
        values, indices = _numba.pursuit(X, atoms, gram, k, positive)
        assert torch.equal(indices, expected[1])
        assert torch.equal(values, expected[0])
    products = (atoms @ atoms.T).double() * _numba_search.ONE
    np.testing.assert_allclose(gram.short[:, : len(atoms)], products, rtol=0, atol=0.51)


@pytest.mark.parametrize("positive", [False, True])
def test_codes_are_exact_when_no_further_atom_is_independent(modules, positive):
    # After 12 atoms, which are close to each other, all others depend on them.
    atoms = 3 + numbers(33, 12, seed=1)
    atoms = (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).astype("f")
    X = numbers(400, 12).astype("f")
    tensors = torch.from_numpy(X), torch.from_numpy(atoms)
    for x, code in zip(X, pursued(modules, *tensors, 14, positive), strict=True):
        used = np.flatnonzero(code)
        expected = np.linalg.lstsq(atoms[used].T.astype(float), x, rcond=None)[0]
        # Those of codes, which are rounded to float32.
        tolerance = 1e-6 * np.abs(expected).max(initial=0.0)
        np.testing.assert_allclose(code[used], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("positive", [False, True])
def test_of_equal_products_the_first_atom_is_taken(modules, positive):
    # Products of half a unit in any order of sums, and copies of each atom.
    atoms = np.repeat(np.eye(8), 2, axis=0)
    X = np.ones((5, 8))
    for order in (slice(None), slice(None, None, -1)):
        tensors = (
            torch.from_numpy(X[order].copy()).float(),
            torch.from_numpy(atoms).float(),
        )
        found = pursued(modules, *tensors, 3, positive)
        assert (found[:, :6:2] == 1).all()
        assert np.count_nonzero(found) == 15


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("dtype", "_threads"), ON_THREADS, indirect=["_threads"])
@pytest.mark.parametrize("positive", [False, True])
def test_least_squares_are_those_of_scipy(modules, dtype, positive):
    atoms, X = dictionary(60, 24), numbers(40, 24, seed=1)
    rng = np.random.default_rng(2)
    indices = np.stack([rng.permutation(60)[:9] for _ in X])
    used = rng.random(indices.shape) < 0.8
    found = modules.least_squares(
        *(torch.from_numpy(array).to(dtype) for array in (X, atoms)),
        torch.from_numpy(indices),
        torch.from_numpy(used),
        1e-4,
        positive,
    ).numpy()
    for i, x in enumerate(X):
        chosen = atoms[indices[i, used[i]]].T
        expected = np.zeros(9)
        solve = nnls if positive else np.linalg.lstsq
        expected[used[i]] = solve(chosen, x)[0]
        tolerance = {torch.float32: 2e-5, torch.float64: 1e-8}[dtype]
        np.testing.assert_allclose(found[i], expected, rtol=tolerance, atol=tolerance)


def test_least_squares_leave_out_atoms_that_nearly_depend_on_others(modules):
    # Two atoms at an angle whose sine is .04, and one far away.
    atoms = np.eye(3)
    atoms[1] = [np.sqrt(1 - 0.04**2), 0.04, 0.0]
    X = np.array([[1.0, -2.0, 0.5]])
    arguments = torch.arange(3)[None], torch.ones(1, 3, dtype=torch.bool)
    tensors = [torch.from_numpy(array) for array in (X, atoms)]
    both = modules.least_squares(*tensors, *arguments, 0.03**2, False)
    # The second makes -2 of .04, and the first takes back what it brings.
    np.testing.assert_allclose(both[0], [1 + 50 * atoms[1, 0], -50, 0.5], rtol=1e-6)
    first = modules.least_squares(*tensors, *arguments, 0.05**2, False)
    np.testing.assert_allclose(first[0], [1.0, 0.0, 0.5], atol=1e-9)


@pytest.mark.parametrize("n_components", [20, 31, 128, 131, 300])
@pytest.mark.parametrize("k", [1, 4, 5, 13, 20])
def test_any_numbers_of_atoms_are_pursued_as_scikit_learn_does(n_components, k):
    """Loops over groups of atoms and of columns, with and without remainders."""
    atoms, X = dictionary(n_components, 40), numbers(7, 40, seed=1)
    expected = orthogonal_mp_gram(atoms @ atoms.T, atoms @ X.T, n_nonzero_coefs=k).T
    found = pursued(_numba, *map(torch.from_numpy, (X, atoms)), k, False)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("n_used", range(8))
def test_least_squares_of_any_number_of_atoms_are_those_of_numpy(n_used):
    """The same, for the tiles of products; atoms that are not used have value 0."""
    atoms, X = dictionary(30, 13), numbers(5, 13, seed=1)
    rng = np.random.default_rng(2)
    indices = np.stack([rng.permutation(30)[:7] for _ in X])
    used = np.stack([rng.permutation(7) < n_used for _ in X])
    arrays = map(torch.from_numpy, (X, atoms, indices, used))
    found = _numba.least_squares(*arrays, 1e-9, False).numpy()
    for i, x in enumerate(X):
        expected = np.linalg.lstsq(atoms[indices[i, used[i]]].T, x)[0]
        np.testing.assert_allclose(found[i, used[i]], expected, atol=1e-9)
        assert not found[i, ~used[i]].any()


def test_coefficients_of_nearly_dependent_atoms_are_those_of_float64():
    """Up to the rounding of the result, whatever the rounding of the Gram matrix."""
    atoms = dictionary(60, 40)
    atoms[30:] = atoms[:30] + 0.05 * numbers(30, 40, seed=3) / np.sqrt(40)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    X = numbers(50, 40, seed=1)
    tensors = [torch.from_numpy(array).float() for array in (X, atoms)]
    values, indices = _numba.pursuit(*tensors, _numba.gram(tensors[1]), 20, False)
    X, atoms = (tensor.double().numpy() for tensor in tensors)
    for x, z, support in zip(X, values.double().numpy(), indices, strict=True):
        expected = np.linalg.lstsq(atoms[support].T, x)[0]
        np.testing.assert_allclose(z, expected, rtol=0, atol=1e-7 * abs(z).max())


def kahan(n: int, cosine: float) -> np.ndarray:
    """Atoms of Kahan (1966), each not far from the span of those before.

    All together depend on each other much more than these distances show.
    """
    sine = np.sqrt(1 - cosine**2)
    upper = np.eye(n) - np.triu(np.full((n, n), cosine), 1)
    return (np.diag(sine ** np.arange(n)) @ upper).T


@pytest.mark.parametrize(("n", "cosine"), [(24, 0.1), (16, 0.5), (32, 0.3)])
def test_least_squares_in_float32_are_those_of_float64(n, cosine):
    """Also if float32 products of the last atoms are too rough to be corrected."""
    atoms = torch.from_numpy(kahan(n, cosine)).float()
    X = torch.from_numpy(numbers(20, n, seed=1)).float()
    indices = torch.arange(n).repeat(20, 1)
    used = torch.ones_like(indices, dtype=torch.bool)
    found = _numba.least_squares(X, atoms, indices, used, 0.0025, False).double()
    atoms, X = atoms.double().numpy(), X.double().numpy()
    system = atoms @ atoms.T + batched.RIDGE * np.eye(n)
    for x, z in zip(X, found.numpy(), strict=True):
        expected = np.linalg.solve(system, atoms @ x)
        np.testing.assert_allclose(z, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_float64_decides_which_atoms_nearly_depend_on_others():
    """Sines differ from the least one by less than their rounding in float32."""
    first, other = dictionary(40, 200), dictionary(40, 200, seed=1)
    other -= (first * other).sum(1, keepdims=True) * first
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    sine = 0.05 * np.linspace(1 - 1e-5, 1 + 1e-5, 40)[:, None]
    atoms = np.concatenate([first, np.sqrt(1 - sine**2) * first + sine * other])
    atoms = torch.from_numpy(atoms).float()
    X = torch.from_numpy(numbers(40, 200, seed=2)).float()
    pairs = torch.arange(40)[:, None] + torch.tensor([0, 40])
    arguments = X, atoms, pairs, torch.ones_like(pairs, dtype=bool), 0.05**2, False
    found = _numba.least_squares(*arguments)
    a, b = atoms.double().split(40)
    apart = (b * b).sum(1) - (a * b).sum(1) ** 2 / (a * a).sum(1)
    np.testing.assert_array_equal(found[:, 1] != 0, apart > 0.05**2)
    assert 10 < (apart > 0.05**2).sum() < 30
    expected = batched.least_squares(*arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
