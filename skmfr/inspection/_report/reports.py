"""Pages for browsing atoms, and for blinded rating."""

from __future__ import annotations

import csv
import io
import tempfile
import webbrowser
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from numbers import Integral, Real
from os import PathLike
from pathlib import Path

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import validate_params

from ..._base import BaseSparseAutoencoder
from ..._data.checked import checked_data, max_norm_of
from ..._utils.checks import Interval
from ..._utils.files import replacing
from .data import Words, rating_data, report_data
from .page import evidence, render, rule, summary_html
from .statistics import atom_statistics
from .views import make_view


class Report:
    """A self-contained page, which notebooks show.

    :func:`report` makes it.

    Parameters
    ----------
    page : str
        The page, in HTML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import report
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(32, max_steps=50, random_state=0).fit(X)
    >>> page = report(sae, X, image_shape=(8, 8), title="Digits")
    >>> "<title>Digits</title>" in page.html()
    True
    """

    def __init__(self, page: str):
        # A half of a surrogate pair is in no encoding.
        self._page = page.encode(errors="replace").decode()

    def html(self) -> str:
        """Return the page as a string.

        Returns
        -------
        page : str
            HTML that contains everything.
        """
        return self._page

    def write_html(self, path: str | PathLike) -> Path:
        """Write the page to a file, completely or not at all.

        Parameters
        ----------
        path : path-like
            File to write. An existing file is replaced.

        Returns
        -------
        path : Path
            The file.

        Raises
        ------
        OSError
            If the file cannot be written, for example because the folder is missing.
        """
        path = Path(path)
        with replacing(path) as fresh:
            fresh.write_bytes(self._page.encode())
        return path

    def open(self) -> Path:
        """Show the page in the browser, from a new temporary file.

        Returns
        -------
        path : Path
            The file, which is kept for the browser.
        """
        path = self.write_html(Path(tempfile.mkdtemp(prefix="skmfr-")) / "report.html")
        webbrowser.open(path.as_uri())
        return path

    def _repr_html_(self) -> str:
        # A separate document, which cannot access the notebook.
        return (
            f'<iframe srcdoc="{escape(self._page)}" sandbox="allow-scripts '
            'allow-downloads" title="Report" style="width: 100%; height: 720px; '
            'border: 0"></iframe>'
        )


