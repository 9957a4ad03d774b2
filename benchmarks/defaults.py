"""Why the defaults of training are what they are, on data of several sizes.

``python -m benchmarks.defaults --data superposition mfr-synthetic digits`` fits one SAE
and a witness with the settings as they are, with those of before, and with each changed
alone; a table for each of the data, with FVU of held-out rows by the encoder, agreement
with the witness, the share of atoms above a cosine of .8, recall where features are
known, and the share of dead atoms.  Data that need a path:
``activations`` (``--model``, ``--tokens``), ``eeg`` (``--eeg``) and ``rows``
(``--rows FILE``, any ``.npy`` file of samples, such as activations of SmolLM2).

With ``--n-rows 1000`` fits see the first thousand rows alone, and the table is of how
many epochs they take.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from benchmarks import recovery
from benchmarks._methods import Problem, estimator, in_columns
from benchmarks._results import Command, Row
from skmfr._training.initial import initial_atoms
from skmfr._training.schedule import ENCODER_PENALTY
from skmfr._training.settings import auto_learning_rate
from skmfr.metrics import dead_fraction, recall_precision

ALIKE = 0.8
N_SHOWN = 20_000
TRAINING = "skmfr._training"
ALONE = {"n_saes": 1, "n_witnesses": 1}
DIGITS = {"FVU": 4, "agreement": 3, "above .8": 3, "recall": 3, "dead": 3, "steps": 0}


def former_learning_rate(problem: Problem) -> dict[str, object]:
    return {"learning_rate": 0.12 / problem.X.shape[1] ** 0.5}


def common_learning_rate(problem: Problem) -> dict[str, object]:
    """The one rate of before for atoms, encoders and biases."""
    return {"learning_rate": 0.047 / problem.X.shape[1] ** 0.25}


def times(factor: float) -> Callable[[Problem], dict[str, object]]:
    """The default learning rate times a factor."""

    def changed(problem: Problem) -> dict[str, object]:
        return {"learning_rate": factor * auto_learning_rate(problem.X.shape[1], False)}

    return changed


def smaller_batches(problem: Problem) -> dict[str, object]:
    """Half as many samples in a step, twice as many steps, of a lower learning rate."""
    return times(0.5**0.5)(problem) | {
        "batch_size": problem.batch_size // 2,
        "max_steps": 2 * problem.n_steps,
    }


def same(problem: Problem) -> dict[str, object]:
    return {}


def from_samples(problem: Problem) -> Callable:
    """Atoms that start from samples, half of them for the witness, and 10 % noise."""
    X = problem.X
    group, witness = (
        np.random.default_rng(0)
        .permutation(X)[: len(X) // 2 * 2]
        .reshape(2, -1, X.shape[1])
    )

    def start(standardiser, settings, i, attempt=0) -> torch.Tensor:
        draw = np.random.default_rng([settings.seed, i, attempt])
        of = group if i < settings.n_saes else witness
        few = len(of) < settings.n_components
        chosen = of[draw.choice(len(of), settings.n_components, replace=few)]
        atoms = normalize((chosen - standardiser.mean) / standardiser.scale)
        noise = draw.standard_normal(atoms.shape) * standardiser.deviation
        atoms += 0.1 * normalize(noise)
        return torch.from_numpy(normalize(atoms)).to(settings.dtype)

    return start


def in_all_directions(problem: Problem) -> Callable:
    """Atoms that start as random directions, whatever the variance of each feature."""

    def start(standardiser, settings, i, attempt=0) -> torch.Tensor:
        equal = replace(standardiser, deviation=np.ones(problem.X.shape[1]))
        return initial_atoms(equal, settings, i, attempt)

    return start


def along_principal_axes(problem: Problem) -> Problem:
    """The same data by their principal components; cosines and FVU do not change."""
    axes = PCA(random_state=0).fit(problem.X).components_.T
    truth = None if problem.truth is None else problem.truth @ axes
    return problem._replace(
        X=problem.X @ axes, X_test=problem.X_test @ axes, truth=truth
    )


class Change(NamedTuple):
    """The changes of a row."""

    constants: dict[str, object] = {}
    parameters: Callable[[Problem], dict[str, object]] = same
    start: Callable[[Problem], Callable] | None = None
    data: Callable[[Problem], Problem] | None = None


CHANGES = {
    "as it is": Change(),
    "as before": Change(
        {
            "schedule.K_ANNEALING": 0.5,
            "schedule.COOL_DOWN": 0.3,
            "objective.PUSH": 0.0,
            "optimiser.ENCODER_RATE": 1.0,
            "schedule.ENCODER_PENALTY": 0.0,
        },
        former_learning_rate,
        from_samples,
    ),
    "start from samples": Change(start=from_samples),
    "no push": Change({"objective.PUSH": 0.0}),
    "no auxiliary loss, no push": Change({"activity.DEAD_AFTER_STEPS": 10**9}),
    "learning rate of before": Change(
        {"optimiser.ENCODER_RATE": 1.0}, former_learning_rate
    ),
    "learning rate x 1.4": Change(parameters=times(1.4)),
    "learning rate falls over 30 %": Change({"schedule.COOL_DOWN": 0.3}),
    "k not annealed": Change({"schedule.K_START": 1}),
    "k annealed over half": Change({"schedule.K_ANNEALING": 0.5}),
    "Adam with beta2 .999": Change({"optimiser.BETAS": (0.9, 0.999)}),
    "one rate for atoms and encoders": Change(
        {"optimiser.ENCODER_RATE": 1.0}, common_learning_rate
    ),
    "no penalty on encoders": Change({"schedule.ENCODER_PENALTY": 0.0}),
    "penalty on encoders x 3": Change(
        {"schedule.ENCODER_PENALTY": 3 * ENCODER_PENALTY}
    ),
    "batches of half the size": Change(parameters=smaller_batches),
    "along principal axes": Change(start=in_all_directions, data=along_principal_axes),
}


# Epochs of fits to few rows.
LENGTHS = (60, 125, 250, 500, 1000, 2000)


def lengths(
    problems: Callable[[int], Problem], n_seeds: int, n_rows: int
) -> Iterator[Row]:
    """A row for each number of epochs, of fits to the first rows alone."""
    for n_epochs in LENGTHS:
        cells = []
        for seed in range(n_seeds):
            problem = problems(seed)
            problem = problem._replace(X=problem.X[:n_rows])
            sae = estimator(
                problem, seed, **ALONE, max_iter=n_epochs, max_steps=None
            ).fit(problem.X)
            cells.append(measure(sae, problem) | {"steps": sae.n_steps_})
        yield {"epochs": n_epochs} | in_columns(cells)


def table(problems: Callable[[int], Problem], n_seeds: int, only: str) -> Iterator[Row]:
    """A row for each of the settings whose name has a match."""
    for name, change in CHANGES.items():
        if not re.search(only, name):
            continue
        cells = []
        for seed in range(n_seeds):
            problem = problems(seed)
            if change.data is not None:
                problem = change.data(problem)
            with ExitStack() as stack:
                for constant, value in change.constants.items():
                    stack.enter_context(patch(f"{TRAINING}.{constant}", value))
                if change.start is not None:
                    where = f"{TRAINING}.initial.initial_atoms"
                    stack.enter_context(patch(where, change.start(problem)))
                sae = estimator(problem, seed, **ALONE, **change.parameters(problem))
                sae.fit(problem.X)
            cells.append(measure(sae, problem))
        yield {"setting": name} | in_columns(cells)


def measure(sae, problem: Problem) -> dict[str, float]:
    agreement = sae.feature_agreement_
    row = {
        "FVU": 1 - sae.score(problem.X_test),
        "agreement": agreement.mean(),
        "above .8": np.mean(agreement > ALIKE),
        "dead": dead_fraction(sae.transform(problem.X[:N_SHOWN])),
    }
    if problem.truth is not None:
        row["recall"] = recall_precision(sae.components_, problem.truth, recovery.TAU)[
            0
        ]
    return row


def rows_of(path: Path, n_components: int, k: int, n_steps: int) -> Problem:
    """Rows of a file; the last tenth is held out."""
    X = np.load(path, mmap_mode="r")
    n_train = int(0.9 * len(X))
    X_test = np.array(X[n_train:][:4000], dtype=np.float32)
    X = np.array(X[:n_train], dtype=np.float32)
    return Problem(X, X_test, None, n_components, k, n_steps, 1024)


def main() -> None:
    parser = Command("defaults", __doc__)
    parser.add_argument("--data", nargs="+", default=["superposition"])
    parser.add_argument("--seeds", type=int, default=1)
    recovery.add_choice_of_data(parser)
    parser.add_argument("--rows", type=Path, metavar="FILE", help="samples, .npy")
    parser.add_argument("--n-components", type=int, default=1152, help="for --rows")
    parser.add_argument("--k", type=int, default=32, help="for --rows")
    parser.add_argument("--steps", type=int, default=800, help="for --rows")
    parser.add_argument("--n-rows", type=int, help="fit to so few rows, how long?")
    arguments, report = parser.parse()

    real = recovery.real_data(arguments) | {
        "rows": lambda: rows_of(
            arguments.rows, arguments.n_components, arguments.k, arguments.steps
        ),
    }
    for name in arguments.data:
        problems = recovery.SYNTHETIC.get(name) or recovery.constant(real[name]())
        if arguments.n_rows is None:
            rows = table(problems, arguments.seeds, arguments.only)
        else:
            rows = lengths(problems, arguments.seeds, arguments.n_rows)
        report(rows, {"data": name}, DIGITS)


if __name__ == "__main__":
    main()
