"""Use of codes: intents and spam from few atoms, and from trusted atoms alone.

``python -m benchmarks.probing probe --cache DIR --text DIR`` trains dictionaries on
SmolLM2's activations of WikiText (the cache is that of ``benchmarks.activations``),
codes the texts of CLINC150 and of SMS spam, token by token, takes the largest code of
each atom over a text, and classifies texts by logistic regression on 1, 5, 20 and 100
atoms for each class, chosen on the training part, and on all.  Raw activations,
principal components and a random dictionary are compared.

``decide`` names the atom that tells each class best, how well it does, whether it
returns, and the tokens where it is most active.

``trust`` asks what agreement is worth: loss recovered, and the same probing, with
trusted atoms alone, with the others alone, and with random atoms that are used as much
as the trusted ones are; and with half of all atoms, as in ``benchmarks.use``.

``rate`` writes a page for people to rate atoms on, of fits with and without the penalty
and with the tokens around, and the key to it (``--out DIR``).
"""

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import _jobs, _smollm2
from benchmarks._kept import (
    Dictionary,
    choices,
    dictionary_of,
    of_ours,
    usage_of,
)
from benchmarks._methods import Problem
from benchmarks._peers import LEARNING_RATES, PEERS, installed
from benchmarks._results import Command, Report, Row
from benchmarks._texts import Texts, collections
from skmfr.activations import ActivationExtractor, top_contexts
from skmfr.inspection import blinded_report

SITE = "model.layers.15.mlp"
N_ATOMS = (1, 5, 20, 100)
# A token before each text, which is left out as the first one is: some texts have only
# one token.
BEGIN = "<|im_start|>"
DIGITS = dict.fromkeys(_jobs.LOSSES, 3)


def dictionaries(
    cache: Path, problem: Problem
) -> Iterator[tuple[str, Callable[[], Dictionary]]]:
    """By name, made when they are wanted."""
    yield "activations", lambda: Dictionary(lambda X: X)
    yield "PCA", lambda: principal(problem)
    yield "random dictionary", lambda: random_dictionary(problem)
    yield "ours, alpha=0", lambda: dictionary_of(of_ours(cache, problem, alpha=0.0))
    yield "ours, default", lambda: dictionary_of(of_ours(cache, problem))
    for name in installed():

        def trained(name=name):
            budget = problem.n_components, problem.k, problem.n_steps
            sae = PEERS[name](
                problem.X, *budget, problem.batch_size, LEARNING_RATES[name][0], 0
            )
            return Dictionary(sae.encode, sae.atoms, sae.decoder_bias)

        yield name, trained


def principal(problem: Problem) -> Dictionary:
    pca = PCA(random_state=0).fit(problem.X)
    return Dictionary(pca.transform)


def random_dictionary(problem: Problem) -> Dictionary:
    """The k largest products with random directions."""
    mean, draw = problem.X.mean(0), np.random.default_rng(0)
    shape = problem.n_components, problem.X.shape[1]
    atoms = draw.standard_normal(shape).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)

    def encode(X: np.ndarray) -> sparse.csr_array:
        codes = np.maximum((X - mean) @ atoms.T, 0)
        bound = np.partition(codes, -problem.k, axis=1)[:, [-problem.k]]
        return sparse.csr_array(np.where(codes >= bound, codes, 0))

    return Dictionary(encode, atoms, mean)


def features(extractor: ActivationExtractor, dictionary: Dictionary, texts: list[str]):
    """Largest code of each atom over each text."""
    sae = FrozenEstimator(dictionary)
    return extractor.set_params(sae=sae).fit(texts[:1]).transform(texts)


