"""Features of real networks: jobs of minutes to hours, each done once.

A job is one method with one seed at one site.  Its numbers and its dictionary lie in
the cache, by the commit that was checked out, and are not computed again; rows of
tables are made of them, and written as soon as all their jobs are done.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from transformers import AutoModelForCausalLM

from benchmarks import _efficientnet, _smollm2
from benchmarks._methods import (
    CODINGS,
    DIGITS,
    OURS,
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
from benchmarks._results import Report, Row, commit
from skmfr.activations import loss_recovered
from skmfr.agreement import feature_agreement, matched_cosine
from skmfr.metrics import dead_fraction

Fit = Callable[[Problem, int], Fitted]

BATCH_SIZE = 2048
# A cosine above which an atom counts as found again.
SHARED = 0.8
# Number of windows whose loss is measured, with nine passes for each job.
N_LOSSES = 64
# Names of columns, and the parameter `loss` of what they show.
LOSSES = {"loss recovered": "cross_entropy", "KL recovered": "kl_divergence"}


# Weight of the penalty, and number of SAEs, for the paper's language model.
PAPER_ALPHA, PAPER_SAES = 0.005, 10
# Names of further rows, in addition to those of the methods.
ALL_TOKENS, CONTROL = "ours, default, all tokens", "ours, default, random weights"


class Site(NamedTuple):
    """Activations of a site, and what a reconstruction of them is worth."""

    name: str
    train: np.ndarray
    """usual tokens"""
    test: np.ndarray
    every: Callable[[], np.ndarray]
    """all tokens, to train on"""
    recovered: Callable | None
    """of a reconstruction, and further parameters of ``loss_recovered``"""


def methods() -> Iterator[tuple[str, dict[str, Fit]]]:
    """By name: one way, or several; the best of them is shown."""
    yield "paper", {f"lr={rate:g}": paper(learning_rate=rate) for rate in (1e-2, 1e-3)}
    for name, fit in OURS.items():
        yield name, {"": fit}
    for name in installed():
        rates = LEARNING_RATES[name]
        yield name, {f"lr={rate:g}": peer(name, rate) for rate in rates}


def pairs() -> Iterator[tuple[str, dict[str, Fit]]]:
    """The penalty on and off, the authors' way and ours."""
    for alpha in (PAPER_ALPHA, 0.0):
        name = f"{PAPER_SAES} SAEs, alpha={alpha:g}"
        yield f"paper, {name}", {"": paper(PAPER_SAES, alpha, learning_rate=1e-3)}
    for alpha in (1.0, 0.0):
        name = f"{PAPER_SAES} SAEs, alpha={alpha:g}"
        yield f"ours, {name}", {"": ours(n_saes=PAPER_SAES, alpha=alpha)}


def recovered_of(site: Site, reconstruct: Callable) -> dict[str, float]:
    """The worth of a reconstruction to the model, by the name of the column."""
    return {
        name: site.recovered(reconstruct, loss=loss) for name, loss in LOSSES.items()
    }


class Budget(NamedTuple):
    """Of a table, and its rows."""

    what: str
    n_components: int
    k: int
    n_steps: int
    n_seeds: int
    sites: tuple[str, ...]
    methods: Callable[[], Iterator[tuple[str, dict[str, Fit]]]] = methods


FULL = Budget("smollm2", 2304, 32, 1000, 3, _smollm2.SITES)
# The size of the paper's language model: 80 min for each of our rows on one core.
PAPER = Budget("smollm2-mfr", 9216, 6, 500, 1, _smollm2.SITES[:1], pairs)
QUICK = Budget("smollm2", 2304, 32, 300, 1, _smollm2.SITES[:1])
IMAGES = Budget("efficientnet", 256, 16, 300, 3, _efficientnet.SITES)


def chosen(budgets: list[Budget], arguments: argparse.Namespace) -> Iterator[Budget]:
    """Those that have a row to make, with as many seeds as asked for."""
    for budget in budgets:
        names = [name for name, _ in budget.methods()]
        if budget is FULL:
            names += [ALL_TOKENS, CONTROL]
        if any(re.search(arguments.only, name) for name in names):
            yield budget._replace(n_seeds=arguments.seeds or budget.n_seeds)


def compare(arguments: argparse.Namespace, report: Report) -> None:
    cache = arguments.cache
    cache.mkdir(parents=True, exist_ok=True)
    folder = _smollm2.model_folder(cache)
    tokens = _smollm2.windows(cache, arguments.text, arguments.tokens)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for budget in chosen([QUICK] if arguments.quick else [FULL, PAPER], arguments):
        sites = tuple(arguments.layers or budget.sites)
        for site in sites:
            rows = of_site(cache, folder, model, tokens, site, sites, budget, arguments)
            report_site(report, rows, budget, site)


def compare_on_images(arguments: argparse.Namespace, report: Report) -> None:
    for budget in chosen([IMAGES], arguments):
        for name in arguments.layers or budget.sites:
            X, X_test = _efficientnet.activations(arguments.cache, name)
            site = Site(name, X, X_test, X.copy, None)
            kinds = budget.methods()
            rows = rows_of(arguments.cache, site, kinds, budget, arguments.only)
            report_site(report, rows, budget, name)


def report_site(report: Report, rows: Iterator[Row], budget: Budget, site: str) -> None:
    """Add rows to the table of a site."""
    what = {"what": budget.what, "layers": site}
    report(rows, what, DIGITS, append=True, seeds=list(range(budget.n_seeds)))


