"""Are the features that training finds in the data, and does the agreement score know?

``python -m benchmarks.recovery compare --data superposition`` trains ours, the paper's
setting, scikit-learn's dictionary learning and, where they are installed, other
packages on the same data, with as many steps, atoms and active atoms, and prints a row
for each: mean and standard deviation over seeds, of held-out samples.  Each dictionary
is also coded by least squares on the method's own support and by orthogonal matching
pursuit, the same code for all, so that training and coding are compared apart.

``trust`` asks how well agreement tells true atoms from false ones, at several alpha.
``ablation`` turns penalty, reinitialisation and the number of SAEs on and off.
``design`` changes alpha and the constants of training that are not parameters.
``basin`` starts training from the truth, turned by more and more noise.  ``controls``
are fits that must not find features: frozen decoders, shuffled data, Gaussian data.
``rivals`` are other ways to dictionaries that return (``benchmarks/_rivals.py``).
``grid`` tries reinitialisation frequencies and alpha.  ``select`` is a grid search over
k with the scorers of ``skmfr.metrics``.

Data: ``superposition``, ``superposition-noisy`` (features in groups, under noise),
``superposition-large`` and ``mfr-synthetic`` have known features; ``digits``,
``vision`` (of a network that reads digits), ``eeg`` (``--eeg DIR``) and ``activations``
(``--model DIR --tokens FILE``) have none, and show *reproducibility* instead: the mean
cosine of each atom with its nearest in the dictionary of another seed.
``synthsaebench`` and ``synthsaebench-16k``, for ``compare`` only, are worlds of
sae-lens, judged by its own measures (``benchmarks/_synthsaebench.py``).
"""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import normalize

from benchmarks import _data, _rivals, _synthsaebench
from benchmarks._controls import controls
from benchmarks._methods import (
    CODINGS,
    DIGITS,
    Fitted,
    Problem,
    after_pca,
    dictionary_learning,
    estimator,
    fvu_by_coding,
    ours,
    over_seeds,
    paper,
    peer,
    reproducibility,
)
from benchmarks._peers import LEARNING_RATES, installed
from benchmarks._results import Command, Row
from benchmarks._synthsaebench import WORLDS
from skmfr._training.settings import AUTO_LEARNING_RATE
from skmfr.agreement import feature_agreement, mmcs
from skmfr.datasets import make_mfr_synthetic, make_superposition
from skmfr.metrics import (
    agreement_scorer,
    dead_fraction,
    estimate_l0,
    fvu,
    make_fixed_l0_scorer,
    reappearance_scorer,
    recall_precision,
)

TAU = 0.9
# Principal components of data that have many more features.
N_COMPONENTS = 128
N_TEST = 10_000
# Samples for an estimate of L0.
N_FOR_L0 = 2_000
ALPHAS = (0.0, 0.1, 0.3, 1.0)
PAPER_ALPHAS = (0.03, 0.3)
# Standard deviations of noise, relative to that of the data, and factors of the k of
# the data.
NOISES = (0.0, 0.3)
FACTORS_OF_K = (0.5, 1.0, 2.0)
FOR_PURSUIT = {
    "encoder": {},
    "OMP": {"transform_algorithm": "omp"},
    "OMP, not negative": {"transform_algorithm": "omp", "positive_code": True},
}
# Candidates for k in a grid search, in units of the mean number of active features.
CANDIDATES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.6, 2.0, 3.0, 4.0)
# The authors' threshold of the conditional reinitialisation.
REINIT_THRESHOLD = 2.5


def superposition(seed: int, n_features=64, n_true=128, k=5, **more) -> Problem:
    X, _, truth = make_superposition(
        200_000 + N_TEST, n_features, n_true, n_active=k, random_state=seed, **more
    )
    X = X.astype(np.float32)
    return Problem(X[N_TEST:], X[:N_TEST], truth, n_true, k, 2000, 1024)


def superposition_noisy(seed: int) -> Problem:
    return superposition(seed, correlation=0.5, noise=0.1)


def superposition_large(seed: int) -> Problem:
    return superposition(seed, 256, 1024, 8)


