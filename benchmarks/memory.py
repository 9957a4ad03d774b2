"""Private memory of a fit on data that are larger.

``python -m benchmarks.memory --gigabytes 4`` writes a float32 array of that size to a
temporary file, fits it as a memmap, and prints the largest RssAnon seen (private
memory; pages of the mapped file do not count, for the system drops them at will).
``--n-features 768 --n-components 24576 --n-saes 1 --k 32 --max-steps 20`` is the size
of an SAE for GPT-2 Small.  Linux only.
"""

import argparse
import tempfile
import threading
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from skmfr import MFRSparseAutoencoder


def private_bytes() -> int:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status: this needs Linux")


class PeakMemory(threading.Thread):
    """Samples private memory every 10 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0
        self.running = True

    def run(self) -> None:
        while self.running:
            self.peak = max(self.peak, private_bytes())
            sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--n-features", type=int, default=256)
    parser.add_argument("--n-components", type=int, help="four times the features")
    parser.add_argument("--n-saes", type=int, default=3, help="and one witness")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--max-steps", type=int, default=200)
    arguments = parser.parse_args()
    n_samples = int(arguments.gigabytes * 2**30 / 4 / arguments.n_features)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        X = np.lib.format.open_memmap(
            path, "w+", np.float32, (n_samples, arguments.n_features)
        )
        rng = np.random.default_rng(0)
        for block in np.array_split(np.arange(n_samples), 64):
            X[block] = rng.standard_normal((len(block), X.shape[1]), dtype=np.float32)
        X.flush()
        del X, block

        mapped = np.load(path, mmap_mode="r")
        before = private_bytes()
        memory = PeakMemory()
        memory.start()
        began = perf_counter()
        MFRSparseAutoencoder(
            arguments.n_components,
            n_saes=arguments.n_saes,
            k=arguments.k,
            max_steps=arguments.max_steps,
            random_state=0,
        ).fit(mapped)
        seconds = perf_counter() - began
        memory.running = False
        memory.join()
        print(
            f"{mapped.nbytes / 2**30:.1f} GiB of data: RssAnon "
            f"{before / 2**30:.2f} GiB before, {memory.peak / 2**30:.2f} GiB at most; "
            f"{seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
