"""Are atoms that return of more use than others that are active as often?

``python -m benchmarks.use --model DIR --tokens FILE`` trains dictionaries on the
activations of a small language model and codes those of held out stories with some
atoms only; the codes of the others are set to zero.  With ``--cache DIR``, that of
``benchmarks.activations``, the model is SmolLM2 and the texts are those of the cache.
A row of the first table is a choice of atoms: how many of them are active in a token,
the fraction of variance unexplained (FVU), the loss recovered, and the same of the
divergence of predictions (KL).

Common atoms matter more than rare ones, and return more often.  So those that are
compared are active as often: atoms in the order of their usage make pairs, and one half
has of each pair the atom that is likelier to return (``reappearance_``), another the
other one, and random halves either.

The second table leaves out a tenth of the atoms at a time, by the probability to
return.  Atoms in the order of their usage make groups of ten, and each tenth has one of
each group.  The third has Spearman's rank correlation of the mean probability of a
tenth with what is lost without it.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

from benchmarks import _data, _smollm2
from benchmarks._jobs import LOSSES, N_LOSSES, Site, recovered_of, site_of
from benchmarks._kept import by_usage, choices, dictionary_of, members, usage_of
from benchmarks._methods import Problem, estimator, in_columns
from benchmarks._results import Command, Row
from skmfr import MFRSparseAutoencoder
from skmfr.activations import loss_recovered
from skmfr.metrics import fvu

LAYER = "model.layers.2.mlp"
SITE = "model.layers.15.mlp"
# Windows of 256 tokens: to train on, and held out.
N_WINDOWS, N_HELD_OUT = 1024, 32
N_TENTHS = 10
LOST = [f"{name} lost" for name in LOSSES]
DIGITS = {"atoms": 0, "FVU": 3, "active": 2} | dict.fromkeys(LOSSES, 3)


class Case(NamedTuple):
    """A fit, and what it is worth with some of its atoms."""

    sae: MFRSparseAutoencoder
    usage: np.ndarray
    """(n_components,), share of held out tokens in which each atom is active"""
    worth: Callable[[np.ndarray], dict[str, float]]


def kept(cases: list[Case]) -> Iterator[Row]:
    """Reconstruction and loss with some atoms only."""
    for same in zip(*(choices(case.sae, case.usage) for case in cases), strict=True):
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
                }
                | {f"{name} lost": whole[name] - rest[name] for name in LOSSES}
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

    names = "FVU added", *LOST
    return {name: {"values": of(name)} for name in names}


def stories(arguments: argparse.Namespace) -> Site:
    """Activations of stories260k."""
    model = AutoModelForCausalLM.from_pretrained(arguments.model)
    windows, held_out = _data.story_windows(arguments.tokens, N_HELD_OUT)
    X, X_test = (
        _data.activations(model, LAYER, part)
        for part in (windows[:N_WINDOWS], held_out)
    )

    def recovered(reconstruct: Callable, **more) -> float:
        return loss_recovered(model, LAYER, reconstruct, held_out, **more)

    return Site(LAYER, X, X_test, X.copy, recovered)


def smollm2(arguments: argparse.Namespace) -> Site:
    """Activations of SmolLM2 that a cache of ``benchmarks.activations`` holds."""
    folder = _smollm2.model_folder(arguments.cache)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = _smollm2.windows(arguments.cache, None, None)
    name = arguments.layer
    return site_of(arguments.cache, model, tokens, name, [name], N_LOSSES)


def main() -> None:
    parser = Command("use", __doc__)
    parser.add_argument("--model", type=Path, metavar="DIR", help="stories260k")
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="for it, .npy")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="of SmolLM2")
    parser.add_argument("--layer", default=SITE, help="of SmolLM2")
    parser.add_argument("--n-components", type=int, default=512)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=2)
    arguments, report = parser.parse()
    site = smollm2(arguments) if arguments.cache else stories(arguments)
    what = {"layer": site.name} if arguments.cache else {}
    size = arguments.n_components, arguments.k, arguments.steps, arguments.batch_size
    problem = Problem(site.train, site.test, None, *size)

    def case(seed: int) -> Case:
        sae = estimator(problem, seed).fit(problem.X)
        whole = dictionary_of(sae)

        def worth(atoms: np.ndarray) -> dict[str, float]:
            some = whole.only(atoms)
            return {
                "FVU": fvu(problem.X_test, some(problem.X_test)),
            } | recovered_of(site, some)

        return Case(sae, usage_of(sae.transform(problem.X_test)), worth)

    cases = [case(seed) for seed in range(arguments.seeds)]
    report(kept(cases), {"table": "kept"} | what, DIGITS)
    tenths = left_out(cases)
    rows = (
        {"tenth": i + 1} | in_columns(list(same))
        for i, same in enumerate(zip(*tenths, strict=True))
    )
    digits = DIGITS | {"tenth": 0} | dict.fromkeys(LOST, 4)
    report(rows, {"table": "tenths"} | what, digits)
    report([correlations(tenths)], {"table": "correlation"} | what, {})


if __name__ == "__main__":
    main()
