"""How kernels in Numba are compiled and called, in one thread or several.

The first fit on a machine waits for the compiler.  Loops take little of that time.
Most goes to code that reads Python's arguments, up to eight arrays for each kernel, and
to ``parallel=True``, which compiles the loops once more.  So kernels get two integers,
the number of a part of the rows and the address of a table of arrays, and one function
calls any kernel for all parts.

They read and write through pointers to rows.  Numba's arrays have strides, an owner and
indices from the end; to translate these took three tenths of the time.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from torch import Tensor

# Types of numbers that kernels are compiled for.
NUMPY = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
}


def compiled(wrap: Callable = numba.njit, **options) -> Callable:
    """Decorator that compiles a function, cached for all processes if possible."""

    def decorate(function: Callable) -> Callable:
        try:
            return wrap(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder to store it in
            return wrap(nogil=True, **options)(function)

    return decorate


# Without the wrappers that calls from Python need, which take long to compile.  Stored
# with the kernels that call them.
inner = partial(numba.njit, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def kernel(**options) -> Callable:
    """Decorator of functions that take a type of numbers and return a kernel.

    Kernels return nothing, and raise nothing.
    """
    entry = partial(numba.cfunc, types.void(types.intp, types.intp))

    def decorate(make: Callable) -> Callable:
        @cache
        def of_type(dtype: type):
            return compiled(entry, **options)(make(dtype))

        return of_type

    return decorate


def _entry(context, builder, table, array, j):
    """Of an array of the table: the address (j=0) or the number of columns (j=1)."""
    word = context.get_value_type(types.intp)
    place = builder.add(builder.mul(array, word(2)), word(j))
    start = builder.inttoptr(table, word.as_pointer())
    return builder.load(builder.gep(start, [place]))


def _row(typing, table, array, i, dtype):
    """Row i of an array of the table, as a pointer to its first number."""
    pointer = types.CPointer(dtype.dtype)

    def build(context, builder, signature, arguments):
        table, array, i, _ = arguments
        address, n_columns = (
            _entry(context, builder, table, array, j) for j in range(2)
        )
        first = builder.inttoptr(address, context.get_value_type(pointer))
        return builder.gep(first, [builder.mul(i, n_columns)])

    return pointer(types.intp, types.intp, types.intp, dtype), build


def _width(typing, table, array):
    """Number of columns that an array of the table has."""

    def build(context, builder, signature, arguments):
        table, array = arguments
        return _entry(context, builder, table, array, 1)

    return types.intp(types.intp, types.intp), build


def _after(typing, pointer, n):
    """Pointer to what comes n numbers after another."""

    def build(context, builder, signature, arguments):
        pointer, n = arguments
        return builder.gep(pointer, [n])

    return pointer(pointer, types.intp), build


row: Callable = intrinsic(_row)
width: Callable = intrinsic(_width)
after: Callable = intrinsic(_after)


@inner(forceinline=True)
def four_rows(X, n_columns, rows, e):
    """Pointers to four rows of X, with the numbers rows[e], rows[e + 1], ..."""
    return (
        after(X, rows[e] * n_columns),
        after(X, rows[e + 1] * n_columns),
        after(X, rows[e + 2] * n_columns),
        after(X, rows[e + 3] * n_columns),
    )


def call(
    of_type: Callable,
    bounds: Sequence[int],
    numbers: Sequence[Tensor],
    integers: Sequence[Tensor | Sequence[int]],
    exact: Sequence[Tensor | Sequence[float]] = (),
    short: Sequence[Tensor] = (),
) -> None:
    """Call a kernel for all parts of the rows.

    Its table has the bounds, the numbers, the integers, the exact and the short ones.

    Parameters
    ----------
    of_type : callable
        A function with the decorator `kernel`.
    bounds : sequence of n_parts + 1 int
        Of each part, the first row and the one after the last.
    numbers, integers, exact, short : sequences of contiguous tensors
        Of 1 or 2 dimensions; of one type, int64, float64, and int16.  Short lists serve
        as well as tensors.
    """
    dtype, given = numbers[0].dtype, (bounds, *numbers, *integers, *exact, *short)
    types_of = [
        torch.int64,
        *[dtype] * len(numbers),
        *[torch.int64] * len(integers),
        *[torch.float64] * len(exact),
        *[torch.int16] * len(short),
    ]
    arrays = [
        each if isinstance(each, Tensor) else torch.tensor(each, dtype=right)
        for each, right in zip(given, types_of, strict=True)
    ]
    for place, (array, right) in enumerate(zip(arrays, types_of, strict=True)):
        # A kernel would read and write elsewhere.
        if array.dtype != right or not array.is_contiguous():
            raise TypeError(f"array {place} is not contiguous, or not of {right}")
    cells = [cell for each in arrays for cell in (each.data_ptr(), each.shape[-1])]
    table = np.array(cells, np.intp)
    compiled_kernel = of_type(NUMPY[dtype])
    if len(bounds) == 2:
        compiled_kernel.ctypes(0, table.ctypes.data)
    else:
        n_parts = len(bounds) - 1
        _call_parts().ctypes(compiled_kernel.address, n_parts, table.ctypes.data)


def _call_at(typing, address, part, table):
    """Call the kernel at an address."""

    def build(context, builder, signature, arguments):
        address, *arguments = arguments
        words = [argument.type for argument in arguments]
        kernel = ir.FunctionType(ir.VoidType(), words).as_pointer()
        builder.call(builder.inttoptr(address, kernel), arguments)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), build


call_at: Callable = intrinsic(_call_at)


@cache
def _call_parts():
    # Called through an address, like kernels: to read a function of Python's takes as
    # long to compile as the parallel loop.
    def call_parts(kernel, n_parts, table):
        for part in prange(n_parts):
            call_at(kernel, np.intp(part), table)  # prange counts without signs

    entry = partial(numba.cfunc, types.void(types.intp, types.intp, types.intp))
    return compiled(entry, parallel=True)(call_parts)
