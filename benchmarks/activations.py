"""Features of a language model's activations: their worth for the data and the model.

``python -m benchmarks.activations compare --model DIR --tokens FILE`` takes activations
of stories out of the model, trains on them ours, the paper's setting and, where they
are installed, other packages, and prints a row for each: fraction of variance
unexplained (FVU) and loss recovered on stories that are in no training batch, each with
the method's own codes, least squares on their support and orthogonal matching pursuit;
agreement, share of dead atoms, seconds.  With several ``--k`` and ``--n-components``
there is a table for each pair.  Principal components are a reference.

``compare --model smollm2 --cache DIR --text FILE --tokens FILE`` does the same for a
real model of 135M parameters at three sites.  The model comes from PyPI; it, tokens,
activations and each result are kept in the folder, so that a run that was stopped goes
on, and jobs of an earlier commit are done again.  ``--quick`` takes one site, one seed,
2,304 atoms and 300 steps.

``compare --model efficientnet --cache DIR`` does it at two depths of a network for
images, EfficientNet-Lite0 from PyPI.

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

from benchmarks import _data, _jobs
from benchmarks._methods import (
    CODINGS,
    DIGITS,
    Fitted,
    Problem,
    codings,
    fvu_by_coding,
    ours,
    over_seeds,
    paper,
    peer,
)
from benchmarks._peers import LEARNING_RATES, installed
from benchmarks._results import Command, Report, Row
from skmfr.activations import ActivationExtractor, loss_recovered
from skmfr.metrics import dead_fraction, fvu

# Number of held-out windows of 256 tokens.
N_HELD_OUT = 100
N_STEPS = 1500
BATCH_SIZE = 2048
# The MLP's output, and its hidden units after the activation function.
LAYERS = ("model.layers.2.mlp", "model.layers.2.mlp.act_fn")
# The last one is in the last layer, after which nothing has to be computed.
TIMED_LAYERS = (*LAYERS, "model.layers.4.mlp")
# Components of the second reference, beside as many as there are active atoms.
N_REFERENCE = 32
# Windows of tokens, a million in all, and how often each way is timed.
N_TIMED = 3906
N_REPEATS = 5
N_SEEDS = 5


def methods() -> Iterator[tuple[str, Callable[[Problem, int], Fitted]]]:
    for learning_rate in (1e-2, 1e-3):
        yield f"paper, lr={learning_rate:g}", paper(learning_rate=learning_rate)
    yield "ours, alpha=0", ours(alpha=0.0)
    yield "ours, default", ours()
    yield "ours, batchtopk", ours(activation="batchtopk")
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
    row = dict(zip(CODINGS, by_coding.values(), strict=True))
    for name, reconstruct in codings(sae, problem.k).items():
        row[f"recovered, {name}"] = recovered(reconstruct)
    row["agreement"] = np.nan if agreement is None else float(agreement.mean())
    row["dead"] = dead_fraction(sae.encode(problem.X[:50_000]))
    row["seconds"] = sae.seconds
    return row


def reference(
    problem: Problem, n_components: int, recovered: Callable[[Callable], float]
) -> dict[str, float]:
    """The same cells for so many principal components, which are not a sparse code."""
    pca = PCA(n_components).fit(problem.X)

    def reconstruct(X: np.ndarray) -> np.ndarray:
        return pca.inverse_transform(pca.transform(X))

    return {
        "FVU": fvu(problem.X_test, reconstruct(problem.X_test)),
        **dict.fromkeys(CODINGS[1:], np.nan),
        "recovered, encoder": recovered(reconstruct),
        "recovered, lstsq": np.nan,
        "recovered, omp": np.nan,
        "recovered, omp, not negative": np.nan,
        "agreement": np.nan,
        "dead": np.nan,
        "seconds": np.nan,
    }


# Models that a cache folder keeps.
REAL = {"smollm2": _jobs.compare, "efficientnet": _jobs.compare_on_images}


def compare(arguments: argparse.Namespace, report: Report) -> None:
    if str(arguments.model) in REAL:
        REAL[str(arguments.model)](arguments, report)
        return
    model = AutoModelForCausalLM.from_pretrained(arguments.model)
    windows, held_out = _data.story_windows(arguments.tokens, N_HELD_OUT)
    n_seeds = arguments.seeds or N_SEEDS
    for layer in arguments.layers or LAYERS:
        X, X_test = (
            _data.activations(model, layer, part) for part in (windows, held_out)
        )

        def recovered(reconstruct: Callable, layer=layer) -> float:
            return loss_recovered(model, layer, reconstruct, held_out)

        for n_components in arguments.n_components:
            for k in arguments.k:
                problem = Problem(X, X_test, None, n_components, k, N_STEPS, BATCH_SIZE)
                rows = compared(problem, recovered, n_seeds, arguments.only)
                report(
                    rows,
                    {
                        "what": "compare",
                        "layers": layer,
                        "n_components": n_components,
                        "k": k,
                    },
                    DIGITS,
                    seeds=list(range(n_seeds)),
                )


def compared(
    problem: Problem, recovered: Callable[[Callable], float], n_seeds: int, only: str
) -> Iterator[Row]:
    for name, fit in methods():
        if re.search(only, name):
            yield over_seeds(
                name,
                [measure(problem, fit(problem, i), recovered) for i in range(n_seeds)],
            )
    for n_components in (problem.k, N_REFERENCE):
        row = reference(problem, n_components, recovered)
        yield {"method": f"PCA, {n_components} components"} | row


def extraction(arguments: argparse.Namespace, report: Report) -> None:
    report(
        timed(arguments),
        {"what": "extraction"},
        {"bare passes, s": 1, "extraction, s": 1, "ratio": 2},
    )


def timed(arguments: argparse.Namespace) -> Iterator[Row]:
    """Seconds for a million tokens, the two ways in turn."""
    model = AutoModelForCausalLM.from_pretrained(arguments.model).eval()
    windows = _data.story_windows(arguments.tokens, N_HELD_OUT)[0][:N_TIMED]
    for layer in arguments.layers or TIMED_LAYERS:
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
        yield {
            "layer": layer,
            "bare passes, s": median(bare),
            "extraction, s": median(extracting),
            "ratio": median(np.divide(extracting, bare)),
        }


def main() -> None:
    parser = Command("activations", __doc__)
    parser.add_argument("what", choices=["compare", "extraction"])
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="or smollm2, or efficientnet",
    )
    parser.add_argument("--tokens", type=Path, metavar="FILE", help=".npy")
    parser.add_argument("--text", type=Path, metavar="FILE", help=".txt.gz")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="for these two")
    parser.add_argument("--quick", action="store_true", help="for smollm2")
    parser.add_argument("--layers", nargs="+", help="instead of the usual ones")
    parser.add_argument("--k", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--n-components", nargs="+", type=int, default=[256, 512, 2048])
    parser.add_argument("--seeds", type=int, help="instead of the usual number")
    parser.add_argument("--only", default="", help="regex of names of rows to make")
    arguments, report = parser.parse()
    if str(arguments.model) in REAL and arguments.cache is None:
        parser.error(f"--model {arguments.model} needs --cache, a folder to keep it in")
    {"compare": compare, "extraction": extraction}[arguments.what](arguments, report)


if __name__ == "__main__":
    main()