def mfr_synthetic(seed: int) -> Problem:
    X, codes, features = make_mfr_synthetic(100_000 + N_TEST, random_state=seed)
    X, used = X.astype(np.float32), np.unique(codes.indices)
    return Problem(X[N_TEST:], X[:N_TEST], features[used], 512, 32, 2000, 1024)


def digits() -> Problem:
    X = np.random.default_rng(0).permutation(_data.digits())
    return Problem(X[:1500], X[1500:], None, 256, 8, 2000, 1024)


def eeg(folder: Path) -> Problem:
    X = _data.eeg_windows(folder)
    n_train = int(0.9 * len(X))
    # 50 ms apart: 20 away they do not overlap; tested on one every half a second.
    return Problem(X[:n_train], X[n_train + 20 :: 10], None, 512, 6, 1000, 1024)


def activations(folder: Path, tokens: Path) -> Problem:
    X, X_test = (
        _data.activations(folder, "model.layers.2.mlp", windows)
        for windows in _data.story_windows(tokens, n_held_out=80)
    )
    return Problem(X, X_test, None, 512, 8, 1500, 2048)


def vision() -> Problem:
    X, X_test = _data.image_activations()
    return Problem(X, X_test, None, 256, 8, 2000, 1024)


SYNTHETIC: dict[str, Callable[[int], Problem]] = {
    "superposition": superposition,
    "superposition-noisy": superposition_noisy,
    "superposition-large": superposition_large,
    "mfr-synthetic": mfr_synthetic,
}


def constant(problem: Problem) -> Callable[[int], Problem]:
    return lambda seed: problem


def auroc(is_true: np.ndarray, agreement: np.ndarray | None) -> float:
    """How well agreement tells true atoms from false; NaN if all are of a kind."""
    if agreement is None or np.isnan(agreement).any() or len(set(is_true)) < 2:
        return np.nan
    return float(roc_auc_score(is_true, agreement))


def measure(problem: Problem, fitted: Fitted) -> dict[str, float]:
    """A cell for each column."""
    sae, agreement = fitted
    by_coding = fvu_by_coding(problem.X_test, sae, problem.k)
    row = dict(zip(CODINGS, by_coding.values(), strict=True))
    if problem.truth is not None:
        recall, precision = recall_precision(sae.atoms, problem.truth, TAU)
        nearest = feature_agreement(sae.atoms, [problem.truth])
        row |= {
            "MMCS": mmcs(problem.truth, sae.atoms),
            "recall": recall,
            "precision": precision,
            "AUROC": auroc(nearest > TAU, agreement),
        }
    row["agreement"] = np.nan if agreement is None else float(agreement.mean())
    row["dead"] = dead_fraction(sae.encode(problem.X[:50_000]))
    row["seconds"] = sae.seconds
    return row


def methods(n_features: int) -> Iterator[tuple[str, Callable]]:
    """The methods of ``compare`` for data with so many features."""
    yield "paper, 1 SAE", paper()
    for alpha in PAPER_ALPHAS:
        yield f"paper, 2 SAEs, alpha={alpha:g}", paper(2, alpha)
    yield "ours, alpha=0", ours(alpha=0.0)
    yield "ours, default", ours()
    yield "ours, batchtopk", ours(activation="batchtopk")
    yield "ours, for OMP", ours(transform_algorithm="omp")
    if n_features > N_COMPONENTS:
        yield (
            f"ours, {N_COMPONENTS} principal components, for OMP",
            after_pca(N_COMPONENTS, transform_algorithm="omp"),
        )
    yield "ours, whitened, lr=0.05", after_pca(whiten=True, learning_rate=0.05)
    yield "MiniBatchDictionaryLearning", dictionary_learning
    for name in installed():
        for learning_rate in LEARNING_RATES[name]:
            yield f"{name}, lr={learning_rate:g}", peer(name, learning_rate)
    if "sae-lens" in installed():
        for learning_rate in LEARNING_RATES["sae-lens"]:
            yield (
                f"sae-lens batchtopk, lr={learning_rate:g}",
                peer("sae-lens", learning_rate, kind="batchtopk"),
            )


