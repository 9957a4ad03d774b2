"""Ratings of the atoms of several models, after the key is opened."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from itertools import combinations
from numbers import Real
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from sklearn.utils._param_validation import StrOptions, validate_params

from ..._utils.checks import Interval
from ..._utils.extras import needed_by

if TYPE_CHECKING:
    import pandas as pd

SCALE = (1, 2, 3, 4, 5)


class ModelRating(NamedTuple):
    """Ratings of the atoms of one model.

    Examples
    --------
    >>> from skmfr.inspection import ModelRating
    >>> ModelRating(mean=3.5, low=3.1, high=3.9, n_atoms=20, n_ratings=40).mean
    3.5
    """

    mean: float
    """mean of the atoms' mean ratings"""
    low: float
    high: float
    """interval of the mean, over atoms; NaN for a single atom"""
    n_atoms: int
    """number of atoms that anyone rated"""
    n_ratings: int


class RatingAgreement(NamedTuple):
    """Ratings by model and agreement of raters, from :func:`rating_agreement`.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.inspection import ModelRating, RatingAgreement
    >>> found = RatingAgreement(
    ...     models={"one": ModelRating(3.0, 2.5, 3.5, 2, 4)},
    ...     kappa={("A", "B"): 0.6},
    ...     raters=["A", "B"],
    ...     ratings=np.array([[3.0, 4.0], [2.0, 3.0]]),
    ... )
    >>> found.kappa["A", "B"]
    0.6
    """

    models: dict[str, ModelRating]
    """by name, in the order of the key"""
    kappa: dict[tuple[str, str], float]
    """Cohen's kappa of each pair of raters over the items that both have rated; NaN if
    chance alone would make them agree"""
    raters: list[str]
    ratings: np.ndarray
    """(n_raters, n_items), in the order of the page; NaN if not rated"""

    def to_frame(self) -> pd.DataFrame:
        """Make a table of the models.

        Returns
        -------
        DataFrame
            Index "model"; columns "mean", "low", "high", "n_atoms", "n_ratings".

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        with needed_by("RatingAgreement.to_frame", "activations"):
            import pandas as pd

        index = pd.Index(self.models, name="model")
        return pd.DataFrame(list(self.models.values()), index, ModelRating._fields)


@validate_params(
    {
        "weights": [StrOptions({"linear", "quadratic"}), None],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
    },
    prefer_skip_nested_validation=True,
)
def rating_agreement(
    key, answers, *, weights="quadratic", confidence_level=0.95
) -> RatingAgreement:
    """Open the key of a blinded page: ratings by model, and agreement of raters.

    Parameters
    ----------
    key : path-like or list of dict
        ``key.csv`` that :meth:`BlindedReport.write` wrote, or `BlindedReport.key`.
    answers : sequence of path-like
        Files that raters saved from the page, CSV or JSON, one for each rater.
    weights : {"linear", "quadratic"} or None, default="quadratic"
        How Cohen's kappa weights disagreements: by the difference, by its square, or
        all equally.
    confidence_level : float, default=0.95
        Confidence level of the intervals.

    Returns
    -------
    RatingAgreement
        `models`, `kappa`, `raters` and `ratings`; ``to_frame()`` makes a DataFrame of
        the models.

    Raises
    ------
    ValueError
            If a file is not an answer file, or belongs to another study; if a rating is
            not from 1 to 5; if an item is not in the key, or twice in a file; if two
            files have the same rater; or if there is no rating at all.

    Notes
    -----
    Atoms are treated as the sample: Student's interval for the mean of the atoms' mean
    ratings generalises to atoms that were not drawn, but only for these raters.

    References
    ----------
    J. Cohen, "Weighted kappa: Nominal scale agreement provision for scaled disagreement
    or partial credit", Psychological Bulletin 70 (4), 213-220, 1968.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from skmfr.inspection import rating_agreement
    >>> key = [
    ...     {"study": "a1", "item": i, "model": "ours" if i > 2 else "theirs"}
    ...     for i in (1, 2, 3, 4)
    ... ]
    >>> folder, files = Path(tempfile.mkdtemp()), []
    >>> for rater, ratings in {"A": [2, 1, 4, 5], "B": [2, 2, 4, 5]}.items():
    ...     files.append(folder / f"{rater}.json")
    ...     rows = [
    ...         {"study": "a1", "rater": rater, "item": i, "rating": rating}
    ...         for i, rating in enumerate(ratings, start=1)
    ...     ]
    ...     _ = files[-1].write_text(json.dumps(rows))
    >>> found = rating_agreement(key, files)
    >>> found.models["ours"].mean, round(found.kappa["A", "B"], 2)
    (4.5, 0.94)
    """
    if isinstance(answers, (str, PathLike)) or not isinstance(answers, Sequence):
        raise ValueError(f"answers must be a list of files, got {answers!r}.")
    rows = _checked_key(_records(key) if isinstance(key, (str, PathLike)) else key)
    study = rows[0]["study"]
    places = {int(row["item"]): place for place, row in enumerate(rows)}
    of_raters: dict[str, np.ndarray] = {}
    for file in answers:
        rater, ratings = _answers(file, study, places)
        if rater in of_raters:
            raise ValueError(
                f"{fspath(file)} is by {rater!r}, and so is another file: pass one "
                "file for each rater, each with a different name."
            )
        of_raters[rater] = ratings
    ratings = np.array(list(of_raters.values())).reshape(-1, len(rows))
    if np.isnan(ratings).all():
        raise ValueError("answers contain no rating.")
    names = np.array([str(row["model"]) for row in rows])
    models = {
        name: _model_rating(ratings[:, names == name], confidence_level)
        for name in dict.fromkeys(names.tolist())
    }
    kappa = {
        (one, other): _kappa(of_raters[one], of_raters[other], weights)
        for one, other in combinations(of_raters, 2)
    }
    return RatingAgreement(models, kappa, list(of_raters), ratings)


def _model_rating(ratings: np.ndarray, confidence_level: float) -> ModelRating:
    """Rating of one model from the ratings of its atoms, (n_raters, n_atoms)."""
    rated = ratings[:, ~np.isnan(ratings).all(axis=0)]
    of_atoms = np.nanmean(rated, axis=0) if rated.size else np.empty(0)
    n, mean, low, high = len(of_atoms), np.nan, np.nan, np.nan
    if n:
        mean = of_atoms.mean()
    if n > 1:
        error = of_atoms.std(ddof=1) / n**0.5
        reach = error * stats.t.ppf((1 + confidence_level) / 2, n - 1)
        low, high = mean - reach, mean + reach
    n_ratings = int(np.isfinite(rated).sum())
    return ModelRating(float(mean), float(low), float(high), n, n_ratings)


def _kappa(one: np.ndarray, other: np.ndarray, weights: str | None) -> float:
    both = np.isfinite(one) & np.isfinite(other)
    pair = one[both].astype(int), other[both].astype(int)
    if len(np.unique(pair)) < 2:
        return np.nan
    return float(cohen_kappa_score(*pair, labels=SCALE, weights=weights))


def _records(file) -> list[dict[str, Any]]:
    """Rows of a CSV or JSON file.

    Raises
    ------
    ValueError
        If the file is not CSV or JSON, or not in UTF-8.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{fspath(file)} is not in UTF-8: {error}.") from error
    if text.lstrip()[:1] not in ("[", "{"):
        # Spreadsheets write other delimiters in some countries.
        header, *_ = text.split("\n", 1)
        delimiter = max(",;\t", key=header.count)
        # Not splitlines, which also ends lines at characters that texts may contain.
        return list(csv.DictReader(StringIO(text, newline=""), delimiter=delimiter))
    try:
        records = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{fspath(file)} is damaged: {error}") from error
    if isinstance(records, list) and all(isinstance(each, dict) for each in records):
        return records
    raise ValueError(f"{fspath(file)} does not contain a list of answers.")


