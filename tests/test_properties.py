"""Any data with any parameters: an error that helps, or results that keep all promises.

Hypothesis draws the cases, see conftest.py for how many.
"""

import contextlib
import pickle
import random

import dask.array
import numpy as np
import pandas as pd
import polars
import pytest
import torch
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from threadpoolctl import threadpool_info

from skmfr import MFRSparseAutoencoder

pytestmark = [
    pytest.mark.filterwarnings("error::RuntimeWarning"),
    # Fits of a few steps fail in every way that fits warn of.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
]
FITTED = (
    "dictionaries_", "witness_dictionaries_", "encoder_weights_", "encoder_bias_",
    "decoder_bias_", "feature_agreement_", "mutual_agreement_", "loss_curve_",
)  # fmt: skip


def share_of_cases(share):
    """A test's share of the cases that the profile has for this file."""
    return settings(max_examples=round(share * settings.default.max_examples))


# Data


@st.composite
def matrices(draw, fewest=1, most=6):
    """Data as they come, and as they should not: (n_samples, n_features)."""
    n_samples, n_features = draw(st.integers(1, 24)), draw(st.integers(fewest, most))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from(["f8", "f8", "f4", "f4", "f2", "i8", "u1", "?"]))
    if np.dtype(dtype).kind != "f":
        return rng.integers(0, 4, (n_samples, n_features)).astype(dtype)
    X = rng.standard_normal((n_samples, n_features))
    if draw(st.booleans()):
        X *= rng.random(X.shape) < 0.3
    if draw(st.booleans()):
        X = X[rng.integers(draw(st.integers(1, n_samples)), size=n_samples)]
    columns = draw(st.sampled_from(["any", "any", "constant", "collinear", "uneven"]))
    if columns == "constant":
        X[:, rng.random(n_features) < 0.5] = 3.0
    elif columns == "collinear":
        X = X[:, :1] * rng.integers(-2, 3, n_features) + draw(st.sampled_from([0, 7]))
    elif columns == "uneven":
        X *= 10.0 ** rng.integers(-8, 9, n_features)
    X += draw(st.sampled_from([0.0, 0.0, 1.0, 1e4]))
    if dtype == "f2":
        return X.clip(-65504, 65504).astype(dtype)
    return (X * 10.0 ** draw(st.integers(-30, 30))).astype(dtype)


def mapped(X, folder):
    path = folder / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def read_only(X, folder):
    X.setflags(write=False)
    return X


SINGLE = "float16 float32"
# What is given for the same numbers, and which types are read as float32.
FORMS = {
    "C order": (lambda X, folder: X, SINGLE),
    "Fortran order": (lambda X, folder: np.asfortranarray(X), SINGLE),
    "every other row": (
        lambda X, folder: np.repeat(X, 2, axis=0)[::2],
        SINGLE,
    ),
    "backwards": (
        lambda X, folder: X[::-1, ::-1].copy()[::-1, ::-1],
        SINGLE,
    ),
    "read-only": (read_only, SINGLE),
    "memory-mapped": (mapped, SINGLE),
    "other byte order": (lambda X, folder: X.astype(X.dtype.newbyteorder()), SINGLE),
    "objects": (lambda X, folder: X.astype(object), ""),
    "lists": (lambda X, folder: X.tolist(), ""),
    "pandas": (lambda X, folder: pd.DataFrame(X), SINGLE),
    "polars": (lambda X, folder: polars.from_numpy(X), SINGLE),
    "tensor": (lambda X, folder: torch.from_numpy(X), SINGLE),
    "tensor in columns": (
        lambda X, folder: torch.from_numpy(X.T.copy()).T,
        SINGLE,
    ),
    "one shard": (lambda X, folder: [X], SINGLE),
    "one zarr chunk": (
        lambda X, folder: zarr.array(X, chunks=X.shape),
        SINGLE,
    ),
    "one dask chunk": (
        lambda X, folder: dask.array.from_array(X, chunks=-1),
        SINGLE,
    ),
}


# Parameters