def summarise(
    name: str,
    fit: Callable[[Problem, int], Fitted],
    problems: Callable[[int], Problem],
    n_seeds: int,
) -> Row:
    """Fit with each seed, and measure."""
    rows, dictionaries = [], []
    for seed in range(n_seeds):
        problem = problems(seed)
        fitted = fit(problem, seed)
        rows.append(measure(problem, fitted))
        dictionaries.append(fitted.sae.atoms)
    if problem.truth is None and n_seeds > 1:
        for row, cells in zip(rows, reproducibility(dictionaries), strict=True):
            row |= cells
    return over_seeds(name, rows)


def compare(
    problems: Callable[[int], Problem], n_seeds: int, only: str
) -> Iterator[Row]:
    for name, fit in methods(problems(0).X.shape[1]):
        if re.search(only, name):
            yield summarise(name, fit, problems, n_seeds)


def trust(problems: Callable[[int], Problem], n_seeds: int) -> Iterator[Row]:
    """Twice as many atoms as features, so that some are false; pooled over seeds."""
    for alpha in ALPHAS:
        for n_witnesses in (1, 2):
            pooled: list[list[np.ndarray]] = [[], [], [], []]
            for seed in range(n_seeds):
                problem = problems(seed)
                sae = estimator(
                    problem,
                    seed,
                    n_components=2 * problem.n_components,
                    alpha=alpha,
                    n_witnesses=n_witnesses,
                ).fit(problem.X)
                nearest = feature_agreement(sae.components_, [problem.truth])
                own = sae.mutual_agreement_[sae.reference_sae_]
                cells = (nearest > TAU, sae.feature_agreement_, own, sae.trusted_)
                for column, cell in zip(pooled, cells, strict=True):
                    column.append(cell)
            true, witnessed, own, trusted = map(np.concatenate, pooled)
            yield {
                "alpha": alpha,
                "witnesses": n_witnesses,
                "atoms": len(true),
                "false atoms": np.sum(~true),
                "AUROC": auroc(true, witnessed),
                "in the group": auroc(true, own),
                "trusted": np.sum(trusted),
                "true": np.mean(true[trusted]),
            }


def ablation(problems: Callable[[int], Problem], n_seeds: int) -> Iterator[Row]:
    """Penalty, reinitialisation and number of SAEs, on and off."""
    settings = [{"n_saes": 1, "reinit_threshold": t} for t in (None, REINIT_THRESHOLD)]
    settings += [
        {"n_saes": n_saes, "alpha": alpha, "reinit_threshold": threshold}
        for n_saes in (2, 3)
        for alpha in (0.0, 1.0)
        for threshold in (None, REINIT_THRESHOLD)
    ]
    # The smallest alpha that moves agreement with two SAEs.
    settings += [{"n_saes": 2, "alpha": alpha} for alpha in (0.01, 0.03, 0.1, 0.3)]
    settings += [{"share_atoms": False}]
    settings += [{"matching": "max"}, {"tied": True}]
    return search(problems, n_seeds, settings)


def changed(constant: str, value, **parameters) -> tuple:
    """A constant of `skmfr._training` with another value, and parameters of the fit."""
    return patch(f"skmfr._training.{constant}", value), parameters


# Changes of a default fit, one at a time, mostly of constants that are not parameters.
DESIGN: dict[str, tuple] = {
    "as it is": (nullcontext(), {}),
    "k not annealed": changed("schedule.K_START", 1),
    "k from 4k": changed("schedule.K_START", 4),
    **{
        f"alpha={alpha:g}": (nullcontext(), {"alpha": alpha})
        for alpha in (0.0, 0.1, 0.3, 3.0)
    },
    "penalty in full from first to last step": changed(
        "schedule.Schedule.alpha", lambda self, step: 1.0
    ),
    "penalty until 90 % of the steps": changed("schedule.RELEASE", (0.6, 0.8)),
    "penalty to the last step": changed("schedule.RELEASE", (2.0, 3.0)),
    "penalty only for atoms with a cosine above 0.8": changed(
        "state.agreement_level", lambda null, share: 0.8
    ),
    "all matched atoms pulled, none given": changed("state.ALIKE", -9.0),
    "no atoms given": changed("revive.SHARED_COSINE", 2.0),
    "atoms given from a cosine of 0.9": changed("revive.SHARED_COSINE", 0.9),
    "no auxiliary loss": changed("activity.DEAD_AFTER_STEPS", 10**9),
    "1 dead atom to a sample": changed("objective.AUXILIARY_K", 1),
    "32 dead atoms to a sample": changed("objective.AUXILIARY_K", 32),
    "dead atoms not pushed": changed("objective.PUSH", 0.0),
    "learning rate halved": changed(
        "settings.AUTO_LEARNING_RATE", AUTO_LEARNING_RATE / 2
    ),
    "learning rate doubled": changed(
        "settings.AUTO_LEARNING_RATE", AUTO_LEARNING_RATE * 2
    ),
    "learning rate falls over 30 %": changed("schedule.COOL_DOWN", 0.3),
    "Adam with beta2 0.999": changed("optimiser.BETAS", (0.9, 0.999)),
    **{
        f"matching pursuit in the last {percent} % of the steps": changed(
            "schedule.FINISH", percent / 50, transform_algorithm="omp"
        )
        for percent in (5, 10, 20)
    },
}