def _checked_key(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    rows = list(rows)
    if not rows or not all({"study", "item", "model"} <= set(row) for row in rows):
        raise ValueError("key must have rows with study, item and model.")
    if len({str(row["study"]) for row in rows}) > 1:
        raise ValueError("key must belong to one study.")
    items = [_number(row["item"]) for row in rows]
    if None in items or -1 in items or len(set(items)) < len(items):
        raise ValueError("key must have a different whole number for each item.")
    return rows


def _answers(file, study: str, places: dict[int, int]) -> tuple[str, np.ndarray]:
    """Name of the rater, and the ratings in the order of the key, (n_items,)."""
    records = _records(file)
    if not records or {str(record.get("study")) for record in records} != {str(study)}:
        raise ValueError(f"{fspath(file)} has no answers for study {study!r}.")
    raters = {str(record.get("rater") or "") for record in records}
    if len(raters) > 1:
        raise ValueError(f"{fspath(file)} has several raters: {sorted(raters)}.")
    ratings, seen = np.full(len(places), np.nan), set[int]()
    for record in records:
        item, rating = _number(record.get("item")), _number(record.get("rating"))
        if item is None or item not in places or item in seen:
            raise ValueError(
                f"{fspath(file)} has item {record.get('item')!r}, which "
                + ("appears twice." if item in seen else "is not in the key.")
            )
        seen.add(item)
        if rating is None:
            continue
        if rating not in SCALE:
            raise ValueError(
                f"{fspath(file)} rates item {item} with {record['rating']!r}, expected "
                f"a number from {SCALE[0]} to {SCALE[-1]}."
            )
        ratings[places[item]] = rating
    return raters.pop() or Path(file).stem, ratings


def _number(value) -> int | None:
    """Convert text or a number to an integer; None if empty, -1 if invalid."""
    if value is None or value == "":
        return None
    try:
        number = float(value)  # "2.0" if a table had empty cells
    except (TypeError, ValueError):
        return -1
    return int(number) if number.is_integer() else -1
