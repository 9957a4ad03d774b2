"""Dense products against NumPy's, in float64."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import skmfr._kernels.dense
from skmfr._kernels.dense import lengths, linear, passing_linear

# Of sums of 70 products of size 1, less than 100: units in the last place.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-13, torch.bfloat16: 0.5}


@pytest.fixture(params=["oneDNN", "torch"])
def library(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(skmfr._kernels.dense, "_dtypes_of_onednn", frozenset)
    elif not skmfr._kernels.dense._has_both():
        pytest.skip("needs MKL and oneDNN")
    else:
        # For float32 too, on any processor.
        both = skmfr._kernels.dense._dtypes_of_onednn() | {torch.float32}
        monkeypatch.setattr(skmfr._kernels.dense, "_dtypes_of_onednn", lambda: both)


def random_numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 70, 5), (130, 70, 200), (0, 3, 4)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_equal_those_of_numpy(shape, dtype, with_bias, n_threads):
    n_samples, n_features, n_components = shape
    X = random_numbers(n_samples, n_features).to(dtype)
    weight = random_numbers(n_components, n_features, seed=1).to(dtype)
    bias = random_numbers(n_components, seed=2).to(dtype) if with_bias else None
    with threadpool_limits(n_threads):
        found = linear(X, weight, bias)
    expected = X.double().numpy() @ weight.double().numpy().T
    if with_bias:
        expected += bias.double().numpy()
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.usefixtures("library")
def test_what_is_not_contiguous_and_not_finite():
    X = random_numbers(12, 40).float()[:, ::2]
    weight = random_numbers(20, 7, seed=1).float().T
    X[0, 0], X[1, 0] = torch.nan, torch.inf
    found = linear(X, weight)
    assert found[0].isnan().all()
    assert torch.equal(found[1], torch.inf * weight[:, 0].sign())
    expected = X[2:].double() @ weight.double().T
    torch.testing.assert_close(found[2:].double(), expected, rtol=0, atol=1e-4)


# With a new PyTorch it may not, and nobody would notice but by the time it takes.
@pytest.mark.parametrize(
    ("known", "suits_mkl"),
    [
        ({"cpu_name": "AMD EPYC 9654", "avx512_f": True}, False),
        ({"cpu_name": "AMD EPYC 7763", "avx512_f": False}, True),
        ({"cpu_name": "Intel Xeon", "avx512_f": True}, True),
        ({}, False),
    ],
)
def test_onednn_serves_beside_mkl_where_it_is_faster(known, suits_mkl, monkeypatch):
    has_both = (
        torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    dtypes = skmfr._kernels.dense._dtypes_of_onednn.__wrapped__()
    assert (torch.float32 in dtypes) == (has_both and not suits_mkl)
    has_bfloat16 = has_both and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (torch.bfloat16 in dtypes) == has_bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_are_right_where_squares_leave_float32(dtype):
    X = random_numbers(7, 70)
    X *= torch.tensor([1, 1e-30, 1e30, 0, 1e-13, 1e13, 1e-22]).double()[:, None]
    X = X.to(dtype)
    expected = X.double().numpy()
    expected = np.sqrt(np.sum(expected**2, axis=1))
    np.testing.assert_allclose(lengths(X), expected, rtol=1e-6)
    assert lengths(X).dtype == torch.float64
    assert torch.equal(lengths(X)[:1], lengths(X[:1]))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_passing_product_is_that_of_numpy(dtype, with_bias):
    weight, bias = random_numbers(7, 5), random_numbers(7, seed=1) * with_bias
    for n_samples in (20, 30, 10):
        X = random_numbers(n_samples, 5, seed=n_samples)
        arguments = X.to(dtype), weight.to(dtype), bias.to(dtype) if with_bias else None
        found = passing_linear(*arguments)
        expected = X.numpy() @ weight.numpy().T + bias.numpy()
        np.testing.assert_allclose(found, expected, atol=TOLERANCE[dtype])


def test_the_next_passing_product_of_the_thread_overwrites_it(monkeypatch):
    monkeypatch.setattr(skmfr._kernels.dense, "_dtypes_of_onednn", frozenset)
    found = passing_linear(torch.ones(2, 3), torch.eye(3))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(passing_linear, torch.zeros(2, 3), torch.eye(3)).result()
    np.testing.assert_array_equal(found, 1)
    passing_linear(torch.zeros(2, 3), torch.eye(3))
    np.testing.assert_array_equal(found, 0)


def test_memory_of_large_passing_products_is_not_kept(monkeypatch):
    monkeypatch.setattr(skmfr._kernels.dense, "_dtypes_of_onednn", frozenset)
    monkeypatch.setattr(skmfr._kernels.dense, "MOST_KEPT", 100)
    found = passing_linear(torch.ones(5, 6), torch.eye(6))
    passing_linear(torch.zeros(5, 6), torch.eye(6))
    np.testing.assert_array_equal(found, 1)
