"""Data of atoms for the pages, as plain lists, texts and base64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..._data.sources import Source
from ..._sae.cosines import nearest_elsewhere
from ..._training.attributes import reappearance_without_warning
from ..._utils.checks import unit_atoms
from ..._utils.tokens import token_text
from .statistics import AtomStatistics
from .views import Shapes, View, significant, thinned

if TYPE_CHECKING:
    from ...activations import Contexts, LogitEffects

# Maximum number of points of the loss curve.
N_POINTS = 300


class Words(NamedTuple):
    """Texts of atoms of a language model."""

    contexts: Contexts | None
    effects: LogitEffects | None
    tokenizer: Any
    """None shows token ids"""

    @property
    def _tokenizer(self):
        return _Ids() if self.tokenizer is None else self.tokenizer

    def of(self, atom: int) -> dict[str, Any]:
        """Contexts of an atom, and tokens that it makes more and less likely."""
        texts: dict[str, Any] = {}
        if self.contexts is not None:
            texts["contexts"] = self._contexts(self.contexts, atom)
        if self.effects is not None:
            effects = self.effects
            for name, ids, logits in (
                ("promoted", effects.promoted, effects.promoted_logits),
                ("suppressed", effects.suppressed, effects.suppressed_logits),
            ):
                tokens = [token_text(self._tokenizer, i) for i in ids[atom].tolist()]
                texts[name] = list(zip(tokens, significant(logits[atom]), strict=True))
        return texts

    def _contexts(self, contexts: Contexts, atom: int) -> list[dict[str, Any]]:
        assert contexts.tokens is not None  # checked before
        (ranks,) = np.nonzero(contexts.inputs[atom] >= 0)
        return [
            {
                "code": code,
                "input": int(contexts.inputs[atom, rank]),
                "position": int(contexts.positions[atom, rank]),
                "text": contexts._parts(contexts.tokens[atom, rank], self._tokenizer),
            }
            for rank, code in zip(
                ranks, significant(contexts.codes[atom, ranks]), strict=True
            )
        ]


class _Ids:
    """Replaces the tokenizer if there is none."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def details_of(
    statistics: AtomStatistics, atoms: Sequence[int], words: Words
) -> list[dict[str, Any]]:
    """Samples, histograms and texts of some atoms."""
    return [
        {
            "samples": statistics.examples[atom][statistics.codes[atom] > 0].tolist(),
            "codes": significant(statistics.codes[atom][statistics.codes[atom] > 0]),
            "histogram": _histogram(statistics, atom),
        }
        | words.of(atom)
        for atom in atoms
    ]


def _histogram(statistics: AtomStatistics, atom: int) -> dict[str, Any]:
    start, width, counts = statistics.histograms.of(atom)
    return {"start": start, "width": width, "counts": counts.tolist()}


def packed_shapes(
    view: View, X: np.ndarray | Source, samples: np.ndarray, **rows: np.ndarray
) -> tuple[dict[str, Any], dict[str, str]]:
    """Shapes of samples and other rows, in 8 bits per value.

    Parameters
    ----------
    view : View
    X : ndarray of shape (n_samples, n_features)
    samples : ndarray of shape (n_shown,), int
        Ascending.
    **rows : ndarray of shape (n_rows, n_features)
        By name.

    Returns
    -------
    data : dict
        The view, the indices of the samples, and the limits of each shape by name.
    blobs : dict of str
        Their bytes in base64, by name.
    """
    from ..._data.batches import row_blocks

    if view.kind == "text":
        return {"view": view._asdict()}, {}
    fewer = thinned(view, len(samples) + sum(map(len, rows.values())))
    packed = {name: Shapes(view, fewer) for name in ["samples", *rows]}
    for name, features in rows.items():
        packed[name].add(features)
    for block in row_blocks(X, samples):
        packed["samples"].add(block)
    data = {name: shapes.limits() for name, shapes in packed.items()}
    data["samples"]["numbers"] = samples.tolist()
    blobs = {name: shapes.text() for name, shapes in packed.items()}
    return data | {"view": fewer._asdict()}, blobs


def _samples(described: list[dict[str, Any]]) -> np.ndarray:
    """Samples that are shown anywhere, ascending."""
    return np.array(sorted({s for atom in described for s in atom["samples"]}), int)