PARAMETERS = {
    "n_components": st.none() | st.integers(1, 12),
    "n_saes": st.integers(1, 4),
    "k": st.integers(1, 15) | st.just(2**40),
    "alpha": st.sampled_from([0, 0.1, 1.0, np.float32(10), 1e6]),
    "matching": st.sampled_from(["hungarian", "max"]),
    "n_witnesses": st.integers(0, 2),
    "tied": st.booleans(),
    "transform_algorithm": st.sampled_from(["encoder", "lstsq", "omp"]),
    "positive_code": st.booleans(),
    "sparse_output": st.booleans(),
    "max_iter": st.none() | st.integers(1, 30) | st.just(2**40),
    "max_steps": st.integers(1, 10),
    "batch_size": st.integers(1, 40) | st.just(2**40),
    "learning_rate": st.sampled_from(["auto", "auto", 1e-300, 0.01, 1, 1e3]),
    "tol": st.sampled_from([0, 0.1, 1e9]),
    "early_stopping": st.booleans(),
    "validation_fraction": st.sampled_from([1e-9, 0.1, 0.5, 0.99]),
    "n_iter_no_change": st.integers(1, 3) | st.just(2**40),
    "reinit_threshold": st.sampled_from([None, 0, 2.5, 1e300]),
    "reinit_every": st.integers(1, 4) | st.just(2**40),
    "warm_start": st.booleans(),
    "shuffle": st.booleans(),
    "device": st.sampled_from(["auto", "cpu", "cpu:0"]),
    "precision": st.sampled_from(["float32", "float64", "bfloat16"]),
    "callback": st.sampled_from([None, lambda step, info: None]),
    "random_state": st.integers(0, 2**32 - 1),
}
# What somebody might write by mistake, for any parameter and for some.
WRONG = [-1, 0, -0.5, 1.5, np.nan, np.inf, "many", "", None, [], {}, np.array([1, 2])]
WRONG_VALUES = [
    (name, value)
    for name in [*PARAMETERS, "checkpoint_every", "verbose"]
    for value in WRONG
] + 20 * [
    ("alpha", 1e300), ("alpha", 1e15), ("learning_rate", 1e300),
    ("learning_rate", 1e15), ("device", "meta"), ("device", "cuda:99"),
    ("random_state", 2**32), ("checkpoint_every", 5),
]  # fmt: skip


def parameters(**changes):
    """Values that are allowed, for some of the parameters; the others are small."""
    small = {"n_components": 8, "k": 2, "max_steps": 5, "random_state": 0}
    return st.fixed_dictionaries({}, optional=PARAMETERS | changes).map(
        lambda chosen: small | chosen
    )


# What holds


def numbers(X):
    """The numbers in what is given, for comparison."""
    if isinstance(X, list):
        return np.array([numbers(part) for part in X], dtype=object)
    return np.asarray(X)


class Untouched:
    """Global generators and thread counts are after a block what they were before."""

    def state(self):
        return (
            str(np.random.get_state()),
            torch.get_rng_state().tolist(),
            random.getstate(),
            torch.get_num_threads(),
        )

    def threads(self):
        return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}

    def __enter__(self):
        self.before, self.threads_before = self.state(), self.threads()

    def __exit__(self, *error):
        assert self.state() == self.before
        # A library that is loaded in the block was not there to be modified.
        assert self.threads_before.items() <= self.threads().items()


def assert_sound(sae):
    """Fitted attributes are finite, atoms of unit norm, agreement is a cosine."""
    for name in FITTED:
        value = getattr(sae, name)
        if "agreement" not in name:
            assert np.isfinite(value).all(), name
    tolerance = 8 * np.finfo(sae.components_.dtype).eps
    for atoms in (sae.dictionaries_, sae.witness_dictionaries_):
        norms = np.linalg.norm(atoms.astype(float), axis=2)
        np.testing.assert_allclose(norms, 1, rtol=tolerance)
    n_others = len(sae.witness_dictionaries_) or len(sae.dictionaries_) - 1
    assert np.isnan(sae.mutual_agreement_).all() == (len(sae.dictionaries_) == 1)
    assert np.isnan(sae.feature_agreement_).all() == (n_others == 0)
    if n_others:
        assert np.abs(sae.feature_agreement_).max() <= 1
    if len(sae.dictionaries_) > 1:
        assert np.abs(sae.mutual_agreement_).max() <= 1