def of_site(
    cache, folder, model, tokens, name, sites, budget: Budget, arguments
) -> Iterator[Row]:
    """The rows of one site."""
    site = site_of(cache, model, tokens, name, list(sites), N_LOSSES)
    only = arguments.only
    yield from rows_of(cache, site, budget.methods(), budget, only)
    if budget.what != FULL.what or arguments.quick:
        return
    if name == _smollm2.RESIDUAL and re.search(only, ALL_TOKENS):
        everything = site._replace(train=site.every())
        yield from rows_of(
            cache, everything, iter([(ALL_TOKENS, {"": ours()})]), budget, only
        )
    if re.search(only, CONTROL):
        control = _smollm2.untrained(folder)
        site = site_of(cache, control, tokens, name, list(sites), 0, "random")
        yield from rows_of(cache, site, iter([(CONTROL, {"": ours()})]), budget, only)


def site_of(
    cache: Path,
    model,
    tokens: np.ndarray,
    name: str,
    sites: list[str],
    n_losses: int,
    kind: str = "trained",
) -> Site:
    """Read activations, and tell usual tokens, and those to test on, from others."""
    X = _smollm2.activations(cache, model, tokens, sites, kind)[name]
    window = tokens.shape[1]
    held_out = _smollm2.held_out(len(tokens))
    usual, median = _smollm2.usual(X, window)
    of_test = np.repeat(held_out, window)

    def recovered(reconstruct: Callable, **more):
        def of_rows(rows: np.ndarray) -> np.ndarray:
            return reconstruct(rows)

        # The bound is a multiple of it.
        of_rows.median_norm_ = median
        left_out = {"skip_first": 1, "max_norm_ratio": _smollm2.MAX_NORM_RATIO}
        texts = tokens[held_out][:n_losses]
        return loss_recovered(model, name, of_rows, texts, **left_out, **more)

    return Site(
        name,
        np.array(X[usual & ~of_test]),
        np.array(X[usual & of_test]),
        lambda: np.array(X[~of_test]),
        recovered if n_losses else None,
    )


def rows_of(
    cache: Path,
    site: Site,
    kinds: Iterator[tuple[str, dict[str, Fit]]],
    budget: Budget,
    only: str,
) -> Iterator[Row]:
    """A row for each method, of jobs that are done or were."""
    problem = Problem(
        site.train,
        site.test,
        None,
        budget.n_components,
        budget.k,
        budget.n_steps,
        BATCH_SIZE,
    )
    for name, ways in kinds:
        if not re.search(only, name):
            continue
        first = {
            way: job(cache, site, problem, f"{name}, {way}".rstrip(", "), fit, 0)
            for way, fit in ways.items()
        }
        best = min(first, key=lambda way: first[way][0]["FVU"])
        shown = f"{name}, {best}".rstrip(", ")
        done = [first[best]] + [
            job(cache, site, problem, shown, ways[best], seed)
            for seed in range(1, budget.n_seeds)
        ]
        again = found_again([atoms for _, atoms in done])
        yield over_seeds(
            shown, [row | found for (row, _), found in zip(done, again, strict=True)]
        )


def job(
    cache: Path, site: Site, problem: Problem, name: str, fit: Fit, seed: int
) -> tuple[dict[str, float], np.ndarray]:
    """Numbers and atoms of one method with one seed, made or read."""
    words = (site.name, problem.n_components, problem.k, problem.n_steps, name, seed)
    slug = re.sub(r"[^\w.=]+", "-", "-".join(map(str, words)))
    file = cache / "jobs" / str(commit()) / f"{slug}.npz"
    if file.exists():
        with np.load(file) as kept:
            return json.loads(str(kept["row"])), kept["atoms"]
    began = perf_counter()
    fitted = fit(problem, seed)
    row = measure(problem, fitted, site)
    row["hours"] = (perf_counter() - began) / 3600
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, row=json.dumps(row), atoms=fitted.sae.atoms)
    part.rename(file)
    return row, fitted.sae.atoms


def measure(problem: Problem, fitted: Fitted, site: Site) -> dict[str, float]:
    """A cell for each column that needs one run alone."""
    sae, agreement = fitted
    by_coding = fvu_by_coding(problem.X_test, sae, problem.k)
    row = dict(zip(CODINGS, by_coding.values(), strict=True))
    for name, loss in LOSSES.items():
        row[name] = row[f"{name}, s.e."] = np.nan
        if site.recovered is not None:
            row[name], losses = site.recovered(
                codings(sae, problem.k)["encoder"], loss=loss, return_losses=True
            )
            row[f"{name}, s.e."] = losses.standard_error
    row["agreement"] = np.nan if agreement is None else float(agreement.mean())
    row["dead"] = dead_fraction(sae.encode(problem.X[:50_000]))
    row["seconds"] = sae.seconds
    return row


def found_again(dictionaries: list[np.ndarray]) -> list[dict[str, float]]:
    """How closely atoms return in the run with the next seed; NaN for one run alone."""
    if len(dictionaries) == 1:
        return [dict.fromkeys(("reproducibility", "one to one", "shared"), np.nan)]
    following = dictionaries[1:] + dictionaries[:1]
    rows = []
    for atoms, others in zip(dictionaries, following, strict=True):
        cosines = feature_agreement(atoms, [others])
        rows.append(
            {
                "reproducibility": float(cosines.mean()),
                "one to one": matched_cosine(atoms, others),
                "shared": float((cosines > SHARED).mean()),
            }
        )
    return rows
