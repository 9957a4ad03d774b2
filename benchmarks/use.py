"""Are atoms that return of more use than others that are active as often?

``python -m benchmarks.use --model DIR --tokens FILE`` trains dictionaries on the
activations of a small language model and codes those of held out stories with some
atoms only; the codes of the others are set to zero.  A row of the first table is a
choice of atoms: how many of them are active in a token, the fraction of variance
unexplained (FVU), and the loss recovered.

Common atoms matter more than rare ones, and return more often.  So those that are
compared are active as often: atoms in the order of their usage make pairs, and one half
has of each pair the atom that is likelier to return (``reappearance_``), another the
other one, and random halves either.

The second table leaves out a tenth of the atoms at a time, by the probability to
return.  Atoms in the order of their usage make groups of ten, and each tenth has one of
each group.  The third has Spearman's rank correlation of the mean probability of a
tenth with what is lost without it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

from benchmarks import _data
from benchmarks._methods import Problem, estimator, in_columns
from benchmarks._results import Command, Row
from benchmarks.probing import Dictionary, as_much_used
from skmfr import MFRSparseAutoencoder
from skmfr.activations import loss_recovered
from skmfr.metrics import fvu

LAYER = "model.layers.2.mlp"
# Windows of 256 tokens: to train on, and held out.
N_WINDOWS, N_HELD_OUT = 1024, 32
N_DRAWS = 3
N_TENTHS = 10
DIGITS = {"atoms": 0, "FVU": 3, "loss recovered": 3, "active": 2}


class Case(NamedTuple):
    """A fit, and what it is worth with some of its atoms."""

    sae: MFRSparseAutoencoder
    codes: sparse.csr_array
    """(n_tokens, n_components), of held out stories"""
    worth: Callable[[np.ndarray], dict[str, float]]

    @property
    def usage(self) -> np.ndarray:
        """Share of tokens in which each atom is active, (n_components,)."""
        return (self.codes != 0).mean(axis=0)


def by_usage(usage: np.ndarray, probability: np.ndarray, size: int) -> np.ndarray:
    """Groups of atoms that are active as often, each in the order of the probability.

    Parameters
    ----------
    usage, probability : ndarray of shape (n_components,)
    size : int
        Of a group; atoms that fill none, which are the rarest, are left out.

    Returns
    -------
    ndarray of shape (n_components // size, size), int
    """
    n_groups = len(usage) // size
    order = np.argsort(-usage, kind="stable")[: n_groups * size].reshape(-1, size)
    within = np.argsort(probability[order], axis=1, kind="stable")
    return np.take_along_axis(order, within, axis=1)


def members(n_components: int, atoms: np.ndarray) -> np.ndarray:
    chosen = np.zeros(n_components, dtype=bool)
    chosen[atoms] = True
    return chosen


def choices(case: Case) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Atoms by what they have in common; several draws where chance decides."""
    sae, n_components = case.sae, len(case.usage)
    draws = range(N_DRAWS)
    yield "all", [np.ones(n_components, dtype=bool)]
    trusted = sae.trusted_
    yield "trusted", [trusted]
    yield (
        "random, active as often as those",
        [as_much_used(case.codes, trusted, seed) for seed in draws],
    )
    yield "not trusted", [~trusted]
    pairs = by_usage(case.usage, sae.reappearance_, 2)
    yield "of each pair the likelier to return", [members(n_components, pairs[:, 1])]
    random = np.random.default_rng(0)
    yield (
        "of each pair one at random",
        [members(n_components, random.permuted(pairs, axis=1)[:, 0]) for _ in draws],
    )
    yield "of each pair the less likely", [members(n_components, pairs[:, 0])]


def kept(cases: list[Case]) -> Iterator[Row]:
    """Reconstruction and loss with some atoms only."""
    for same in zip(*(choices(case) for case in cases), strict=True):
        rows = [
            {
                "atoms": np.mean([atoms.sum() for atoms in drawn]),
                "active": np.mean([case.usage[atoms].sum() for atoms in drawn]),
            }
            | mean_of([case.worth(atoms) for atoms in drawn])
            for case, (_, drawn) in zip(cases, same, strict=True)
        ]
        yield {"atoms that are kept": same[0][0]} | in_columns(rows)


def left_out(cases: list[Case]) -> list[list[dict[str, float]]]:
    """For each fit and tenth: what is lost without it."""
    found = []
    for case in cases:
        n_components = len(case.usage)
        whole = case.worth(np.ones(n_components, dtype=bool))
        tenths = by_usage(case.usage, case.sae.reappearance_, N_TENTHS).T
        found.append([])
        for atoms in tenths:
            rest = case.worth(~members(n_components, atoms))
            found[-1].append(
                {
                    "reappearance": case.sae.reappearance_[atoms].mean(),
                    "active": case.usage[atoms].sum(),
                    "FVU added": rest["FVU"] - whole["FVU"],
                    "loss recovered lost": whole["loss recovered"]
                    - rest["loss recovered"],
                }
            )
    return found


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


def correlations(tenths: list[list[dict[str, float]]]) -> Row:
    def of(name: str) -> list[float]:
        return [
            float(
                spearmanr(
                    [tenth["reappearance"] for tenth in fit],
                    [tenth[name] for tenth in fit],
                ).statistic
            )
            for fit in tenths
        ]

    names = "FVU added", "loss recovered lost"
    return {name: {"values": of(name)} for name in names}


def main() -> None:
    parser = Command("use", __doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE")
    parser.add_argument("--n-components", type=int, default=512)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    arguments, report = parser.parse()
    model = AutoModelForCausalLM.from_pretrained(arguments.model)
    windows, held_out = _data.story_windows(arguments.tokens, N_HELD_OUT)
    X, X_test = (
        _data.activations(model, LAYER, part)
        for part in (windows[:N_WINDOWS], held_out)
    )
    size = arguments.n_components, arguments.k, arguments.steps
    problem = Problem(X, X_test, None, *size, 1024)

    def fitted(seed: int) -> Case:
        sae = estimator(problem, seed).fit(X)
        whole = Dictionary(sae.transform, sae.components_, sae.decoder_bias_)

        def worth(atoms: np.ndarray) -> dict[str, float]:
            some = whole.only(atoms)
            return {
                "FVU": fvu(X_test, some(X_test)),
                "loss recovered": loss_recovered(model, LAYER, some, held_out),
            }

        return Case(sae, sae.transform(X_test), worth)

    cases = [fitted(seed) for seed in range(arguments.seeds)]
    report(kept(cases), {"table": "kept"}, DIGITS)
    tenths = left_out(cases)
    rows = (
        {"tenth": i + 1} | in_columns(list(same))
        for i, same in enumerate(zip(*tenths, strict=True))
    )
    report(rows, {"table": "tenths"}, DIGITS | {"tenth": 0, "loss recovered lost": 4})
    report([correlations(tenths)], {"table": "correlation"}, {})


if __name__ == "__main__":
    main()
