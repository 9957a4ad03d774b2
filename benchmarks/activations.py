"""Features of a language model's activations: what they reconstruct, and for whom.

``python -m benchmarks.activations compare --model DIR --tokens FILE`` takes activations
of stories out of the model, trains on them ours, the paper's setting and, where they
are installed, other packages, and prints a row for each: fraction of variance
unexplained (FVU) and loss recovered on stories that are in no training batch, each with
the method's own codes, least squares on their support and orthogonal matching pursuit;
agreement, share of dead atoms, seconds.  With several ``--k`` and ``--n-components``
there is a table for each pair.  Principal components stand beside, as a reference.

``extraction`` times taking the activations out against the bare forward passes.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from sklearn.decomposition import PCA
from transformers import AutoModelForCausalLM

from benchmarks import _data
from benchmarks._methods import (
    Fitted,
    Problem,
    codings,
    fvu_by_coding,
    ours,
    paper,
    peer,
    print_row,
)
from benchmarks._peers import LEARNING_RATES, installed
from skmfr.activations import ActivationExtractor, loss_recovered
from skmfr.metrics import dead_fraction, fvu

# Windows of 256 tokens, of stories held out.
N_HELD_OUT = 100
N_STEPS = 1500
BATCH_SIZE = 2048
# The MLP's output, and its hidden units after the activation function.
LAYERS = ("model.layers.2.mlp", "model.layers.2.mlp.act_fn")
# Components of the second reference, beside as many as there are active atoms.
N_REFERENCE = 32
# Windows of tokens, a million in all, and how often each way is timed.
N_TIMED = 3906
N_REPEATS = 5


def methods() -> Iterator[tuple[str, Callable[[Problem, int], Fitted]]]:
    for learning_rate in (1e-2, 1e-3):
        yield f"paper, lr={learning_rate:g}", paper(learning_rate=learning_rate)
    yield "ours, alpha=0", ours(alpha=0.0)
    yield "ours, default", ours()
    # Chosen for these data, as is the learning rate of the other packages.
    yield "ours, lr=0.02", ours(learning_rate=0.02)
    yield "ours, for OMP", ours(transform_algorithm="omp")
    for name in installed():
        # On activations, the second of the two does better.
        learning_rate = LEARNING_RATES[name][-1]
        yield f"{name}, lr={learning_rate:g}", peer(name, learning_rate)


def measure(
    problem: Problem, fitted: Fitted, recovered: Callable[[Callable], float]
) -> dict[str, float]:
    """A cell for each column."""
    sae, agreement = fitted
    by_coding = fvu_by_coding(problem.X_test, sae, problem.k)
    row = dict(zip(("FVU", "lstsq", "OMP"), by_coding.values(), strict=True))
    for name, reconstruct in codings(sae, problem.k).items():
        row[f"recovered, {name}"] = recovered(reconstruct)
    row["agreement"] = np.nan if agreement is None else float(agreement.mean())
    row["dead"] = dead_fraction(sae.encode(problem.X[:50_000]))
    row["seconds"] = sae.seconds
    return row


def reference(
    problem: Problem, n_components: int, recovered: Callable[[Callable], float]
) -> dict[str, float]:
    """The same cells for so many principal components, which are no sparse code."""
    pca = PCA(n_components).fit(problem.X)

    def reconstruct(X: np.ndarray) -> np.ndarray:
        return pca.inverse_transform(pca.transform(X))

    return {
        "FVU": fvu(problem.X_test, reconstruct(problem.X_test)),
        "lstsq": np.nan,
        "OMP": np.nan,
        "recovered, encoder": recovered(reconstruct),
        "recovered, lstsq": np.nan,
        "recovered, omp": np.nan,
        "agreement": np.nan,
        "dead": np.nan,
        "seconds": np.nan,
    }


def compare(arguments: argparse.Namespace) -> None:
    model = AutoModelForCausalLM.from_pretrained(arguments.model)
    windows, held_out = _data.story_windows(arguments.tokens, N_HELD_OUT)
    for layer in arguments.layers:
        X, X_test = (
            _data.activations(model, layer, part) for part in (windows, held_out)
        )

        def recovered(reconstruct: Callable, layer=layer) -> float:
            return loss_recovered(model, layer, reconstruct, held_out)

        for n_components in arguments.n_components:
            for k in arguments.k:
                problem = Problem(X, X_test, None, n_components, k, N_STEPS, BATCH_SIZE)
                print(f"\n{layer}, {n_components} atoms, k={k}\n")
                table(problem, recovered, arguments.seeds, arguments.only)


def table(
    problem: Problem, recovered: Callable[[Callable], float], n_seeds: int, only: str
) -> None:
    chosen = [each for each in methods() if re.search(only, each[0])]
    for number, (name, fit) in enumerate(chosen):
        rows = [
            measure(problem, fit(problem, seed), recovered) for seed in range(n_seeds)
        ]
        print_row(name, rows, header=number == 0)
    for n_components in (problem.k, N_REFERENCE):
        row = reference(problem, n_components, recovered)
        print_row(f"PCA, {n_components} components", [row], header=False)


def extraction(arguments: argparse.Namespace) -> None:
    """Seconds for a million tokens, the two ways in turn."""
    model = AutoModelForCausalLM.from_pretrained(arguments.model).eval()
    windows = _data.story_windows(arguments.tokens, N_HELD_OUT)[0][:N_TIMED]
    print("| layer | bare passes, s | extraction, s | ratio |")
    print("|---|---|---|---|")
    for layer in arguments.layers:
        extractor = ActivationExtractor(model, layer, positions="all", batch_size=64)
        bare, extracting = [], []
        for _ in range(N_REPEATS):
            began = perf_counter()
            with torch.no_grad():
                for batch in np.array_split(windows, len(windows) // 64):
                    model(torch.from_numpy(batch.astype(np.int64)), use_cache=False)
            middle = perf_counter()
            extractor.transform(windows)
            bare.append(middle - began)
            extracting.append(perf_counter() - middle)
        cells = median(bare), median(extracting), median(np.divide(extracting, bare))
        row = " | ".join(f"{cell:.2f}" for cell in cells)
        print(f"| {layer} | {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["compare", "extraction"])
    parser.add_argument("--model", type=Path, required=True, help="folder")
    parser.add_argument("--tokens", type=Path, required=True, help=".npy file")
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--k", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--n-components", nargs="+", type=int, default=[256, 512, 2048])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="regex of names of rows to make")
    arguments = parser.parse_args()
    {"compare": compare, "extraction": extraction}[arguments.what](arguments)


if __name__ == "__main__":
    main()
