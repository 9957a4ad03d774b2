"""The coder that calls of a fitted estimator share."""

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from threading import Barrier, current_thread
from weakref import ref

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import skmfr.io
from skmfr import MFRSparseAutoencoder
from skmfr._kernels import _numba
from skmfr._sae.arrays import WEIGHTS, coded_blocks, coder_of
from skmfr._sae.coder import ALGORITHMS, Coder

X = load_digits(return_X_y=True)[0][:300].astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> MFRSparseAutoencoder:
    return MFRSparseAutoencoder(
        96, n_saes=2, n_witnesses=1, k=6, max_steps=40, random_state=0
    ).fit(X)


@pytest.fixture
def sae(fitted) -> MFRSparseAutoencoder:
    return deepcopy(fitted)


@pytest.fixture
def made(monkeypatch) -> list[Coder]:
    """The coders that are made during a test."""
    coders, make = [], Coder.__init__

    def counting(self, *arguments):
        coders.append(self)
        make(self, *arguments)

    monkeypatch.setattr(Coder, "__init__", counting)
    return coders


def test_all_methods_share_one_coder(sae, made):
    for _ in range(2):
        sae.transform(X)
        sae.reconstruct(X[:5], trusted_only=True)
        sae.score(X)
    sae.set_params(sparse_output=True).transform(X[:1])
    assert len(made) == 1


def test_tensors_and_arrays_of_the_same_kind_share_one_coder(sae, made):
    assert coder_of(sae, torch.zeros(1, 64)) is coder_of(sae, X)
    assert coder_of(sae, X.astype(float)).atoms.dtype == torch.float64
    assert len(made) == 2


@pytest.mark.parametrize(
    "changes", [{"k": 2}, {"transform_algorithm": "omp"}, {"k": 7, "device": "cpu"}]
)
def test_parameters_set_after_fit_count(sae, changes):
    sae.transform(X)
    codes = sae.set_params(**changes).transform(X)
    # Of an estimator that has coded nothing before.
    np.testing.assert_array_equal(codes, deepcopy(sae).transform(X))
    np.testing.assert_array_equal((codes != 0).sum(1).max(), min(sae.k, 96))


def test_a_copy_with_another_k_leaves_the_first_its_coder(sae, made):
    expected = sae.transform(X)
    other = copy(sae).set_params(k=2)
    assert ((other.transform(X) != 0).sum(1) <= 2).all()
    np.testing.assert_array_equal(sae.transform(X), expected)
    assert len(made) == 2


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_new_array_is_seen(sae, name):
    before = sae.reconstruct(X)
    setattr(sae, name, getattr(sae, name) * np.float32(1.5))
    after = sae.reconstruct(X)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, deepcopy(sae).reconstruct(X))


def test_an_array_that_can_be_written_to_is_read_each_time(sae):
    sae.decoder_bias_ = sae.decoder_bias_.copy()
    sae.transform(X)
    sae.decoder_bias_ += 1
    codes = sae.transform(X)
    np.testing.assert_array_equal(codes, deepcopy(sae).transform(X))


def unpickled(sae, _):
    return pickle.loads(pickle.dumps(sae))


def mapped(sae, folder):
    joblib.dump(sae, folder / "sae.joblib")
    return joblib.load(folder / "sae.joblib", mmap_mode="r+")


def saved(sae, folder):
    skmfr.io.save(sae, folder / "sae.safetensors")
    return skmfr.io.load(folder / "sae.safetensors")


def exported(sae, folder):
    skmfr.io.to_sae_lens(sae, folder / "sae")
    return skmfr.io.from_sae_lens(folder / "sae")


@pytest.mark.parametrize(
    "made_by",
    [
        lambda sae, _: sae,
        lambda sae, _: deepcopy(sae),
        unpickled,
        mapped,
        saved,
        exported,
    ],
)
@pytest.mark.parametrize("name", [*WEIGHTS, "dictionaries_", "witness_dictionaries_"])
def test_weights_cannot_be_edited_in_place(fitted, made_by, name, tmp_path):
    sae = made_by(fitted, tmp_path)
    array = getattr(sae, name)
    # Nor what they are views of.
    while isinstance(array, np.ndarray):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        array = array.base


def test_no_pickle_or_copy_holds_a_coder(sae, made):
    before, attributes = pickle.dumps(sae), set(vars(sae))
    sae.transform(X)
    assert pickle.dumps(sae) == before
    assert set(vars(sae)) == attributes
    assert len(made) == 1
    others = [clone(sae).fit(X), deepcopy(sae), copy(sae), pickle.loads(before)]
    for n, other in enumerate(others, start=2):
        other.transform(X)
        assert len(made) == n