def contrast(X, y):
    """F values; NaN, the last to be chosen, for atoms that are never active."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return f_classif(X, y)


def probe(n_atoms: int | None):
    """Logistic regression on so many atoms of each class, chosen by their F values."""
    steps = [MaxAbsScaler(), LogisticRegression(C=10.0, max_iter=1000)]
    if n_atoms is None:
        return make_pipeline(*steps)
    return OneVsRestClassifier(make_pipeline(SelectKBest(contrast, k=n_atoms), *steps))


def accuracies(
    extractor: ActivationExtractor, dictionary: Dictionary, given: list[Texts]
) -> dict[str, float]:
    """Share of test texts that are classified rightly, by task and number of atoms."""
    found = {}
    for texts in given:
        X, X_test = (
            features(extractor, dictionary, part) for part in (texts.train, texts.test)
        )
        for task, (y, y_test) in texts.tasks.items():
            for n in N_ATOMS:
                if n <= X.shape[1]:
                    score = probe(n).fit(X, y).score(X_test, y_test)
                    found[f"{task}, {n}"] = score
            found[f"{task}, all"] = probe(None).fit(X, y).score(X_test, y_test)
    return found


def run(arguments: argparse.Namespace, report: Report) -> None:
    cache = arguments.cache
    folder = _smollm2.model_folder(cache)
    tokens = _smollm2.windows(cache, None, None)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    name = arguments.layer
    site = _jobs.site_of(cache, model, tokens, name, [name], arguments.n_losses)
    problem = Problem(
        site.train,
        site.test,
        None,
        arguments.n_components,
        arguments.k,
        arguments.steps,
        _jobs.BATCH_SIZE,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    extractor = ActivationExtractor(
        model,
        name,
        positions="max",
        skip_first=1,
        tokenizer=lambda texts: tokenizer([BEGIN + text for text in texts]),
        memory=str(cache / "memory"),
        max_length=128,
    )
    if arguments.what == "rate":
        held_out = tokens[_smollm2.held_out(len(tokens))]
        rating_page(problem, extractor, held_out, tokenizer, arguments)
        return
    ways = {
        "probe": probed,
        "decide": partial(deciding, tokenizer),
        "trust": trusted,
    }
    rows = ways[arguments.what]
    made = rows(problem, site, extractor, collections(arguments.text), arguments)
    # The words of a row of `decide` differ in each run, so it would replace none.
    append = arguments.what != "decide"
    report(made, {"what": arguments.what}, DIGITS, append=append)


def probed(problem, site, extractor, given: list[Texts], arguments) -> Iterator[Row]:
    for name, make in dictionaries(arguments.cache, problem):
        if re.search(arguments.only, name):
            yield {"method": name} | accuracies(extractor, make(), given)


def deciding(
    tokenizer, problem, site, extractor, given: list[Texts], arguments
) -> Iterator[Row]:
    """For each domain, and for spam, the atom that speaks for it best."""
    sae = of_ours(arguments.cache, problem)
    for texts in given:
        parts = (texts.train, texts.test)
        X, X_test = (features(extractor, dictionary_of(sae), part) for part in parts)
        contexts = top_contexts(sae, extractor, texts.test, n_contexts=3)
        frame = contexts.to_frame(tokenizer)
        task, (y, y_test) = next(iter(texts.tasks.items()))
        labels = np.unique(y)
        # For two classes, an atom for the second one suffices.
        for label in labels[-1:] if len(labels) == 2 else labels:
            atom = speaking_for(X, y == label)
            shown = frame.loc[frame["atom"] == atom, "text"]
            yield {
                "class": f"{task}: {label}",
                "atom": str(atom),
                "AUROC": roc_auc_score(
                    y_test == label, X_test[:, [atom]].toarray().ravel()
                ),
                "returns": float(sae.reappearance_[atom]),
                "contexts": " / ".join(
                    " ".join(text.removeprefix(BEGIN).split()) for text in shown
                ),
            }


def speaking_for(X: sparse.csr_array, is_class: np.ndarray) -> int:
    """The atom with the largest F value of those that are larger in the class."""
    larger = X[is_class].mean(axis=0) > X[~is_class].mean(axis=0)
    return int(np.nanargmax(np.where(larger, contrast(X, is_class)[0], -1.0)))


def trusted(problem, site, extractor, given: list[Texts], arguments) -> Iterator[Row]:
    sae = of_ours(arguments.cache, problem)
    usage = usage_of(sae.transform(problem.X_test))
    for name, (atoms,) in choices(sae, usage, n_draws=1):
        dictionary = dictionary_of(sae).only(atoms)
        yield {
            "atoms that are kept": name,
            "atoms": int(atoms.sum()),
            **_jobs.recovered_of(site, dictionary),
            **accuracies(extractor, dictionary, given),
        }


def rating_page(problem, extractor, tokens, tokenizer, arguments) -> None:
    saes = {
        "ours, alpha=0": of_ours(arguments.cache, problem, alpha=0.0),
        "ours, default": of_ours(arguments.cache, problem),
    }
    contexts = {
        name: top_contexts(sae, extractor, tokens) for name, sae in saes.items()
    }
    page = blinded_report(
        saes, problem.X_test, contexts=contexts, tokenizer=tokenizer, random_state=0
    )
    print(*page.write(arguments.out), sep="\n")


def main() -> None:
    parser = Command("probing", __doc__)
    parser.add_argument("what", choices=["probe", "decide", "trust", "rate"])
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR")
    parser.add_argument("--text", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for rate")
    parser.add_argument("--layer", default=SITE)
    parser.add_argument("--n-components", type=int, default=2304)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--n-losses", type=int, default=64)
    parser.add_argument("--only", default="", help="regex of names of rows to make")
    arguments, report = parser.parse()
    if arguments.what == "rate" and arguments.out is None:
        parser.error("rate needs --out")
    if not (arguments.cache / _smollm2.WINDOWS).exists():
        parser.error(
            f"--cache {arguments.cache} has no text: make it with python -m "
            "benchmarks.activations compare --model smollm2"
        )
    run(arguments, report)


if __name__ == "__main__":
    main()