def assert_codes(sae, X, dtype):
    """Codes of X, (n_samples, n_features), and what comes back of them, are sound."""
    codes = sae.transform(X)
    assert sparse.issparse(codes) == sae.sparse_output
    if sae.sparse_output:
        assert codes.indices.dtype == codes.indptr.dtype == np.int32
    dense = codes.toarray() if sae.sparse_output else codes
    assert dense.dtype == dtype
    assert dense.shape == (len(X), len(sae.components_))
    assert np.isfinite(dense).all()
    assert np.count_nonzero(dense, axis=1).max() <= sae.k
    assert sae.transform_algorithm != "encoder" or dense.min() >= 0

    # Alone, and in another order.
    order = np.random.default_rng(0).permutation(len(X))
    alone = np.concatenate([dense_codes(sae, X[[i]]) for i in range(len(X))])
    size = np.abs(dense).max()
    eps = np.finfo(dtype).eps
    # Coefficients of atoms that are nearly dependent make much of rounding.
    tolerance = 1e-4 if dtype == np.float32 else 1e-6
    for again in (dense_codes(sae, X[order])[np.argsort(order)], alone):
        np.testing.assert_allclose(again, dense, rtol=0, atol=tolerance * size)

    back = sae.inverse_transform(codes)
    assert back.dtype == dtype
    assert back.shape == X.shape
    assert np.isfinite(back).all()
    size = max(np.abs(back).max(), np.abs(sae.decoder_bias_).max(), size)
    reconstructed = sae.reconstruct(X)
    assert reconstructed.dtype == dtype
    np.testing.assert_allclose(reconstructed, back, rtol=0, atol=1e2 * eps * size)
    score = sae.score(X)
    assert type(score) is float
    assert np.isfinite(score)
    assert score <= 1


def dense_codes(sae, X):
    codes = sae.transform(X)
    return codes.toarray() if sparse.issparse(codes) else codes


def same_bytes(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in FITTED
    )


def error_of(call, *args):
    """The error that helps which a call raises, or None."""
    try:
        call(*args)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def suits_not(sae, message):
    """Whether an error says which of the allowed parameters does not suit the data."""
    return (sae.early_stopping and "validation_fraction" in message) or (
        sae.learning_rate == 1e3 and "diverged with learning_rate" in message
    )


# What they promise


@share_of_cases(0.5)
@given(X=matrices(), form=st.sampled_from(list(FORMS)), values=parameters())
def test_any_data_with_any_parameters(tmp_path_factory, X, form, values):
    make, single = FORMS[form]
    given_X = make(X.copy(), tmp_path_factory.mktemp("data"))
    dtype = np.float32 if str(X.dtype) in single else np.float64
    plain = X.astype(dtype)
    before = repr(numbers(given_X).tolist())
    sae = MFRSparseAutoencoder(**values)
    with Untouched():
        message = error_of(sae.fit, given_X)
        if message is not None:
            assert suits_not(sae, message), message
            return
        assert_sound(sae)
        assert_codes(sae, plain, dtype)
        # Where the numbers lie does not matter, and the same seed gives the same bytes.
        assert np.array_equal(dense_codes(sae, given_X), dense_codes(sae, plain))
        assert same_bytes(sae, clone(sae).fit(plain))
    assert repr(numbers(given_X).tolist()) == before


@share_of_cases(0.2)
@given(
    wrong=st.sampled_from(WRONG_VALUES),
    method=st.sampled_from(["fit", "partial_fit"]),
    values=parameters(),
)
def test_a_value_that_does_not_suit_is_named(wrong, method, values):
    name, value = wrong
    X = np.random.default_rng(0).standard_normal((20, 3))
    sae = MFRSparseAutoencoder(**values | {name: value})
    message = error_of(getattr(sae, method), X)
    if message is not None:
        assert name in message or suits_not(sae, message), message
    else:
        assert_sound(sae)
        assert_codes(sae, X, X.dtype)