def test_a_coder_goes_with_its_estimator(fitted):
    sae = deepcopy(fitted)
    coder = ref(coder_of(sae, X))
    assert coder() is coder_of(sae, X)
    del sae
    gc.collect()
    assert coder() is None


def test_an_outdated_coder_goes(sae):
    coder = ref(coder_of(sae, X))
    sae.set_params(k=2).transform(X)
    gc.collect()
    assert coder() is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_threads_code_as_one_does(sae, algorithm):
    sae.set_params(transform_algorithm=algorithm)
    parts = np.array_split(X, 8)
    expected = [deepcopy(sae).transform(part) for part in parts]
    barrier = Barrier(len(parts))

    def code(part):
        barrier.wait()
        return [sae.transform(part) for _ in range(5)]

    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(code, parts))
    for codes, alone in zip(found, expected, strict=True):
        for each in codes:
            np.testing.assert_array_equal(each, alone)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_coder_is_no_part_of_the_mode_that_it_is_called_in(sae, algorithm):
    sae.set_params(transform_algorithm=algorithm)
    samples = torch.from_numpy(X)
    expected = Coder.reconstruct(coder_of(deepcopy(sae), X), samples)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(coder_of(sae, X).reconstruct(samples), expected)
    # The same coder where gradients are recorded.
    leaf = samples.clone().requires_grad_()
    X_hat = coder_of(sae, X).reconstruct(leaf)
    assert torch.equal(X_hat, expected)
    (leaf - X_hat).square().sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * (samples - expected))


@pytest.fixture
def coded_in(monkeypatch) -> list[tuple[str, int, int]]:
    """Of each block, at most 32 samples: name and limit of its thread, and its rows."""
    found, code = [], Coder.__call__

    def noting(self, X):
        found.append((current_thread().name, torch.get_num_threads(), len(X)))
        return code(self, X)

    monkeypatch.setattr(Coder, "__call__", noting)
    monkeypatch.setattr("skmfr._sae.coder.rows_per_block", lambda *_: 16)
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("changes", [{}, {"sparse_output": True}])
def test_threads_code_blocks_as_one_does(sae, coded_in, algorithm, changes):
    sae.set_params(transform_algorithm=algorithm, **changes)
    found = []
    for n_threads in (1, 3):
        with threadpool_limits(n_threads):
            codes = sae.transform(X)
            results = codes if isinstance(codes, np.ndarray) else codes.toarray()
            trusted = sae.reconstruct(X, trusted_only=True)
            found.append((results, sae.reconstruct(X), trusted, sae.score(X)))
    for one, three in zip(*found, strict=True):
        np.testing.assert_allclose(one, three, atol=1e-5)
    names, limits, sizes = zip(*coded_in, strict=True)
    assert len({name for name in names if name.startswith("skmfr")}) == 3
    assert set(limits) == {1}
    # Four calls; ten blocks for one thread, and four for each of three.
    assert len(sizes) == 4 * (10 + 12)
    assert sum(sizes) == 8 * len(X)


def test_few_samples_are_one_block_that_has_all_threads(sae, coded_in):
    with threadpool_limits(3):
        sae.transform(X[:32])
    assert coded_in == [(current_thread().name, 3, 32)]


def test_threads_share_what_the_first_block_computes(sae, coded_in, monkeypatch):
    made, gram = [], _numba.gram
    monkeypatch.setattr(_numba, "gram", lambda atoms: made.append(1) or gram(atoms))
    with threadpool_limits(3):
        sae.set_params(transform_algorithm="omp").transform(X)
    assert len(made) == 1
    (name, limit, _), *others = coded_in
    assert (name, limit) == (current_thread().name, 3)
    assert all(other.startswith("skmfr") for other, *_ in others)


def test_errors_of_threads_are_raised_and_later_blocks_not_read(sae, coded_in):
    n_read = []

    class Failing:
        shape, dtype = X.shape, X.dtype

        def __len__(self):
            return len(X)

        def __getitem__(self, rows):
            n_read.append(rows)
            return X[rows, :-1] if len(n_read) == 4 else X[rows]

    with threadpool_limits(2), pytest.raises(RuntimeError, match="size"):
        list(coded_blocks(coder_of(sae, X), Failing()))
    assert 4 <= len(n_read) < 10
