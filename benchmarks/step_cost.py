"""Cost of a training step, as a multiple of the encoder products alone.

``python -m benchmarks.step_cost`` trains on random data at two sizes, or at that of
``--size BATCH FEATURES ATOMS K SAES``.  After each step it times the bare products
X E^T of all SAEs, witness included, so that both are measured interleaved under the
same load.  Ratios are what counts; times are of this machine, now.  ``mean`` includes
the steps that match the dictionaries anew, which the median does not show.
"""

import argparse
from time import perf_counter

import numpy as np
import torch

from skmfr._batches import Batches, Standardiser
from skmfr._schedule import Plateau, Schedule
from skmfr._state import Settings, new_state, untrained
from skmfr._training import train

SIZES = [(1024, 256, 1024, 16, 3), (2048, 768, 3072, 32, 3)]


def step_cost(
    batch_size: int,
    n_features: int,
    n_components: int,
    k: int,
    n_saes: int,
    n_steps: int,
    alpha: float = 1.0,
    n_witnesses: int = 1,
    precision: str = "float32",
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each step, and of the encoder products after it."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8 * batch_size, n_features)).astype(np.float32)
    settings = Settings(
        n_components=n_components,
        n_saes=n_saes,
        n_witnesses=n_witnesses,
        k=k,
        alpha=alpha,
        matching="hungarian",
        tied=False,
        learning_rate=1e-3,
        reinit_threshold=None,
        reinit_every=None,
        resample_every=100,
        seed=0,
        device="cpu",
        dtype=torch.float32,
        low_precision=precision == "bfloat16",
        for_pursuit=False,
    )
    standardiser = Standardiser.of(X)
    batches = Batches(X, np.arange(len(X)), batch_size, shuffle=True, seed=0)
    state = new_state(untrained(batches, standardiser, settings), settings)
    # The dearest case: no annealing, the penalty on at each step, every atom pulled.
    state.begin(Schedule.constant(n_steps), Plateau())
    state.matches.least_cosine = -2.0
    sample = torch.from_numpy(batches[0])
    scores = torch.empty(batch_size, n_components)
    steps, products = [], []

    def measure(state) -> bool:
        nonlocal began
        steps.append(perf_counter() - began)
        began = perf_counter()
        for encoder in state.ensemble.encoder:
            torch.mm(sample, encoder.T, out=scores)
        products.append(perf_counter() - began)
        began = perf_counter()
        return False

    began = perf_counter()
    train(state, batches, standardiser, settings, after_step=measure)
    # The first steps fill caches and allocate.
    return np.array(steps[5:]), np.array(products[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150, help="steps per size")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--size", type=int, nargs=5, help="instead of the usual ones")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        f"{'batch':>6} {'d':>5} {'m':>6} {'k':>4} {'SAEs':>5} {'alpha':>6}"
        f" {'products':>9} {'step':>9} {'median':>7} {'mean':>6}  rows/s"
    )
    for size in [arguments.size] if arguments.size else SIZES:
        for alpha in (0.0, 1.0):
            steps, products = step_cost(
                *size,
                n_steps=arguments.steps,
                alpha=alpha,
                precision=arguments.precision,
            )
            batch_size, n_features, n_components, k, n_saes = size
            base = np.median(products)
            print(
                f"{batch_size:6d} {n_features:5d} {n_components:6d} {k:4d}"
                f" {n_saes:3d}+1 {alpha:6.2f} {base * 1e3:6.1f} ms"
                f" {np.median(steps) * 1e3:6.1f} ms"
                f" {np.median(steps) / base:7.2f} {steps.mean() / base:6.2f}"
                f"  {batch_size / steps.mean():.0f}"
            )


if __name__ == "__main__":
    main()