def design(
    problems: Callable[[int], Problem], n_seeds: int, only: str
) -> Iterator[Row]:
    """The effect of each constant of the training."""
    for name, (change, parameters) in DESIGN.items():
        if re.search(only, name):
            with change:
                row = summarise(name, ours(**parameters), problems, n_seeds)
            yield row


def basin(problems: Callable[[int], Problem], n_seeds: int) -> Iterator[Row]:
    """Where training of one SAE ends that starts from the truth, turned by noise.

    Noise of length 1 turns a unit vector by 45 degrees, of length 2 by 63.
    """
    alone = ours(n_saes=1, n_witnesses=0)
    for noise in (1.0, 2.0):

        def fit(problem: Problem, seed: int, noise=noise) -> Fitted:
            def start(standardiser, settings, i, attempt=0) -> torch.Tensor:
                draw = np.random.default_rng([seed, i, attempt])
                shape = settings.n_components, problem.truth.shape[1]
                atoms = noise * normalize(draw.standard_normal(shape))
                # Atoms in excess of the features are noise alone.
                n_more = len(atoms) - len(problem.truth)
                more = draw.standard_normal((n_more, atoms.shape[1]))
                atoms += np.concatenate([problem.truth, more])
                return torch.from_numpy(normalize(atoms)).to(settings.dtype)

            with patch("skmfr._training.initial.initial_atoms", start):
                return alone(problem, seed)

        name = f"from the truth and noise of length {noise:g}"
        yield summarise(name, fit, problems, n_seeds)
    yield summarise("from random atoms", alone, problems, n_seeds)


def grid(problems: Callable[[int], Problem], n_seeds: int) -> Iterator[Row]:
    """Frequency of reinitialisation and alpha."""
    settings = [
        {"alpha": alpha, "reinit_threshold": REINIT_THRESHOLD, "reinit_every": every}
        for alpha in ALPHAS
        for every in (10, 50, 200)
    ]
    return search(problems, n_seeds, settings)