class BlindedReport(Report):
    """A page for rating atoms without knowing their models, and its key.

    :func:`blinded_report` makes it.

    Parameters
    ----------
    page : str
        The page, in HTML.
    key : list of dict
        The key, which is stored as an attribute.

    Attributes
    ----------
    key : list of dict
        For each item of the page, in its order: "study", "item" (from 1), "model",
        "atom", "agreement" (None for a single SAE), "trusted".

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import blinded_report
    >>> X, _ = load_digits(return_X_y=True)
    >>> one, other = (
    ...     MFRSparseAutoencoder(32, alpha=alpha, max_steps=50, random_state=0).fit(X)
    ...     for alpha in (0.0, 1.0)
    ... )
    >>> rating = blinded_report(
    ...     {"one": one, "other": other}, X, n_atoms=5, random_state=0
    ... )
    >>> len(rating.key)
    10
    """

    def __init__(self, page: str, key: list[dict]):
        super().__init__(page)
        self.key = key

    def write(self, folder: str | PathLike) -> tuple[Path, Path]:
        """Write the page and, beside it, the key, which raters should not see.

        Parameters
        ----------
        folder : path-like
            Folder, which is created if it is missing.

        Returns
        -------
        page, key : Path
            Files ``atoms.html``, and ``key.csv`` with the rows of `key`. The column
            "item" is also in the answers that raters save.

        Raises
        ------
        OSError
            If the files cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        page, key = self.write_html(folder / "atoms.html"), folder / "key.csv"
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.key[0])
        writer.writeheader()
        writer.writerows(self.key)
        with replacing(key) as fresh:
            fresh.write_bytes(text.getvalue().encode(errors="replace"))
        return page, key


POSITIVE = [Interval(Integral, 1, None, closed="left")]


@validate_params(
    {
        "estimator": [BaseSparseAutoencoder],
        "title": [str, None],
        "max_atoms": POSITIVE,
        "n_examples": POSITIVE,
        "max_norm_ratio": [Interval(Real, 0, None, closed="neither"), None],
    },
    prefer_skip_nested_validation=True,
)
def report(
    estimator,
    X,
    *,
    image_shape=None,
    ch_names=None,
    sfreq=None,
    contexts=None,
    effects=None,
    tokenizer=None,
    feature_names=None,
    notes=None,
    title=None,
    max_atoms=500,
    n_examples=8,
    max_norm_ratio=None,
) -> Report:
    """Put all atoms on one page, to browse them.

    The page has a summary, training curves, the agreement of atoms, and a table of all
    atoms that you can sort, filter and search. Each atom opens with its shape, the
    samples in which it is strongest and a histogram of its codes. The page needs no
    network.

    Parameters
    ----------
    estimator : MFRSparseAutoencoder or PretrainedSAE
        Fitted SAE.
    X : array-like of shape (n_samples, n_features)
        Samples to show atoms in. They are read once, in blocks; a memory-mapped array
        stays on disk.
    image_shape : tuple of int, optional
        (height, width), or (height, width, 3) in colour, if the features are pixels.
    ch_names : sequence of str, optional
        Names of channels, if the features are all times of the first channel, then of
        the second, and so on, as in EEG windows.
    sfreq : float, optional
        Samples per second of curves and channels, in hertz. None numbers the points.
    contexts : Contexts, optional
        From :func:`skmfr.activations.top_contexts`. They are shown instead of shapes
        and samples, if the features are activations of a language model.
    effects : LogitEffects, optional
        From :func:`skmfr.activations.logit_effects`.
    tokenizer : transformers tokenizer, optional
        Converts tokens to text; without it, token ids are shown.
    feature_names : sequence or mapping of str, optional
        Names of atoms: one for each atom, or a mapping from atom indices.
    notes : mapping of str, optional
        Notes on atoms, by atom index.
    title : str, optional
        Heading of the page.
    max_atoms : int, default=500
        Number of atoms to show in full: those with the largest usage, the sum of their
        squared contributions to reconstructions. The table lists the others.
    n_examples : int, default=8
        Number of samples to show for each atom, those with the largest codes.
    max_norm_ratio : float, default=None
        Samples whose norm exceeds this multiple of ``estimator.median_norm_`` are left
        out. To leave out first tokens, use an extractor with `skip_first`.

    Returns
    -------
    Report
        ``write_html(path)`` writes the page, ``open()`` shows it in a browser,
        ``html()`` returns it as a string. A notebook shows it at the end of a cell.

    Raises
    ------
    ValueError
        If X is not as in :meth:`MFRSparseAutoencoder.transform`; if `image_shape`,
        `ch_names`, `contexts`, names or notes do not match the atoms; if no sample is
        left; or if `estimator` has no ``median_norm_``.

    Notes
    -----
    Density is the share of samples in which an atom is active. Mean and largest refer
    to its codes there. Usage is its share of the squared codes of all atoms. Shapes
    have 256 levels. If they would take more than 11 MB, they are averaged to fewer
    points; a smaller `max_atoms` or `n_examples` keeps more.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import report
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(64, max_steps=100, random_state=0).fit(X[:500])
    >>> page = report(sae, X, image_shape=(8, 8), feature_names={3: "upper stroke"})
    >>> "upper stroke" in page.html()
    True
    """
    X = checked_data(estimator, X)
    n_atoms = len(estimator.components_)
    _check_size("contexts", contexts and contexts.codes, estimator)
    _check_size("effects", effects and effects.promoted, estimator)
    _check_tokens(contexts)
    view = _view(estimator, image_shape, ch_names, sfreq, contexts is not None)
    names = _by_atom("feature_names", feature_names, n_atoms)
    notes = _by_atom("notes", notes, n_atoms)
    max_norm = max_norm_of(estimator, max_norm_ratio)
    statistics = atom_statistics(estimator, X, n_examples, max_norm)
    atoms = np.argsort(-statistics.energy, kind="stable")[:max_atoms]
    words = Words(contexts, effects, tokenizer)
    data, blobs = report_data(
        estimator, X, statistics, view, atoms, words, names, notes
    )
    page = render(
        "report",
        title or f"{n_atoms:,} atoms of a sparse autoencoder",
        data,
        blobs,
        summary=summary_html(estimator, statistics),
        evidence=escape(evidence(estimator)),
        rule=escape(rule(len(atoms), n_atoms)),
    )
    return Report(page)


@validate_params(
    {
        "estimators": [Mapping],
        "contexts": [Mapping, None],
        "title": [str],
        "n_atoms": POSITIVE,
        "n_examples": POSITIVE,
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def blinded_report(
    estimators,
    X,
    *,
    image_shape=None,
    ch_names=None,
    sfreq=None,
    contexts=None,
    tokenizer=None,
    title="How clear is each atom?",
    n_atoms=20,
    n_examples=8,
    random_state=None,
) -> BlindedReport:
    """Make a page for rating atoms of several models without knowing the model.

    The page shows one atom after the other, in random order: its shape, the samples in
    which it is strongest, a histogram of its codes, and a form for a rating and a few
    words. It saves the answers as CSV or JSON, without network, and can load them
    again.

    Codes are shown relative to the largest code of their atom and without sample
    counts, and atoms with unit norm, because scale and density would reveal the model.

    Parameters
    ----------
    estimators : mapping of MFRSparseAutoencoder or PretrainedSAE
        Fitted models by name, with the same features. Only the key contains the names.
    X : array-like of shape (n_samples, n_features)
        Samples to show atoms in.
    image_shape : tuple of int, optional
        As in :func:`report`.
    ch_names : sequence of str, optional
        As in :func:`report`.
    sfreq : float, optional
        As in :func:`report`.
    contexts : mapping of Contexts, optional
        One for each name of `estimators`, as in :func:`report`.
    tokenizer : transformers tokenizer, optional
        As in :func:`report`.
    title : str, default="How clear is each atom?"
        Heading of the page.
    n_atoms : int, default=20
        Number of atoms of each model, drawn at random from those that are active in X;
        all of them if there are fewer.
    n_examples : int, default=8
        Number of samples to show for each atom.
    random_state : int, RandomState instance or None, default=None
        Determines which atoms are drawn, and their order.

    Returns
    -------
    BlindedReport
        ``write(folder)`` writes the page, and the key in a second file.

    Raises
    ------
    ValueError
        If there is no estimator or no active atom, if `contexts` lacks one of the
        names, or as in :func:`report`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.inspection import blinded_report
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(32, max_steps=50, random_state=0).fit(X)
    >>> single = MFRSparseAutoencoder(32, n_saes=1, max_steps=50, random_state=0).fit(X)
    >>> study = blinded_report(
    ...     {"mfr": sae, "single": single}, X, image_shape=(8, 8), random_state=0
    ... )
    >>> len(study.key), study.key[0]["item"]
    (40, 1)
    """
    _check_models(estimators, contexts)
    draw = check_random_state(random_state)
    # Some estimators may know names of features. Which come first must not matter.
    models = list(estimators.values())
    named = [model for model in models if hasattr(model, "feature_names_in_")]
    shown_as = (named or models)[0]
    shown = checked_data(shown_as, X)
    view = _view(shown_as, image_shape, ch_names, sfreq, contexts is not None)
    items: list[tuple] = []
    key: list[dict] = []
    for name, estimator in estimators.items():
        own = contexts and contexts[name]
        _check_size(f"contexts[{name!r}]", own and own.codes, estimator)
        _check_tokens(own)
        statistics = atom_statistics(estimator, checked_data(estimator, X), n_examples)
        (active,) = np.nonzero(statistics.n_active)
        for atom in draw.permutation(active)[:n_atoms].tolist():
            agreement = estimator.feature_agreement_[atom]
            items.append((estimator, statistics, atom, Words(own, None, tokenizer)))
            key.append(
                {
                    "model": name,
                    "atom": atom,
                    "agreement": None if np.isnan(agreement) else float(agreement),
                    "trusted": bool(estimator.trusted_[atom]),
                }
            )
    if not items:
        raise ValueError("No atom of any estimator is active in X.")
    order = draw.permutation(len(items)).tolist()
    key = [{"item": number} | key[i] for number, i in enumerate(order, start=1)]
    # The letter, because spreadsheets would read 12e45678 as a number.
    study = "s" + sha256(repr(key).encode()).hexdigest()[:8]
    data, blobs = rating_data([items[i] for i in order], shown, view, study)
    page = render("rating", title, data, blobs)
    return BlindedReport(page, [{"study": study} | row for row in key])


def _check_models(estimators: Mapping, contexts: Mapping | None) -> None:
    if not estimators or not all(
        isinstance(estimator, BaseSparseAutoencoder)
        for estimator in estimators.values()
    ):
        raise ValueError(
            "estimators must be a non-empty mapping from names to fitted SAEs, got "
            f"{estimators!r}."
        )
    if contexts is not None and set(contexts) != set(estimators):
        raise ValueError(
            f"contexts has the names {sorted(contexts)}, but estimators has "
            f"{sorted(estimators)}."
        )


def _check_tokens(contexts) -> None:
    if contexts is not None and contexts.tokens is None:
        raise ValueError(
            "contexts has no tokens to show, because its inputs were not sequences of "
            "tokens."
        )


def _view(estimator, image_shape, ch_names, sfreq, is_text: bool):
    return make_view(
        estimator.n_features_in_,
        image_shape=image_shape,
        ch_names=ch_names,
        sfreq=sfreq,
        is_text=is_text,
        labels=getattr(estimator, "feature_names_in_", ()),
    )


def _check_size(name: str, rows: np.ndarray | None, estimator) -> None:
    n_atoms = len(estimator.components_)
    if rows is not None and len(rows) != n_atoms:
        raise ValueError(f"{name} has {len(rows)} atoms, but there are {n_atoms}.")


def _by_atom(name: str, texts, n_atoms: int) -> dict[int, str]:
    """Texts that are not empty, by atom index."""
    if texts is None:
        return {}
    if isinstance(texts, str):
        raise ValueError(f"{name} must map atom indices to texts, got one text.")
    if not isinstance(texts, Mapping):
        if len(texts) != n_atoms:
            raise ValueError(
                f"{name} has {len(texts)} texts, but there are {n_atoms} atoms; pass "
                "a mapping to name only some of them."
            )
        texts = dict(enumerate(texts))
    unknown = [atom for atom in texts if atom not in range(n_atoms)]
    if unknown:
        raise ValueError(
            f"{name} has {unknown[0]!r}, but atoms go from 0 to {n_atoms - 1}."
        )
    # JSON does not accept NumPy integers as keys.
    return {int(atom): str(text) for atom, text in texts.items() if text}
