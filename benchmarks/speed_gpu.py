"""How fast training is on a GPU, beside sparsify's and beside what the GPU can do.

``python -m benchmarks.speed_gpu`` takes training steps of ours and, where it is
installed, of sparsify with its Triton kernels, on random data that come from the host
batch by batch.  Steps are timed by events on the GPU, so that nobody waits for it.

The limit of the GPU is measured in the same run, right after the steps: products of the
samples and one encoder, in bfloat16 and in TF32, and a copy in memory.  *Products* is
the share of a step that these products would take for all SAEs that it trains; nothing
else counts as useful arithmetic.  *Memory* is the share that it would take to copy what
every step needs: parameters and moments, read and written by Adam, gradients and
scores, written and read.  Rows that are gathered are not counted: the cache may have
them.

``--device cpu --size 64 16 64 4`` tries the script without a GPU.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import _peers, speed
from benchmarks._results import Command, Row
from benchmarks.speed import (
    Clock,
    Contender,
    Size,
    TurnIsOver,
    add_choices,
    take_a_turn,
)
from skmfr._kernels import backend

N_SAES = 3
# Number of first steps that do not count: they compile kernels and allocate moments.
N_WARM = 20
# Size of the array that is copied, larger than any cache.
COPIED_BYTES = 1 << 28

SIZES = (
    Size(2048, 768, 3072, 32),
    Size(4096, 768, 12288, 32),
    Size(8192, 768, 24576, 32),
)
DIGITS = {
    "step, ms": 2,
    "rows/s": 0,
    "rows/s x SAEs": 0,
    "products": 2,
    "memory": 2,
    "product, TFLOP/s": 1,
    "copy, GB/s": 0,
}
# Type of the scores, by the name of the arithmetic.
DTYPES = {"bfloat16": torch.bfloat16, "TF32": torch.float32}


class Timeline(Clock):
    """Marks on the clock of the device where steps begin."""

    n_steps = 80  # resampling begins at 100

    def __init__(self, device: str):
        self.device = device

    def start(self) -> None:
        self.marks = [self.now()]

    def tick(self) -> None:
        self.marks.append(self.now())
        if len(self.marks) > self.n_steps:
            raise TurnIsOver

    def now(self) -> float | torch.cuda.Event:
        if self.device == "cpu":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """Of a step, the median."""
        marks = self.marks[N_WARM:]
        if self.device != "cpu":
            torch.cuda.synchronize()
            marks = [marks[0].elapsed_time(mark) / 1e3 for mark in marks]
        return float(np.median(np.diff(marks)))


class Entry(NamedTuple):
    arithmetic: str
    """of its products, a name in DTYPES"""
    contender: Contender


def entries(device: str) -> dict[str, Entry]:
    """All that can be compared here, by name."""
    found = {}
    for arithmetic, precision in [("TF32", "float32"), ("bfloat16", "bfloat16")]:
        for alpha in (0.0, 1.0):
            step = partial(
                speed.ours,
                n_saes=N_SAES,
                alpha=alpha,
                n_witnesses=0,
                precision=precision,
                device=device,
            )
            found[f"ours, {N_SAES} SAE, alpha={alpha:g}, {arithmetic}"] = Entry(
                arithmetic, Contender(step, N_SAES, N_SAES)
            )
    if "sparsify" in _peers.installed():
        step = partial(speed.peer, name="sparsify", device=device)
        found["sparsify, bfloat16"] = Entry("bfloat16", Contender(step, 1, 1))
    return found


@contextmanager
def tf32() -> Iterator[None]:
    """Allow products of float32 to be made in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Times of a piece of work that is repeated."""
    clock = Timeline(device)
    clock.start()
    try:
        while True:
            work()
            clock.tick()
    except TurnIsOver:
        return clock.seconds()


def product_seconds(size: Size, arithmetic: str, device: str) -> float:
    """Of the samples with one encoder."""
    dtype = DTYPES[arithmetic]
    samples = torch.randn(size.batch_size, size.n_features, device=device, dtype=dtype)
    encoder = torch.randn(
        size.n_components, size.n_features, device=device, dtype=dtype
    )
    scores = samples.new_empty(size.batch_size, size.n_components)
    return seconds_of(lambda: torch.mm(samples, encoder.T, out=scores), device)


def bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes."""
    numbers = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    copy = torch.empty_like(numbers)
    return 2 * COPIED_BYTES / seconds_of(lambda: copy.copy_(numbers), device)


def bytes_needed(size: Size, arithmetic: str) -> int:
    """Bytes that a step of one SAE reads and writes at the least."""
    batch_size, n_features, n_components, _ = size
    n_parameters = (2 * n_components + 1) * n_features + n_components
    scores = batch_size * n_components * DTYPES[arithmetic].itemsize
    # The parameter and two moments, read and written; gradient and scores, the reverse.
    return 8 * 4 * n_parameters + 2 * scores


def compare(size: Size, only: str, device: str) -> Iterator[Row]:
    for name, (arithmetic, contender) in entries(device).items():
        if not re.search(only, name):
            continue
        clock = Timeline(device)
        take_a_turn(contender, size, clock)
        step = clock.seconds()
        product, rate = product_seconds(size, arithmetic, device), bandwidth(device)
        n_flops = 2 * size.batch_size * size.n_features * size.n_components
        needed = contender.n_products * bytes_needed(size, arithmetic)
        yield {
            "trains": name,
            "step, ms": 1e3 * step,
            "rows/s": size.batch_size / step,
            "rows/s x SAEs": contender.n_saes * size.batch_size / step,
            "products": contender.n_products * product / step,
            "memory": needed / rate / step,
            "product, TFLOP/s": n_flops / product / 1e12,
            "copy, GB/s": rate / 1e9,
        }


def main() -> None:
    parser = Command("speed_gpu", __doc__)
    parser.add_argument("--device", default="cuda")
    add_choices(parser)
    arguments, report = parser.parse()
    device = arguments.device
    more = {
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(device),
        "kernels": backend(torch.empty(0, device=device).device).__name__,
    }
    sizes = [Size(*arguments.size)] if arguments.size else SIZES
    with tf32():
        for size in sizes:
            rows = compare(size, arguments.only, device)
            report(rows, {"size": "-".join(map(str, size))}, DIGITS, **more)


if __name__ == "__main__":
    main()