def select(problems: Callable[[int], Problem], n_seeds: int) -> Iterator[Row]:
    """Choices of a grid search over k, by each scorer, and the truth."""
    rows = []
    for seed in range(n_seeds):
        problem = problems(seed)

        def estimated(sae, X, seed=seed) -> float:
            return estimate_l0(sae, X[:N_FOR_L0], random_state=seed)

        def recall(sae, X, truth=problem.truth) -> float:
            return recall_precision(sae.components_, truth, TAU)[0]

        scoring = {
            "own score": None,
            "fixed L0": make_fixed_l0_scorer(problem.k),
            "agreement": agreement_scorer,
            "returning": reappearance_scorer,
            "estimated L0": estimated,
            "recall": recall,
        }
        candidates = {max(1, round(factor * problem.k)) for factor in CANDIDATES}
        search = GridSearchCV(
            estimator(problem, seed, max_steps=problem.n_steps // 2),
            {"k": sorted(candidates)},
            scoring=scoring,
            refit=False,
            cv=2,
        )
        results = search.fit(problem.X[:40_000]).cv_results_
        rows.append([results[f"mean_test_{name}"] for name in scoring])
    for k, cells in zip(results["param_k"], np.transpose(rows, (2, 1, 0)), strict=True):
        yield {"k": k} | {
            name: {"values": values}
            for name, values in zip(scoring, cells, strict=True)
        }


def pursuit(problems: Callable[[int], Problem], n_seeds: int) -> Iterator[Row]:
    """Whether fits for matching pursuit learn features, with noise and with another k.

    "FVU, clean" is of test samples without noise, reconstructed from those with it.
    """
    for noise in NOISES:
        for factor in FACTORS_OF_K:
            for name, coding in FOR_PURSUIT.items():
                cells = []
                for seed in range(n_seeds):
                    problem = problems(seed)
                    rng = np.random.default_rng(seed)
                    X, X_test = (
                        clean + noise * clean.std() * rng.standard_normal(clean.shape)
                        for clean in (problem.X, problem.X_test)
                    )
                    sae = estimator(
                        problem,
                        seed,
                        k=max(1, round(factor * problem.k)),
                        n_saes=1,
                        **coding,
                    ).fit(X.astype(np.float32))
                    X_hat = sae.reconstruct(X_test.astype(np.float32))
                    found = recall_precision(sae.components_, problem.truth, TAU)
                    cells.append(
                        (*found, fvu(X_test, X_hat), fvu(problem.X_test, X_hat))
                    )
                columns = "recall", "precision", "FVU", "FVU, clean"
                yield {"noise": noise, "k": sae.k, "for": name} | {
                    column: {"values": values}
                    for column, values in zip(columns, np.transpose(cells), strict=True)
                }


def search(problems, n_seeds: int, settings: list[dict]) -> Iterator[Row]:
    for parameters in settings:
        name = ", ".join(f"{key}={value}" for key, value in parameters.items())
        yield summarise(name, ours(**parameters), problems, n_seeds)


def rivals(
    problems: Callable[[int], Problem], n_seeds: int, only: str
) -> Iterator[Row]:
    """Other ways to dictionaries that return."""
    for name, fit in _rivals.rivals(problems(0).n_steps):
        if re.search(only, name):
            yield summarise(name, fit, problems, n_seeds)


# Tables that can be made for some of their rows only.
IN_PARTS = {"compare": compare, "design": design, "rivals": rivals}
TABLES = {
    "trust": trust,
    "ablation": ablation,
    "basin": basin,
    "controls": controls,
    "grid": grid,
    "select": select,
    "pursuit": pursuit,
}


def add_choice_of_data(parser: Command) -> None:
    parser.add_argument("--only", default="", help="regex of names of rows to make")
    parser.add_argument("--eeg", type=Path, metavar="DIR", help="folder of EDF files")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of a language model"
    )
    parser.add_argument(
        "--tokens", type=Path, metavar="FILE", help="token ids for it, .npy"
    )


def real_data(arguments: argparse.Namespace) -> dict[str, Callable[[], Problem]]:
    """By name, what reads data that are not new for each seed."""
    return {
        "digits": digits,
        "vision": vision,
        "eeg": lambda: eeg(arguments.eeg),
        "activations": lambda: activations(arguments.model, arguments.tokens),
    }


def main() -> None:
    parser = Command("recovery", __doc__)
    parser.add_argument("table", choices=[*IN_PARTS, *TABLES])
    parser.add_argument("--data", nargs="+", default=["superposition"])
    parser.add_argument("--seeds", type=int, default=5)
    add_choice_of_data(parser)
    arguments, report = parser.parse()

    real = real_data(arguments)
    for name in arguments.data:
        if name in WORLDS:
            if arguments.table != "compare":
                parser.error(f"{name} is for compare")
            rows = _synthsaebench.compare(WORLDS[name], arguments.seeds, arguments.only)
        else:
            # Synthetic data are new for each seed, real ones are read once.
            problems = SYNTHETIC.get(name) or constant(real[name]())
            if arguments.table in IN_PARTS:
                make, more = IN_PARTS[arguments.table], [arguments.only]
            else:
                make, more = TABLES[arguments.table], []
            rows = make(problems, arguments.seeds, *more)
        table = {"table": arguments.table, "data": name}
        report(rows, table, DIGITS | {"alpha": None, "returning": 1})


if __name__ == "__main__":
    main()