FAULTS = {
    "not a number": (lambda X: np.where(X.max() == X, np.nan, X), "NaN"),
    "infinite": (lambda X: np.where(X.max() == X, -np.inf, X), "-inf in row|infinity"),
    "infinite in a shard": (lambda X: [X, X / 0], "(inf|NaN) in row"),
    "one-dimensional": (lambda X: X[0], "2D array"),
    "three-dimensional": (lambda X: X[None], "dim 3"),
    "no sample": (lambda X: X[:0], "0 sample"),
    "no feature": (lambda X: X[:, :0], "0 feature"),
    "too narrow": (lambda X: X[:, :-1], "features|columns"),
    "too wide": (lambda X: np.hstack([X, X]), "features|columns"),
    "text": (lambda X: X.astype(str).astype(object) + "m", "convert"),
    "complex": (lambda X: X + 1j, "[Cc]omplex"),
    "ragged": (lambda X: [X[0].tolist(), X[0, 1:].tolist()], "inhomogeneous|sequence"),
    "sparse": (sparse.csr_array, "[Ss]parse"),
    "sparse matrix": (sparse.coo_matrix, "[Ss]parse"),
    "nothing": (lambda X: None, "NoneType|2D array|convert"),
    "frame with a gap": (lambda X: pd.DataFrame(X).where(X.max() > X), "NaN"),
    "frame with text": (lambda X: pd.DataFrame(X).assign(name="it"), "convert"),
}  # fmt: skip


@share_of_cases(0.1)
@given(
    fault=st.sampled_from(list(FAULTS)),
    method=st.sampled_from(
        ["fit", "partial_fit", "transform", "reconstruct", "score", "inverse_transform"]
    ),
    X=matrices(fewest=2),
    values=parameters(),
)
def test_data_that_are_none_are_refused(fault, method, X, values):
    sae = MFRSparseAutoencoder(**values)
    X = X.astype(float)
    assume(error_of(sae.fit, X) is None)
    if method == "inverse_transform":
        # Codes may be sparse, and come at once.
        assume("sparse" not in fault and "shard" not in fault)
        X = dense_codes(sae, X)
    assume(method != "fit" or fault not in ("too narrow", "too wide"))
    make, message = FAULTS[fault]
    with np.errstate(divide="ignore", invalid="ignore"):
        broken = make(X)
    before = sae.components_.copy()
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(sae, method)(broken)
    # It is still the estimator that it was.
    np.testing.assert_array_equal(sae.components_, before)
    sae.transform(np.zeros((1, sae.n_features_in_)))


@share_of_cases(0.1)
@given(
    parts=st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.tuples(matrices(n, n), st.sampled_from(["fit", "partial_fit"])),
            min_size=2,
            max_size=4,
        )
    ),
    values=parameters(early_stopping=st.just(False), callback=st.none()),
)
def test_training_goes_on_with_any_data(parts, values):
    sae = MFRSparseAutoencoder(**values)
    n_steps, seen = 0, []
    for X, method in parts:
        starts_anew = method == "fit" and not sae.warm_start
        message = error_of(getattr(sae, method), X)
        if message is not None:
            assert "must have the same scale" in message or suits_not(sae, message)
            return
        # Few rows are forgotten when more rows come, and rows that are all identical.
        starts_anew |= len(seen) < len(X) or len(np.unique(seen, axis=0)) == 1
        seen = [*(() if starts_anew else seen), *X.astype(float)]
        assert sae.n_steps_ > (0 if starts_anew else n_steps)
        n_steps = sae.n_steps_
        assert len(sae.loss_curve_) == n_steps
        assert_sound(sae)
        sae = pickle.loads(pickle.dumps(sae))
    assert_codes(sae, parts[0][0].astype(float), np.float64)


@share_of_cases(0.1)
@given(
    X=matrices(),
    values=parameters(callback=st.none()),
    stop=st.integers(1, 6),
    every=st.integers(1, 4),
)
def test_a_stopped_fit_ends_as_if_it_had_not(tmp_path_factory, X, values, stop, every):
    def stop_here(step, info):
        if step == stop:
            raise InterruptedError

    folder = tmp_path_factory.mktemp("checkpoints")
    sae = MFRSparseAutoencoder(**values, checkpoint_dir=folder, checkpoint_every=every)
    expected = MFRSparseAutoencoder(**values)
    assume(error_of(expected.fit, X) is None)
    with contextlib.suppress(InterruptedError):
        clone(sae).set_params(callback=stop_here).fit(X)
    assert same_bytes(sae.fit(X), expected)
