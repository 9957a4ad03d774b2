"""Kernels, of Numba and Triton, against definitions and PyTorch's operators."""

import multiprocessing
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from threadpoolctl import threadpool_limits

import skmfr._kernels
import skmfr._sae.codes
from skmfr._kernels import kernels_on
from skmfr._sae.codes import SparseCodes, by_atom, top_k
from skmfr._sae.encoder import encode
from skmfr._sae.ensemble import Ensemble
from skmfr._training.objective import Gradients, reconstruction_
from skmfr._utils.threads import let_forks_compute

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


@pytest.fixture
def there(device):
    """Copies of tensors where the kernels run."""
    return lambda *tensors: [tensor.to(device) for tensor in tensors]


def assert_close(found, expected):
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


def residual_and_products(X, codes, atoms):
    chosen = atoms[codes.indices]
    residual = X - (codes.values.unsqueeze(2) * chosen).sum(1)
    return residual, (residual.unsqueeze(1) * chosen).sum(2)


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_residual_and_its_products(kernels, there, n_features, k, dtype):
    X = random_numbers(N_SAMPLES, n_features, dtype=dtype)
    atoms = random_numbers(N_COMPONENTS, n_features, dtype=dtype, seed=3)
    # Of unit norm as in an SAE, so that products are no larger than samples.
    atoms = torch.nn.functional.normalize(atoms)
    codes = random_codes(k, dtype)
    codes_there = SparseCodes(*there(*codes))
    found = kernels.residual_products(*there(X), *codes_there, *there(atoms))
    expected = residual_and_products(X, codes, atoms)
    for part, other in zip(found, expected, strict=True):
        assert_close(part, other)


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_dot_products(kernels, there, n_features, k, dtype):
    X = random_numbers(N_SAMPLES, n_features, dtype=dtype)
    atoms = random_numbers(N_COMPONENTS, n_features, dtype=dtype, seed=3)
    indices = random_codes(k, dtype).indices
    found = kernels.gather_dot(*there(X, atoms, indices))
    assert_close(found, (X.unsqueeze(1) * atoms[indices]).sum(2))


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_sums_of_bags(kernels, there, n_features, k, dtype, add):
    X = random_numbers(N_SAMPLES, n_features, dtype=dtype)
    codes = random_codes(k, dtype)
    order, rows, offsets = by_atom(codes.indices, N_COMPONENTS)
    sizes = offsets.diff()
    assert sizes[0] == N_SAMPLES
    assert sizes[-1] == 0 or k == N_COMPONENTS
    dense = torch.zeros(N_SAMPLES, N_COMPONENTS, dtype=dtype)
    dense.scatter_(1, codes.indices, codes.values)
    before = random_numbers(N_COMPONENTS, n_features, dtype=dtype, seed=4)
    (found,) = there(before.clone())
    entries = rows, offsets, codes.values.flatten()[order]
    kernels.bag_sums(*there(X, *entries), found, add)
    assert_close(found, dense.T @ X + (before if add else 0))


# Of groups: fewer columns than one, one not full, as many as are wanted, all columns.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n_columns", "k"), [(1, 1), (7, 3), (97, 4), (101, 100), (600, 40), (512, 512)]
)
def test_search_for_the_largest(kernels, there, n_columns, k, dtype):
    assert_largest(kernels, there, rows_to_search(n_columns, dtype), k)


# Rows that no program can hold; the last part has fewer columns.
@pytest.mark.parametrize(
    ("n_columns", "k"), [(1000, 32), (1025, 1), (1025, 102), (1025, 140)]
)
def test_search_in_parts(monkeypatch, there, kernels, n_columns, k):
    if hasattr(kernels, "SEARCHED_BYTES"):
        monkeypatch.setattr(kernels, "SEARCHED_BYTES", 1 << 10)
    assert_largest(kernels, there, rows_to_search(n_columns, torch.float32), k)