def report_data(
    estimator,
    X: np.ndarray | Source,
    statistics: AtomStatistics,
    view: View,
    atoms: np.ndarray,
    words: Words,
    names: dict[int, str],
    notes: dict[int, str],
) -> tuple[dict[str, Any], dict[str, str]]:
    """All data that the report shows.

    Parameters
    ----------
    estimator : MFRSparseAutoencoder
    X : ndarray of shape (n_samples, n_features)
    statistics : AtomStatistics
        Statistics of all atoms on X.
    view : View
    atoms : ndarray of shape (n_detailed,), int
        Atoms that are shown in full.
    words : Words
    names, notes : dict of str
        By atom index.

    Returns
    -------
    data : dict
    blobs : dict of str
        Base64.
    """
    shown = details_of(statistics, atoms.tolist(), words)
    data, blobs = packed_shapes(
        view,
        X,
        _samples(shown),
        atoms=estimator.components_[atoms],
        offset=estimator.decoder_bias_[None],
    )
    if blobs:
        data["atoms"]["numbers"] = atoms.tolist()
    return data | {
        "details": dict(zip(atoms.tolist(), shown, strict=True)),
        "table": {
            "agreement": significant(estimator.feature_agreement_),
            "trusted": estimator.trusted_.astype(int).tolist(),
            "reappearance": significant(reappearance_without_warning(estimator)),
            "usage": significant(statistics.usage),
            "density": significant(statistics.density),
            "mean": significant(statistics.mean),
            "largest": significant(statistics.largest),
        },
        "matches": [
            {
                "name": name,
                "cosine": significant(cosine),
                "atom": index.tolist(),
            }
            for name, (cosine, index) in nearest_elsewhere(
                estimator.reference_sae_,
                estimator.dictionaries_,
                estimator.witness_dictionaries_,
            ).items()
        ],
        "names": names,
        "notes": notes,
        "null": estimator.agreement_null_,
        "loss": _loss_points(estimator.loss_curve_),
    }, blobs


def _loss_points(losses: np.ndarray) -> dict[str, Any]:
    """Means over spans of the curve, and the middle of each span."""
    # SAEs from other packages have no losses.
    n_spans = min(N_POINTS, len(losses))
    spans = np.array_split(losses, n_spans) if n_spans else []
    ends = np.cumsum([len(span) for span in spans])
    return {
        "step": significant(ends - [(len(span) - 1) / 2 for span in spans]),
        "fvu": significant([np.mean(span) for span in spans]),
    }


def rating_data(
    items: list[tuple[Any, AtomStatistics, int, Words]],
    X: np.ndarray | Source,
    view: View,
    study: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Data of each item that a rater sees, which do not reveal the model.

    Codes are relative to the largest code of the atom, atoms have unit norm, and
    histograms have no sample counts, because scale and density are similar for all
    atoms of a model.

    Parameters
    ----------
    items : list of (estimator, statistics, atom, words)
    X : ndarray of shape (n_samples, n_features)
    view : View
    study : str
        Identifier shared by answers and key.

    Returns
    -------
    data : dict
    blobs : dict of str
        Base64.
    """
    shown = []
    for _, statistics, atom, words in items:
        (item,) = details_of(statistics, [atom], words)
        shown.append(_relative(item))
    atoms = np.stack([estimator.components_[atom] for estimator, _, atom, _ in items])
    atoms = unit_atoms(atoms, "components_")
    data, blobs = packed_shapes(view, X, _samples(shown), atoms=atoms)
    return data | {"details": shown, "study": study}, blobs


def _relative(item: dict[str, Any]) -> dict[str, Any]:
    """An item in units of its largest code and its most frequent bin."""
    histogram = item["histogram"]
    counts = np.array(histogram["counts"])
    # If no code is positive, the bins go from -1 to 0.
    largest = item["codes"][0] if item["codes"] else -histogram["start"]
    contexts = item.get("contexts", [])
    strongest = contexts[0]["code"] if contexts else 1.0
    return item | {
        "codes": significant(np.divide(item["codes"], largest)),
        "histogram": {
            "start": significant([histogram["start"] / largest])[0],
            "width": significant([histogram["width"] / largest])[0],
            "counts": significant(counts / counts.max()),
        },
        "contexts": [
            context | {"code": significant([context["code"] / strongest])[0]}
            for context in contexts
        ],
    }
