"""The kernels in Triton, for GPUs.

On GPUs, the cost is the number of bytes.  Codes of n samples request n * k rows of a
matrix.  Everything else that a kernel reads or writes (samples, residuals, 12 bytes per
code) is smaller by a factor of about k.  PyTorch operators

- request the rows of a dictionary twice, to decode and for the gradient of the codes,
  and write and read residuals in between.  :func:`residual_products` computes both from
  rows that it holds in registers.  For dot products alone, PyTorch also requests 2 n *
  k rows, because it reads the sample again with each atom;
- request whole rows.  Atoms come in any order, so a matrix larger than the L2 cache (40
  MB on an A100, 50 MB on an H100; 24576 atoms of 768 features are 75 MB) is read from
  memory again and again.  Here, programs that run at the same time request the same
  columns of all rows (128 columns where k is 32: 13 MB).  These stay in the cache, and
  a matrix is read from memory once;
- launch about 27 kernels to search a block of scores.  :func:`largest` holds a row, or
  a part of it, and counts like the kernel in `_numba`;
- pass over the atoms once to project their gradients on the sphere, once for Adam, and
  again to normalise them.  :func:`adam_step` does all of this while it holds an atom.

Sums use the dtype of the samples, float32 or float64, and the same order each time:
there are no atomic additions.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import as_integers
from ._torch import copy_all
from .batched import gram as gram
from .batched import least_squares as least_squares
from .batched import pursuit as pursuit

# Bytes of the rows that a program holds.
TILE_BYTES = 1 << 14
# Fewer columns would waste parts of the 128-byte lines of the cache, so programs hold
# more bytes from k = 129 on.
MIN_COLUMN_BYTES = 128
# Number of rows to add at once.  An atom has about ten entries in a batch.
BAG_ROWS = 16
# Some atoms have thousands of entries, so the next rows are requested early.
BAG_STAGES = tl.constexpr(3)
# Bytes of a row of scores that a search program holds, so that several programs fit in
# the registers.  It first compares maxima of neighbours, 16 bytes in bfloat16.
SEARCHED_BYTES = 1 << 15
GROUP_SIZE = 8
# A program of Adam holds 4 numbers for each of this many columns, or for an atom.
ADAM_COLUMNS = 1024
# Numbers that a thread holds for its program; more if the number of threads is maximal.
PER_THREAD = 32


def try_all(device: torch.device) -> None:
    """Call all kernels; the search, which needs most, at its maximum size."""
    X = torch.ones(1, 1, dtype=torch.float32, device=device)
    place = torch.zeros_like(X, dtype=torch.int64)
    residual_products(X, X, place, X)
    bounds = torch.arange(2, device=device)
    bag_sums(X, place[0], bounds, X[0], torch.empty_like(X), add=False)
    largest(X.new_zeros(1, SEARCHED_BYTES), 1)
    one, two, three, four = ([X.clone()] for _ in range(4))
    adam_step(one, two, three, four, X[0, 0], [0.1], (0.9, 0.99), 1e-8, on_sphere=0)


def residual_products(
    X: Tensor, values: Tensor, indices: Tensor, dictionary: Tensor
) -> tuple[Tensor, Tensor]:
    """As in `_torch`."""
    residual, values = X.new_empty(X.shape), values.contiguous()
    return residual, _products(X, dictionary, indices, values, residual)


def gather_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """As in `_torch`."""
    if indices.numel() == 0:
        # Matching pursuit begins without atoms.
        return X.new_empty(indices.shape)
    return _products(X, atoms, indices)


def _products(
    X: Tensor,
    atoms: Tensor,
    indices: Tensor,
    values: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Dot products of atoms with X, or with its residual if there are values."""
    n_samples, n_features = X.shape
    k = indices.shape[1]
    entries = triton.next_power_of_2(k)
    columns = _n_columns(entries, X)
    n_strips = triton.cdiv(n_features, columns)
    # One array per strip, to be summed: less than 1 % of the bytes of the rows.
    products = X.new_empty(n_strips, n_samples, k)
    with torch.cuda.device_of(X):
        _strip_products[n_samples, n_strips](
            X.contiguous(),
            atoms.contiguous(),
            indices.contiguous(),
            values,
            residual,
            products,
            n_features,
            k,
            ENTRIES=entries,
            COLUMNS=columns,
            num_warps=_n_warps(entries * columns * X.itemsize // 4),
        )
    return products.sum(0)


def bag_sums(
    X: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor, out: Tensor, add: bool
) -> None:
    """As in `_torch`."""
    n_bags, n_features = out.shape
    columns = _n_columns(BAG_ROWS, X)
    with torch.cuda.device_of(X):
        _strip_sums[n_bags, triton.cdiv(n_features, columns)](
            X.contiguous(),
            rows,
            offsets,
            weights,
            out,
            n_features,
            ADD=add,
            ROWS=BAG_ROWS,
            COLUMNS=columns,
        )


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As in `_torch`."""
    found, indices = _largest_integers(as_integers(scores), k)
    return found.view(scores.dtype), indices


def _largest_integers(numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n_rows, n_columns = numbers.shape
    most = SEARCHED_BYTES // max(4, numbers.itemsize)
    n_parts = triton.cdiv(n_columns, most)
    width = triton.cdiv(n_columns, n_parts)
    # The parts must pass on less than they received.
    if n_parts > 1 and k > min(width // 2, n_columns - (n_parts - 1) * width):
        return torch.topk(numbers, k, sorted=False)
    columns = max(triton.next_power_of_2(width), GROUP_SIZE)
    found = numbers.new_empty(n_rows, n_parts * k)
    indices = torch.empty_like(found, dtype=torch.int64)
    with torch.cuda.device_of(numbers):
        _largest[n_rows, n_parts](
            numbers.contiguous(),
            found,
            indices,
            n_columns,
            width,
            k,
            LOWEST=torch.iinfo(numbers.dtype).min,
            COLUMNS=columns,
            CHUNK=max(columns // 4, GROUP_SIZE),
            SIZE=GROUP_SIZE,
            num_warps=_n_warps(columns),
        )
    if n_parts > 1:
        found, place = _largest_integers(found, k)
        indices = indices.gather(1, place)
    return found, indices


def adam_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    n_steps: Tensor,
    learning_rates: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    on_sphere: int,
    sources: Sequence[Sequence[Tensor]] | None = None,
) -> None:
    """As in `_torch`."""
    if sources is not None:
        copy_all((parameters, means, squares), sources)
    arrays = zip(parameters, gradients, means, squares, learning_rates, strict=True)
    for number, (parameter, *others, learning_rate) in enumerate(arrays):
        # As an argument it would be rounded to float32.
        rate = parameter.new_full((), learning_rate)
        is_atoms = number == on_sphere
        width = parameter.shape[-1] if is_atoms else ADAM_COLUMNS
        columns = triton.next_power_of_2(width)
        with torch.cuda.device_of(parameter):
            _adam_rows[(triton.cdiv(parameter.numel(), width),)](
                parameter,
                *others,
                n_steps,
                rate,
                parameter.numel(),
                width,
                BETA=betas[0],
                GAMMA=betas[1],
                EPS=eps,
                ON_SPHERE=is_atoms,
                COLUMNS=columns,
                num_warps=_n_warps(4 * columns),
            )


def _n_columns(n_rows: int, X: Tensor) -> int:
    """Width of a strip."""
    n_bytes = max(TILE_BYTES // n_rows, MIN_COLUMN_BYTES)
    return min(n_bytes // X.itemsize, triton.next_power_of_2(X.shape[1]))


def _n_warps(n_numbers: int) -> int:
    """Number of warps (32 threads) for a program with as many 32-bit numbers."""
    return min(max(1, n_numbers // (32 * PER_THREAD)), 32)


# Programs run roughly in the order of their indices, first coordinate first: all
# samples or bags of one strip before those of the next strip.


@triton.jit
def _strip_products(
    X,
    atoms,
    indices,
    values,
    residual,
    products,
    n_features,
    k,
    ENTRIES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    strip = tl.program_id(1).to(tl.int64)
    entry = tl.arange(0, ENTRIES)
    is_entry = entry < k
    column = strip * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < n_features
    atom = tl.load(indices + sample * k + entry, mask=is_entry, other=0)
    rows = tl.load(
        atoms + atom[:, None] * n_features + column[None, :],
        mask=is_entry[:, None] & is_column[None, :],
        other=0.0,
    )
    x = tl.load(X + sample * n_features + column, mask=is_column, other=0.0)
    if values is not None:
        value = tl.load(values + sample * k + entry, mask=is_entry, other=0.0)
        x -= tl.sum(value[:, None] * rows, axis=0)
        tl.store(residual + sample * n_features + column, x, mask=is_column)
    first = (strip * tl.num_programs(0) + sample) * k
    product = tl.sum(rows * x[None, :], axis=1)
    tl.store(products + first + entry, product, mask=is_entry)


@triton.jit
def _strip_sums(
    X,
    rows,
    offsets,
    weights,
    sums,
    n_features,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    bag = tl.program_id(0).to(tl.int64)
    strip = tl.program_id(1).to(tl.int64)
    column = strip * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < n_features
    first = tl.load(offsets + bag)
    last = tl.load(offsets + bag + 1)
    total = tl.zeros((ROWS, COLUMNS), sums.dtype.element_ty)
    for start in tl.range(first, last, ROWS, num_stages=BAG_STAGES):
        entry = start + tl.arange(0, ROWS)
        is_entry = entry < last
        weight = tl.load(weights + entry, mask=is_entry, other=0.0)
        row = tl.load(rows + entry, mask=is_entry, other=0).to(tl.int64)
        total += weight[:, None] * tl.load(
            X + row[:, None] * n_features + column[None, :],
            mask=is_entry[:, None] & is_column[None, :],
            other=0.0,
        )
    place = sums + bag * n_features + column
    sum_ = tl.sum(total, axis=0)
    if ADD:
        sum_ += tl.load(place, mask=is_column, other=0.0)
    tl.store(place, sum_, mask=is_column)


@triton.jit
def _threshold(numbers, low, high, k):
    """A number that k of these reach; more than k only if several are equal to it."""
    while low < high:
        # Mean of both, rounded up, without their sum, which may overflow.
        middle = (low | high) - ((low ^ high) >> 1)
        n_reach = tl.sum((numbers >= middle).to(tl.int32))
        high = tl.where(n_reach < k, middle - 1, tl.where(n_reach == k, middle, high))
        low = tl.where(n_reach < k, low, middle)
    return low


@triton.jit
def _ranks(numbers):
    """Sum of all numbers before each, row by row."""
    of_rows = tl.sum(numbers, axis=1)
    before = tl.cumsum(of_rows, axis=0) - of_rows
    return before[:, None] + tl.cumsum(numbers, axis=1) - numbers


@triton.jit
def _largest(
    numbers,
    found,
    indices,
    n_columns,
    width,
    k,
    LOWEST: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    SIZE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = part * width
    last = tl.minimum(first + width, n_columns)
    numbers += row * n_columns
    to = (row * tl.num_programs(1) + part) * k

    column = _columns(first, COLUMNS, SIZE)
    x = tl.load(numbers + column, mask=column < last, other=LOWEST)
    # Usually no group contains two of the largest numbers.
    maxima = tl.max(x, axis=1)
    low, high = tl.full((), LOWEST, maxima.dtype), tl.max(maxima)
    low = _threshold(maxima, low, high, k)
    n_reach = tl.sum((x >= low).to(tl.int32))
    least = _threshold(x, low, tl.where(n_reach == k, low, high), k)

    n_above, n_equal = 0, tl.sum((x > least).to(tl.int32))
    # In chunks, because the data to compute their places would fill the registers.
    for start in range(0, COLUMNS, CHUNK):
        one = _columns(first + start, CHUNK, SIZE)
        number = tl.load(numbers + one, mask=one < last, other=LOWEST)
        above, equal = (number > least).to(tl.int32), (number == least).to(tl.int32)
        # Pack two small numbers into one.
        rank = _ranks(above + (equal << 16))
        rank = tl.where(above > 0, n_above + (rank & 0xFFFF), n_equal + (rank >> 16))
        chosen = (number >= least) & (one < last) & (rank < k)
        tl.store(found + to + rank, number, mask=chosen)
        tl.store(indices + to + rank, one.to(tl.int64), mask=chosen)
        n_above += tl.sum(above)
        n_equal += tl.sum(equal)


@triton.jit
def _columns(first, n_columns: tl.constexpr, SIZE: tl.constexpr):
    """Consecutive integers from `first`, (n_columns / SIZE, SIZE)."""
    group = tl.arange(0, n_columns // SIZE)
    return first + group[:, None] * SIZE + tl.arange(0, SIZE)[None, :]


@triton.jit
def _adam_rows(
    parameters,
    gradients,
    means,
    squares,
    n_steps,
    learning_rate,
    size,
    width,
    BETA: tl.constexpr,
    GAMMA: tl.constexpr,
    EPS: tl.constexpr,
    ON_SPHERE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    place = tl.program_id(0).to(tl.int64) * width + column
    there = (column < width) & (place < size)
    p = tl.load(parameters + place, mask=there, other=0.0)
    g = tl.load(gradients + place, mask=there, other=0.0)
    m = tl.load(means + place, mask=there, other=0.0)
    v = tl.load(squares + place, mask=there, other=0.0)
    if ON_SPHERE:
        g -= tl.sum(p * g) * p
    # Before Triton 3.2, literal numbers are float32.
    dtype = parameters.dtype.element_ty
    m += tl.full((), 1 - BETA, dtype) * (g - m)
    v = tl.full((), GAMMA, dtype) * v + tl.full((), 1 - GAMMA, dtype) * (g * g)
    # In float64, because 1 - gamma^t is small.
    t = tl.load(n_steps).to(tl.float64)
    mean_part = (1 - tl.exp(t * tl.log(tl.full((), BETA, tl.float64)))).to(dtype)
    square_part = (1 - tl.exp(t * tl.log(tl.full((), GAMMA, tl.float64)))).to(dtype)
    rate = tl.load(learning_rate) / mean_part
    p -= rate * m / (tl.sqrt(v / square_part) + tl.full((), EPS, dtype))
    if ON_SPHERE:
        p /= tl.sqrt(tl.sum(p * p))
    tl.store(parameters + place, p, mask=there)
    tl.store(means + place, m, mask=there)
    tl.store(squares + place, v, mask=there)