def rows_to_search(n_columns, dtype):
    """Scores as integers; many are equal, or of the smallest integer, that of -0.0."""
    scores = random_numbers(6, n_columns)
    scores[1] = 0.0
    scores[2] = -0.0
    scores[3] = -scores[3].abs()
    scores[4] = (2 * scores[4]).round()
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    return scores.to(dtype).view(integer)


def assert_largest(kernels, there, numbers, k):
    found, indices = (part.cpu() for part in kernels.largest(*there(numbers), k))
    assert torch.equal(found, numbers.gather(1, indices))
    expected = torch.topk(numbers, k).values
    assert torch.equal(found.sort(1, descending=True).values, expected)
    assert (indices.sort(1).values.diff(dim=1) > 0).all()


def test_kernels_take_what_is_not_contiguous(kernels, there):
    X = random_numbers(300, N_SAMPLES).T
    atoms = random_numbers(N_COMPONENTS, 300, seed=3)
    codes = random_codes(5, torch.float64)
    few, few_there = (
        SparseCodes(*(part[:, :3] for part in parts))
        for parts in (codes, there(*codes))
    )
    residual, _ = kernels.residual_products(*there(X), *few_there, *there(atoms))
    assert_close(residual, residual_and_products(X, few, atoms)[0])


def test_kernels_take_codes_without_entries(kernels, there):
    X, atoms = random_numbers(4, 7), random_numbers(N_COMPONENTS, 7)
    none = torch.empty(4, 0, dtype=torch.int64)
    assert kernels.gather_dot(*there(X, atoms, none)).shape == (4, 0)
    entries = none.flatten(), torch.zeros(5, dtype=torch.int64), X.new_empty(0)
    (found,) = there(torch.ones_like(X))
    kernels.bag_sums(*there(atoms, *entries), found, add=False)
    assert_close(found, torch.zeros_like(X))


# What a step computes, of several SAEs in one, with kernels in place of PyTorch.
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_several_members_equal_those_of_torch(
    monkeypatch, kernels, there, tied
):
    n_members, n_samples, n_features, k = 3, 20, 70, 4
    atoms = random_numbers(n_members, N_COMPONENTS, n_features)
    (atoms,) = there(torch.nn.functional.normalize(atoms, dim=2))
    ensemble = Ensemble.starting_from(atoms, tied)
    X_centred = ensemble.centred(*there(random_numbers(n_samples, n_features)))

    def step():
        codes = encode(X_centred, ensemble, k)
        gradients = Gradients.like(ensemble)
        fvu, _ = reconstruction_(gradients, X_centred, codes, ensemble, 3.0)
        return [fvu, *gradients]

    monkeypatch.setattr(skmfr._sae.codes, "kernels_on", lambda device: None)
    expected = step()
    called = []
    monkeypatch.setattr(
        skmfr._sae.codes, "kernels_on", lambda device: called.append(device) or kernels
    )
    found = step()
    assert called
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-12, atol=1e-14)


def test_kernels_of_numba_are_used_on_the_cpu():
    cpu = pytest.importorskip("skmfr._kernels._numba")
    with threadpool_limits(1):
        assert kernels_on(torch.device("cpu")) is cpu
    if cpu.has_threads():
        assert kernels_on(torch.device("cpu")) is cpu


