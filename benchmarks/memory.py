"""Private memory of a fit on data that are larger.

``python -m benchmarks.memory --gigabytes 4`` writes float32 data of that size to a
temporary folder, fits them as a memmap, and prints the largest RssAnon seen (private
memory; pages of the mapped file do not count, for the system drops them at will).
``--storage shards`` writes files of 256 MB, ``--storage zarr`` chunks of 16 MB; several
sizes, such as ``--gigabytes 1 2 4``, show the growth, each in a new process.
``--n-features 768 --n-components 24576 --n-saes 1 --k 32 --max-steps 20`` is the size
of an SAE for GPT-2 Small.  Linux only.
"""

import argparse
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from benchmarks._results import Command, Row
from skmfr import MFRSparseAutoencoder

SHARD_BYTES = 1 << 28
CHUNK_BYTES = 1 << 24


def private_bytes() -> int:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status: this needs Linux")


class PeakMemory(threading.Thread):
    """Samples private memory every 10 ms, in a block."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.peak = private_bytes()
        self.running = True

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *error) -> None:
        self.running = False
        self.join()

    def run(self) -> None:
        while self.running:
            self.peak = max(self.peak, private_bytes())
            sleep(0.01)


def in_own_process(function: Callable, *arguments):
    """The result of a function, in a new process that does nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def written(folder: Path, storage: str, n_samples: int, n_features: int):
    """Random data of this shape on disk, as they are given to `fit`."""
    rng = np.random.default_rng(0)
    rows_per_shard = SHARD_BYTES // (4 * n_features)
    starts = range(0, n_samples, rows_per_shard)
    shape = n_samples, n_features
    paths = []
    if storage == "memmap":
        X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, shape)
    elif storage == "zarr":
        import zarr

        chunks = CHUNK_BYTES // (4 * n_features), n_features
        X = zarr.create_array(folder / "X.zarr", shape=shape, chunks=chunks, dtype="f4")
    for start in starts:
        n_rows = min(rows_per_shard, n_samples - start)
        rows = rng.standard_normal((n_rows, n_features), dtype=np.float32)
        if storage == "shards":
            paths.append(folder / f"{start:012d}.npy")
            np.save(paths[-1], rows)
        else:
            X[start : start + n_rows] = rows
    if storage == "memmap":
        X.flush()
        return np.load(folder / "X.npy", mmap_mode="r")
    return paths or X


def measure(gigabytes: float, arguments: argparse.Namespace) -> Row:
    """Fit data of this size, and say what it took."""
    n_samples = int(gigabytes * 2**30 / 4 / arguments.n_features)
    with tempfile.TemporaryDirectory() as folder:
        X = written(Path(folder), arguments.storage, n_samples, arguments.n_features)
        with PeakMemory() as memory:
            began = perf_counter()
            MFRSparseAutoencoder(
                arguments.n_components,
                n_saes=arguments.n_saes,
                n_witnesses=1,
                k=arguments.k,
                max_steps=arguments.max_steps,
                random_state=0,
            ).fit(X)
            seconds = perf_counter() - began
    return {
        "data, GiB": gigabytes,
        "before, GiB": memory.before / 2**30,
        "at most, GiB": memory.peak / 2**30,
        "seconds": seconds,
    }


def main() -> None:
    parser = Command("memory", __doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[4.0])
    parser.add_argument(
        "--storage", choices=["memmap", "shards", "zarr"], default="memmap"
    )
    parser.add_argument("--n-features", type=int, default=256)
    parser.add_argument("--n-components", type=int, help="four times the features")
    parser.add_argument("--n-saes", type=int, default=3, help="and one witness")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--max-steps", type=int, default=200)
    arguments, report = parser.parse()
    rows = (
        in_own_process(measure, gigabytes, arguments)
        for gigabytes in arguments.gigabytes
    )
    digits = {"data, GiB": None, "before, GiB": 2, "at most, GiB": 2, "seconds": 0}
    report(rows, {"storage": arguments.storage}, digits)


if __name__ == "__main__":
    main()
