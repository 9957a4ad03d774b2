"""What the default estimator makes of real data.

``python -m benchmarks.real_data --eeg DIR --model DIR --tokens FILE`` fits digits, EEG
windows and activations of a language model (each where its data are given), and prints
for held-out samples: FVU of codes from the encoder, from least squares on its support
and from orthogonal matching pursuit; and of the fit: mean agreement with the witness
and its null level, atoms to trust, dead atoms, seconds.  ``--alpha`` takes several
values to compare.
"""

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks._data import activations, digits, eeg_windows
from skmfr import MFRSparseAutoencoder
from skmfr.metrics import dead_fraction

COLUMNS = (
    "data", "alpha", "encoder", "lstsq", "omp", "agreement", "null", "trusted", "dead",
    "seconds",
)  # fmt: skip


def row(name: str, X: np.ndarray, X_test: np.ndarray, **parameters) -> list[str]:
    """Fit on X, measure on X_test."""
    sae = MFRSparseAutoencoder(random_state=0, **parameters)
    began = perf_counter()
    sae.fit(X)
    seconds = perf_counter() - began
    fvu = [
        1 - sae.set_params(transform_algorithm=algorithm).score(X_test)
        for algorithm in ("encoder", "lstsq", "omp")
    ]
    sae.set_params(transform_algorithm="encoder", sparse_output=True)
    return [
        name,
        f"{sae.alpha:g}",
        *(f"{value:.4f}" for value in fvu),
        f"{sae.feature_agreement_.mean():.3f}",
        f"{sae.agreement_null_:.3f}",
        f"{sae.trusted_.sum()}/{len(sae.trusted_)}",
        # In all data: few test samples miss many rare atoms.
        f"{dead_fraction(sae.transform(X)):.3f}",
        f"{seconds:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eeg", type=Path, help="folder of EDF files")
    parser.add_argument("--model", type=Path, help="folder of a language model")
    parser.add_argument("--tokens", type=Path, help="token ids for it, .npy")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--n-witnesses", type=int, default=1)
    arguments = parser.parse_args()

    print(" ".join(f"{column:>9}" for column in COLUMNS))
    # Time series are split in time, images at random.
    X = np.random.default_rng(0).permutation(digits())
    data = [("digits", X, 1500, {"n_components": 256, "k": 8})]
    if arguments.eeg:
        X = eeg_windows(arguments.eeg)
        data.append(("EEG", X, int(0.9 * len(X)), {"n_components": 512, "k": 6}))
    if arguments.model and arguments.tokens:
        X = activations(arguments.model, arguments.tokens)
        parameters = {
            "n_components": 512, "k": 8, "batch_size": 2048, "max_steps": 1500
        }  # fmt: skip
        data.append(("activations", X, len(X) - 20_000, parameters))
    for name, X, n_train, parameters in data:
        for alpha in arguments.alpha:
            cells = row(
                name,
                X[:n_train],
                X[n_train:],
                alpha=alpha,
                n_witnesses=arguments.n_witnesses,
                **parameters,
            )
            print(" ".join(f"{cell:>9}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