def test_without_threads_that_may_be_shared_torch_serves(monkeypatch):
    cpu = pytest.importorskip("skmfr._kernels._numba")
    monkeypatch.setattr(cpu, "has_threads", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert kernels_on(torch.device("cpu")) is None


def test_a_numba_that_does_not_load_is_told(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.delitem(sys.modules, "skmfr._kernels._numba", raising=False)
    monkeypatch.delattr(skmfr._kernels, "cpu", raising=False)
    monkeypatch.setitem(sys.modules, "numba", ModuleType("numba"))
    with pytest.warns(UserWarning, match="Kernels do not run on the CPU.*prange"):
        assert skmfr._kernels._cpu.__wrapped__() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_of_triton_are_used_on_a_gpu():
    gpu = pytest.importorskip("skmfr._kernels._triton")
    assert kernels_on(torch.device("cuda", 0)) is gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_torch_serves_where_kernels_fail():
    pytest.importorskip("triton")
    skmfr._kernels._for_gpu.cache_clear()
    with pytest.warns(UserWarning, match="Kernels do not run on cuda:0"):
        assert kernels_on(torch.device("cuda", 0)) is None


# What OpenMP knows of its threads does not survive a fork; what Numba does then is to
# end the process.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_kernels_run_in_forked_processes():
    let_forks_compute()
    scores = random_numbers(50, 200)
    expected = top_k(scores, 3)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(top_k, (scores, 3)).get(timeout=60)
    for part, other in zip(found, expected, strict=True):
        assert torch.equal(part, other)


# In a process of its own, which does not interpret them.
COMPILATION = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from skmfr._kernels import _triton as gpu

OTHERS = dict.fromkeys(["n_features", "n_columns", "k", "size", "width"], "i32")
OTHERS |= {"indices": "*i64", "n_steps": "*fp32"}

def strip(n_rows, itemsize):
    return max(gpu.TILE_BYTES // n_rows, gpu.MIN_COLUMN_BYTES) // itemsize

def compiled(kernel, itemsize, fixed, index, n_numbers=4096):
    integer = f"*i{8 * itemsize}"
    others = OTHERS | dict.fromkeys(["rows", "offsets"], index)
    others |= dict.fromkeys(["numbers", "found"], integer)
    signature = {
        name: "constexpr" if name in fixed else others.get(name, f"*fp{8 * itemsize}")
        for name in kernel.arg_names
    }
    # Arrays begin where 16 divides the address.
    arrays = [i for i, name in enumerate(signature) if signature[name].startswith("*")]
    aligned = {(i,): [["tt.divisibility", 16]] for i in arrays}
    return triton.compile(
        ASTSource(kernel, signature, fixed, aligned),
        target=GPUTarget("cuda", int(sys.argv[1]), 32),
        options={"num_warps": gpu._n_warps(n_numbers)},
    )

n_rows = gpu.BAG_ROWS
for bits in (16, 32, 64):
    # The widest.
    width = gpu.SEARCHED_BYTES // max(4, bits // 8)
    fixed = {"COLUMNS": width, "CHUNK": width // 4, "SIZE": gpu.GROUP_SIZE}
    fixed["LOWEST"] = -(2 ** (bits - 1))
    done = compiled(gpu._largest, bits // 8, fixed, None, width)
    print(done.metadata.shared, len(done.asm["cubin"]))

products, no_residual = gpu._strip_products, {"values": None, "residual": None}
adam = {"BETA": 0.9, "GAMMA": 0.99, "EPS": 1e-8, "COLUMNS": gpu.ADAM_COLUMNS}
for itemsize in (4, 8):
    n_32, n_64, n_bag = (strip(n, itemsize) for n in (32, 64, n_rows))
    for kernel, fixed, index in [
        (products, {"ENTRIES": 32, "COLUMNS": n_32}, None),
        (products, {"ENTRIES": 64, "COLUMNS": n_64} | no_residual, None),
        # Entries of codes, edges of the pull graph.
        (gpu._strip_sums, {"ADD": False, "ROWS": n_rows, "COLUMNS": n_bag}, "*i64"),
        (gpu._strip_sums, {"ADD": True, "ROWS": n_rows, "COLUMNS": n_bag}, "*i32"),
        (gpu._adam_rows, adam | {"ON_SPHERE": False}, None),
        (gpu._adam_rows, adam | {"ON_SPHERE": True}, None),
    ]:
        done = compiled(kernel, itemsize, fixed, index)
        print(done.metadata.shared, len(done.asm["cubin"]))
"""


@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_for_gpus_that_are_not_there(architecture, tmp_path):
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", COMPILATION, str(architecture)],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr
    compiled = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert len(compiled) == 3 + 2 * 6
    for shared_memory, n_bytes in compiled:
        # Four programs at once in the 164 kB of a multiprocessor of an A100.
        assert shared_memory <= 164_000 / 4
        assert n_bytes > 0
