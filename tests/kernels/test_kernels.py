"""The kernels in PyTorch, Numba and Triton, against definitions."""

import os
import sys
from importlib import import_module, reload

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from skmfr._sae.codes import SparseCodes, by_atom

# An atom that is in all samples of a bag has more entries than are added up at once.
# Elsewhere few samples do: Triton takes its time to interpret.
N_IN_BAGS, N_SAMPLES, N_COMPONENTS = 37, 11, 9
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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_dot_products(kernels, there, n_features, k, dtype):
    X = random_numbers(N_SAMPLES, n_features, dtype=dtype)
    atoms = random_numbers(N_COMPONENTS, n_features, dtype=dtype, seed=3)
    indices = random_codes(k, dtype).indices
    found = kernels.gather_dot(*there(X, atoms, indices))
    assert_close(found, (X.unsqueeze(1) * atoms[indices]).sum(2))


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "k"), SHAPES)
def test_sums_of_bags(kernels, there, n_features, k, dtype, add):
    X = random_numbers(N_IN_BAGS, n_features, dtype=dtype)
    codes = random_codes(k, dtype, n_samples=N_IN_BAGS)
    order, rows, offsets = by_atom(codes.indices, N_COMPONENTS)
    sizes = offsets.diff()
    assert sizes[0] == N_IN_BAGS
    assert sizes[-1] == 0 or k == N_COMPONENTS
    dense = torch.zeros(N_IN_BAGS, N_COMPONENTS, dtype=dtype)
    dense.scatter_(1, codes.indices, codes.values)
    before = random_numbers(N_COMPONENTS, n_features, dtype=dtype, seed=4)
    (found,) = there(before.clone())
    entries = rows, offsets, codes.values.flatten()[order]
    kernels.bag_sums(*there(X, *entries), found, add)
    assert_close(found, dense.T @ X + (before if add else 0))


# Of groups: fewer columns than one, one not full, as many as are wanted, all columns.
@pytest.mark.parametrize(
    ("n_columns", "k", "dtype"),
    [
        (1, 1, torch.float32),
        (7, 3, torch.bfloat16),
        (97, 4, torch.float32),
        (97, 4, torch.float64),
        (101, 100, torch.bfloat16),
        (101, 100, torch.float32),
        (600, 40, torch.float32),
        (600, 40, torch.float64),
        (512, 512, torch.float32),
    ],
)
def test_search_for_the_largest(kernels, there, n_columns, k, dtype):
    assert_largest(kernels, there, rows_to_search(n_columns, dtype), k)


# Rows that no program can hold; the last part has fewer columns.
@pytest.mark.parametrize(("n_columns", "k"), [(130, 1), (130, 16), (130, 23)])
def test_search_in_parts(monkeypatch, kernels, there, n_columns, k):
    if hasattr(kernels, "SEARCHED_BYTES"):
        monkeypatch.setattr(kernels, "SEARCHED_BYTES", 1 << 8)
    assert_largest(kernels, there, rows_to_search(n_columns, torch.float32), k)


def rows_to_search(n_columns, dtype):
    """Scores of which many are equal, none positive, or -0.0."""
    scores = random_numbers(5, n_columns)
    scores[1] = 0.0
    scores[2] = -0.0
    scores[3] = -scores[3].abs()
    scores[4] = (2 * scores[4]).round()
    return scores.to(dtype)


def assert_largest(kernels, there, scores, k):
    found, indices = (part.cpu() for part in kernels.largest(*there(scores), k))
    assert found.dtype == scores.dtype
    assert torch.equal(found, scores.gather(1, indices))
    expected = torch.topk(scores.relu(), k).values
    assert torch.equal(found.relu().sort(1, descending=True).values, expected)
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


ADAM = 0.9, 0.99, 1e-8


