"""Training steps of one fit that several processes share.

``python -m torch.distributed.run --standalone --nproc-per-node 2 --module
benchmarks.processes`` trains on random data in two processes, and prints the median
time of a step and the bytes that each process adds up in it.  Set ``OMP_NUM_THREADS``
to the threads of each process, and compare with ``--nproc-per-node 1``.
"""

import os
from time import perf_counter

import numpy as np

from benchmarks._results import Command
from skmfr import MFRSparseAutoencoder
from skmfr.distributed import data_parallel


def main() -> None:
    n_processes = int(os.environ.get("WORLD_SIZE", 1))
    launcher = f"torch.distributed.run --standalone --nproc-per-node {n_processes}"
    parser = Command("processes", __doc__, f"python -m {launcher} --module")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--n-features", type=int, default=768)
    parser.add_argument("--n-components", type=int, default=3072)
    parser.add_argument("--n-saes", type=int, default=3, help="and one witness")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    arguments, report = parser.parse()
    shape = 4 * arguments.batch_size, arguments.n_features
    X = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times = []
    with data_parallel() as rank:
        MFRSparseAutoencoder(
            arguments.n_components,
            n_saes=arguments.n_saes,
            n_witnesses=1,
            k=arguments.k,
            # Matching costs the same however many processes there are.
            alpha=0,
            batch_size=arguments.batch_size,
            max_steps=arguments.steps,
            callback=lambda step, info: times.append(perf_counter()),
            random_state=0,
        ).fit(X)
    n_numbers = (arguments.n_saes + 1) * 2 * arguments.n_components * shape[1]
    if rank == 0:
        # The first steps allocate.
        step = np.median(np.diff(times)[5:])
        row = {
            "processes": n_processes,
            "step, ms": 1e3 * step,
            "rows/s": arguments.batch_size / step,
            "added up in each, MiB": n_numbers * 4 / 2**20,
        }
        report([row], {"processes": n_processes}, dict.fromkeys(row, 0))


if __name__ == "__main__":
    main()
