"""Triton kernels against the operators of PyTorch that they replace."""

import os
import subprocess
import sys

import pytest
import torch

import skmfr._codes
from skmfr._codes import (
    SparseCodes,
    bag_sums,
    by_atom,
    decode,
    gather_dot,
    kernels_on,
    residual_products,
)
from skmfr._ensemble import Ensemble, encode
from skmfr._objective import reconstruction

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
kernels = pytest.importorskip("skmfr._kernels")

# An atom that is in all samples has more entries than are added up at once.
N_SAMPLES, N_COMPONENTS = 37, 9
# Sums of up to 700 products of numbers of size 1 reach 100; added up in another order
# they differ by some units in the last place: 6e-8 in float32, 1e-16 in float64.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13}
# Features: fewer than a strip holds, several strips, the last one not full.
# k: 1, a power of two, not one, and all atoms.
SHAPES = [(1, 1), (7, 3), (128, 8), (300, 5), (700, 9)]


def random_numbers(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def random_codes(k, dtype, n_atoms=N_COMPONENTS, n_samples=N_SAMPLES):
    """Atom 0 is in all samples, the last one in none unless all are; some values 0."""
    scores = random_numbers(n_samples, n_atoms, seed=1)
    scores[:, 0], scores[:, -1] = 9.0, -9.0
    indices = scores.topk(k, dim=1).indices
    values = random_numbers(n_samples, k, dtype=dtype, seed=2).clamp(min=0)
    assert k == 1 or (values == 0).any()
    return SparseCodes(values, indices)


def on(device, *tensors):
    return [tensor.to(device) for tensor in tensors]


def assert_close(found, expected):
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_residual_and_its_products_equal_those_of_torch(n_features, k, dtype):
    X = random_numbers(N_SAMPLES, n_features, dtype=dtype)
    atoms = random_numbers(N_COMPONENTS, n_features, dtype=dtype, seed=3)
    # Of unit norm as in an SAE, so that products are no larger than samples.
    atoms = torch.nn.functional.normalize(atoms)
    codes = random_codes(k, dtype)
    codes_there = SparseCodes(*on(DEVICE, *codes))
    found = kernels.residual_products(*on(DEVICE, X), codes_there, *on(DEVICE, atoms))
    for part, expected in zip(found, residual_products(X, codes, atoms), strict=True):
        assert_close(part, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_dot_products_equal_those_of_torch(n_features, k, dtype):
    X = random_numbers(N_SAMPLES, n_features, dtype=dtype)
    atoms = random_numbers(N_COMPONENTS, n_features, dtype=dtype, seed=3)
    indices = random_codes(k, dtype).indices
    found = kernels.gather_dot(*on(DEVICE, X, atoms, indices))
    assert_close(found, gather_dot(X, atoms, indices))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_sums_of_bags_equal_those_of_torch(n_features, k, dtype):
    X = random_numbers(N_SAMPLES, n_features, dtype=dtype)
    codes = random_codes(k, dtype)
    order, rows, offsets = by_atom(codes.indices, N_COMPONENTS)
    sizes = offsets.diff()
    assert sizes[0] == N_SAMPLES
    assert sizes[-1] == 0 or k == N_COMPONENTS
    entries = rows, offsets, codes.values.flatten()[order]
    found = kernels.bag_sums(*on(DEVICE, X, *entries))
    assert_close(found, bag_sums(X, *entries))


def test_kernels_take_what_is_not_contiguous():
    X = random_numbers(300, N_SAMPLES).T
    atoms = random_numbers(N_COMPONENTS, 300, seed=3)
    codes = random_codes(5, torch.float64)
    few, few_there = (
        SparseCodes(*(part[:, :3] for part in parts))
        for parts in (codes, on(DEVICE, *codes))
    )
    residual, _ = kernels.residual_products(
        *on(DEVICE, X), few_there, *on(DEVICE, atoms)
    )
    assert_close(residual, X - decode(few, atoms))


def test_kernels_take_codes_without_entries():
    X, atoms = random_numbers(4, 7), random_numbers(N_COMPONENTS, 7)
    none = torch.empty(4, 0, dtype=torch.int64)
    assert kernels.gather_dot(*on(DEVICE, X, atoms, none)).shape == (4, 0)
    entries = none.flatten(), torch.zeros(5, dtype=torch.int64), X.new_empty(0)
    assert_close(kernels.bag_sums(*on(DEVICE, atoms, *entries)), torch.zeros_like(X))


# What a step computes, of several SAEs in one, with kernels in place of PyTorch.
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_several_members_equal_those_of_torch(monkeypatch, tied):
    n_members, n_samples, n_features, k = 3, 20, 70, 4
    atoms = random_numbers(n_members, N_COMPONENTS, n_features)
    atoms = torch.nn.functional.normalize(atoms, dim=2).to(DEVICE)
    ensemble = Ensemble.starting_from(atoms, tied)
    X_centred = ensemble.centred(random_numbers(n_samples, n_features).to(DEVICE))

    def step():
        codes = encode(X_centred, ensemble, k)
        fvu, gradients = reconstruction(X_centred, codes, ensemble, 3.0)
        return [fvu, *gradients]

    monkeypatch.setattr(skmfr._codes, "kernels_on", lambda device: None)
    expected = step()
    called = []
    monkeypatch.setattr(
        skmfr._codes, "kernels_on", lambda device: called.append(device) or kernels
    )
    found = step()
    assert called
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-12, atol=1e-14)


def test_kernels_are_for_gpus_alone():
    assert kernels_on(torch.device("cpu")) is None


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_kernels_are_used_on_a_gpu():
    assert kernels_on(torch.device("cuda", 0)) is kernels


@pytest.mark.skipif(DEVICE == "cuda", reason="needs a machine without a GPU")
def test_torch_serves_where_kernels_fail():
    kernels_on.cache_clear()
    with pytest.warns(UserWarning, match="Kernels do not run on cuda:0"):
        assert kernels_on(torch.device("cuda", 0)) is None


# In a process of its own, which does not interpret them.
COMPILATION = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from skmfr import _kernels

INTEGERS = {"n_features": "i32", "k": "i32"}
INTEGERS |= dict.fromkeys(["indices", "rows", "offsets"], "*i64")

def compiled(kernel, n_rows, itemsize, without):
    width = max(_kernels.TILE_BYTES // n_rows, _kernels.MIN_COLUMN_BYTES) // itemsize
    fixed = dict.fromkeys(without)
    fixed |= zip(kernel.arg_names[-2:], (n_rows, width))
    signature = {
        name: "constexpr" if name in fixed else INTEGERS.get(name, f"*fp{8 * itemsize}")
        for name in kernel.arg_names
    }
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    return triton.compile(ASTSource(kernel, signature, fixed), target=target)

for itemsize in (4, 8):
    for kernel, n_rows, without in [
        (_kernels._strip_products, 32, ()),
        (_kernels._strip_products, 64, ("values", "residual")),
        (_kernels._strip_sums, _kernels.BAG_ROWS, ()),
    ]:
        done = compiled(kernel, n_rows, itemsize, without)
        print(done.metadata.shared, len(done.asm["cubin"]))
"""


@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_for_gpus_that_are_not_there(architecture, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", COMPILATION, str(architecture)],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr
    compiled = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert len(compiled) == 2 * 3
    for shared_memory, n_bytes in compiled:
        # Four programs at once in the 164 kB of a multiprocessor of an A100.
        assert shared_memory <= 164_000 / 4
        assert n_bytes > 0