def step_by_definition(parameter, gradient, mean, square, t, rate, on_sphere):
    """Kingma & Ba 2015, algorithm 1; of atoms what is tangent counts."""
    beta, gamma, eps = ADAM
    if on_sphere:
        along = (gradient * parameter).sum(1, keepdims=True)
        gradient = gradient - along * parameter
    mean = beta * mean + (1 - beta) * gradient
    square = gamma * square + (1 - gamma) * gradient**2
    size = np.sqrt(square / (1 - gamma**t)) + eps
    parameter = parameter - rate * mean / (1 - beta**t) / size
    if on_sphere:
        parameter /= np.linalg.norm(parameter, axis=1, keepdims=True)
    return parameter, mean, square


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("on_sphere", [0, 2])
def test_steps_of_adam(kernels, there, on_sphere, dtype):
    shapes = [(N_COMPONENTS, 19), (N_COMPONENTS,), (N_COMPONENTS, 19), (19,)]
    parameters = [random_numbers(*shape, dtype=dtype) for shape in shapes]
    atoms = torch.nn.functional.normalize(parameters[on_sphere])
    parameters[on_sphere] = atoms
    expected = [(each.double().numpy(), 0.0, 0.0) for each in parameters]
    parameters = there(*(each.clone() for each in parameters))
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for t in range(1, 6):
        rates, n_steps = [0.1 / t, 0.2 / t, 0.3, 0.05], torch.tensor(float(t))
        gradients = [random_numbers(*s, dtype=dtype, seed=t) for s in shapes]
        for gradient in gradients:
            gradient[..., -1] = 0.0  # a feature that never has any
        expected = [
            step_by_definition(p, g.double().numpy(), m, v, t, rates[i], i == on_sphere)
            for i, ((p, m, v), g) in enumerate(zip(expected, gradients, strict=True))
        ]
        sources = None
        if t % 2 == 0:  # it begins from others, which stay
            sources = parameters, means, squares
            before = [[each.clone() for each in part] for part in sources]
            parameters, means, squares = (
                [torch.full_like(each, torch.nan) for each in part] for part in sources
            )
        kernels.adam_step(
            parameters,
            there(*gradients),
            means,
            squares,
            *there(n_steps),
            rates,
            ADAM[:2],
            ADAM[2],
            on_sphere,
            sources,
        )
        if sources is not None:
            for part, same in zip(sources, before, strict=True):
                assert all(map(torch.equal, part, same))
        kept = zip(parameters, means, squares, strict=True)
        for found, truth in zip(kept, expected, strict=True):
            for part, other in zip(found, truth, strict=True):
                assert_close(part, torch.from_numpy(other).to(dtype))


def test_a_gradient_whose_square_overflows_stops_what_it_belongs_to(kernels, there):
    atoms = torch.nn.functional.normalize(random_numbers(5, 7, dtype=torch.float32))
    parameters = there(random_numbers(5, 7, dtype=torch.float32, seed=1), atoms)
    before = parameters[0].clone()
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for t in range(1, 4):
        gradients = [
            random_numbers(5, 7, dtype=torch.float32, seed=10 * t + i) for i in (0, 1)
        ]
        if t == 1:
            gradients[0][2, 3] = 1e25
        kernels.adam_step(
            parameters,
            there(*gradients),
            means,
            squares,
            *there(torch.tensor(float(t))),
            [0.1, 0.1],
            ADAM[:2],
            ADAM[2],
            on_sphere=1,
        )
    assert parameters[0][2, 3] == before[2, 3]
    assert (parameters[0] != before).sum() == before.numel() - 1
    for parameter in parameters:
        assert parameter.isfinite().all()


def test_rows_do_not_depend_on_those_beside_them(kernels, there, monkeypatch):
    n_samples = 6
    X = random_numbers(n_samples, 70, dtype=torch.float32)
    atoms = random_numbers(N_COMPONENTS, 70, dtype=torch.float32, seed=3)
    codes = random_codes(5, torch.float32, n_samples=n_samples)
    scores = random_numbers(n_samples, 101, dtype=torch.float32, seed=4)

    def of_rows(rows):
        part, values, indices = there(X[rows], codes.values[rows], codes.indices[rows])
        on_device = there(atoms)[0]
        return [
            *kernels.residual_products(part, values, indices, on_device),
            kernels.gather_dot(part, on_device, indices),
            *kernels.largest(*there(scores[rows]), 7),
        ]

    with threadpool_limits(1):
        expected = of_rows(slice(None))
    for n_threads in [1, 2, 3] if kernels.__name__.endswith("numba") else [1]:
        # The threads of PyTorch may be fewer, where cores are.
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        for rows in (slice(None), slice(4, 5), slice(2, n_samples)):
            for found, whole in zip(of_rows(rows), expected, strict=True):
                assert torch.equal(found, whole[rows])


