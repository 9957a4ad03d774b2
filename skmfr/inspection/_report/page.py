"""One page from data: JSON and base64, with style and script inline."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from ...io._agreement import evidence_of
from .._fitted import agreement_with
from .statistics import AtomStatistics


def render(
    name: str, title: str, data: Mapping[str, Any], blobs: Mapping[str, str], **texts
) -> str:
    """A self-contained page that runs only its own script.

    Parameters
    ----------
    name : str
        Name of the files ``.html`` and ``.js`` that make this page.
    title : str
    data : mapping
        Data that the script reads as JSON.
    blobs : mapping of str
        Base64 data that the script reads piece by piece, so that the page shows much
        before everything is decoded.
    **texts : str
        HTML for the placeholders of the first file.
    """
    title = escape(title)
    style, code = _asset("report.css"), _asset("drawing.js") + _asset(f"{name}.js")
    content = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # No text may close the element that contains it.
    elements = [_inert("data", content.replace("<", "\\u003c"))]
    elements += [_inert(f"{of}-bytes", blob) for of, blob in blobs.items()]
    return Template(_asset("page.html")).substitute(
        title=title,
        body=Template(_asset(f"{name}.html")).substitute(texts, title=title),
        policy=(
            f"default-src 'none'; script-src {_hash(code)}; style-src {_hash(style)}; "
            "img-src data:"
        ),
        style=style,
        script=code,
        data="\n".join(elements),
    )


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _inert(identity: str, content: str) -> str:
    """An inert element that holds data for a script."""
    return f'<script type="text/plain" id="{identity}">{content}</script>'


def _hash(code: str) -> str:
    """Name of inline code that a content security policy allows to run."""
    return f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"


def summary_html(estimator, statistics: AtomStatistics) -> str:
    """A summary in a few numbers, as pairs of a description list."""
    n_atoms, n_features = estimator.components_.shape
    n_saes, n_witnesses = map(
        len, (estimator.dictionaries_, estimator.witness_dictionaries_)
    )
    n_dead = int((statistics.n_active == 0).sum())
    facts = {
        "Samples": f"{statistics.n_samples:,} of {n_features:,} features",
        "Atoms": f"{n_atoms:,}, of which {n_dead:,} never active here",
        "Trusted": f"{int(estimator.trusted_.sum()):,} atoms",
        "Variance unexplained": f"{statistics.fvu:.1%}",
        "Active atoms per sample": f"{statistics.l0:.3g}",
    }
    # Files of others, and those without the state of training, lack the other SAEs.
    if vars(estimator).get("_training"):
        facts["Trained together"] = (
            f"{_count(n_saes, 'SAE')}, {_count(n_witnesses, 'witness')}, "
            f"{estimator.n_steps_:,} steps"
        )
    elif not np.isnan(estimator.feature_agreement_).any():
        facts["Agreement with"] = agreement_with(estimator)
    return "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )


def _count(n: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{n or 'no'} {noun if n == 1 else plural}"


def evidence(estimator) -> str:
    """Description of how much evidence the agreement of this fit is."""
    if np.isnan(estimator.feature_agreement_).any():
        if not vars(estimator).get("_training"):
            return "Its files have no agreement: skmfr.agreement.compare measures it."
        return "One SAE alone agrees with nobody: fit more, or witnesses."
    n_witnesses, under_penalty = evidence_of(estimator)
    if n_witnesses is None:
        return "How near each atom came to others where it was trained: 1 is the same."
    if n_witnesses:
        return (
            "How near each atom comes to an atom of a witness, an SAE that the mutual "
            "penalty never touched: 1 is the same atom."
        )
    group = "How near each atom comes to an atom of the other SAEs: 1 is the same atom."
    if not under_penalty:
        return group
    return (
        f"{group} There are no witnesses, and the mutual penalty raises this very "
        "number, so it is no evidence."
    )


def rule(n_detailed: int, n_atoms: int) -> str:
    """Explanation of the choice of atoms that are shown in full."""
    if n_detailed == n_atoms:
        return "All atoms are shown in full."
    return (
        f"The {n_detailed:,} atoms with the largest usage are shown in full, the "
        "others with their numbers."
    )