OTHERS = dict.fromkeys(["n_features", "n_columns", "k", "size", "width"], "i32")
OTHERS |= {"indices": "*i64", "n_steps": "*fp32"}


def build(architecture, kernel, itemsize, fixed, index, n_warps):
    """Compile a kernel; the shared memory that it takes, and its size."""
    compiler = import_module("triton.compiler")
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
    done = compiler.compile(
        compiler.ASTSource(kernel, signature, fixed, aligned),
        target=import_module("triton.backends.compiler").GPUTarget(
            "cuda", architecture, 32
        ),
        options={"num_warps": n_warps},
    )
    return done.metadata.shared, len(done.asm["cubin"])


def build_all(cache):
    """Build the widest of the search, and each other kernel for two types of numbers.

    The values of a flag are shared between these; what takes most shared memory is
    built for a newer architecture too.
    """
    os.environ |= {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    # Triton reads what to interpret when it is imported.  Its compiled part, which does
    # not, can be imported only once.
    for name in list(sys.modules):
        if name.partition(".")[0] == "triton" and not name.startswith("triton._C"):
            del sys.modules[name]
    kernels = reload(import_module("skmfr._kernels._triton"))

    def strip(n_rows, itemsize):
        n_bytes = max(kernels.TILE_BYTES // n_rows, kernels.MIN_COLUMN_BYTES)
        return {"COLUMNS": n_bytes // itemsize}

    cases = []
    for itemsize in (2, 4, 8):
        width = kernels.SEARCHED_BYTES // max(4, itemsize)
        fixed = {"COLUMNS": width, "CHUNK": width // 4, "SIZE": kernels.GROUP_SIZE}
        fixed["LOWEST"] = -(2 ** (8 * itemsize - 1))
        cases.append((80, kernels._largest, itemsize, fixed, None, width))
    products, no_residual = kernels._strip_products, {"values": None, "residual": None}
    sums, n_rows = kernels._strip_sums, kernels.BAG_ROWS
    adam = {"BETA": 0.9, "GAMMA": 0.99, "EPS": 1e-8, "COLUMNS": kernels.ADAM_COLUMNS}
    few, many = {"ENTRIES": 32} | strip(32, 4), {"ENTRIES": 64} | no_residual
    # Entries of codes, edges of the pull graph.
    codes = {"ROWS": n_rows, "ADD": False} | strip(n_rows, 8)
    edges = {"ROWS": n_rows, "ADD": True} | strip(n_rows, 4)
    cases += [
        (80, products, 4, few, None, 4096),
        (80, products, 8, many | strip(64, 8), None, 4096),
        (80, sums, 8, codes, "*i64", 4096),
        (80, sums, 4, edges, "*i32", 4096),
        (80, kernels._adam_rows, 8, adam | {"ON_SPHERE": False}, None, 4096),
        (80, kernels._adam_rows, 4, adam | {"ON_SPHERE": True}, None, 4096),
        (90, products, 4, many | strip(64, 4), None, 4096),
    ]
    return [build(*case, kernels._n_warps(n_numbers)) for *case, n_numbers in cases]


def test_kernels_compile_for_gpus_that_are_not_there(tmp_path, call_in_process):
    pytest.importorskip("triton")
    exitcode, compiled = call_in_process(build_all, tmp_path)
    assert exitcode == 0, compiled
    assert len(compiled) == 3 + 7
    for shared_memory, n_bytes in compiled:
        # Four programs at once in the 164 kB of a multiprocessor of an A100.
        assert shared_memory <= 164_000 / 4
        assert n_bytes > 0
