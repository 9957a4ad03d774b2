"""rating_agreement: what simulated raters say, with truth from scipy and by hand."""

import csv
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from skmfr import MFRSparseAutoencoder
from skmfr.inspection import blinded_report, rating_agreement

STUDY = "0123abcd"


def key_of(n_atoms=20, models=("ours", "theirs")):
    order = np.random.default_rng(0).permutation(len(models) * n_atoms)
    names = np.repeat(models, n_atoms)[order].tolist()
    return [
        {"study": STUDY, "item": item, "model": name}
        for item, name in enumerate(names, start=1)
    ]


def saved(folder, rater, ratings, kind="csv", study=STUDY):
    """What the page saves: all items, those without a rating too."""
    rows = [
        {
            "study": study,
            "rater": rater,
            "item": item,
            "rating": None if np.isnan(rating) else int(rating),
            "description": 'a "line",\nand more',
        }
        for item, rating in enumerate(ratings, start=1)
    ]
    file = folder / f"answers-{rater}.{kind}"
    if kind == "json":
        file.write_text(json.dumps(rows, indent=1))
        return file
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return file


def simulated(key, quality, noise, rng):
    """Ratings of an atom of known quality, (n_items,)."""
    mean = np.array([quality[row["model"]] for row in key])
    return np.clip(np.rint(mean + noise * rng.standard_normal(len(key))), 1, 5)


def test_models_are_rated_with_students_interval(tmp_path):
    key, rng = key_of(), np.random.default_rng(1)
    ratings = np.array(
        [simulated(key, {"ours": 4, "theirs": 2.5}, 1, rng) for _ in range(3)]
    )
    ratings[0, :5] = ratings[1:, 7] = np.nan
    files = [
        saved(tmp_path, rater, each, kind)
        for rater, each, kind in zip(
            "ABC", ratings, ["csv", "json", "csv"], strict=True
        )
    ]
    found = rating_agreement(key, files, confidence_level=0.9)
    np.testing.assert_array_equal(found.ratings, ratings)
    assert found.raters == ["A", "B", "C"]
    assert set(found.models) == {"ours", "theirs"}
    for name, model in found.models.items():
        own = ratings[:, [row["model"] == name for row in key]]
        of_atoms = np.nanmean(own, axis=0)
        assert model.mean == pytest.approx(of_atoms.mean())
        expected = stats.ttest_1samp(of_atoms, 0).confidence_interval(0.9)
        assert (model.low, model.high) == pytest.approx(tuple(expected))
        assert model.n_atoms == 20
        assert model.n_ratings == np.isfinite(own).sum()
    frame = found.to_frame()
    assert frame.loc["ours", "mean"] == found.models["ours"].mean


def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path):
    rng, hits = np.random.default_rng(2), 0
    key = key_of(15, ("ours",))
    for _ in range(100):
        # Of atoms whose ratings are 2, 3 or 4: 3 in the mean.
        ratings = rng.integers(2, 5, size=len(key)).astype(float)
        model = rating_agreement(key, [saved(tmp_path, "A", ratings, "json")]).models
        hits += model["ours"].low <= 3 <= model["ours"].high
    assert 0.88 < hits / 100 < 1


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_kappa_is_agreement_beyond_chance(tmp_path, weights):
    key, rng = key_of(200), np.random.default_rng(3)
    first = rng.integers(1, 6, size=len(key)).astype(float)
    near = np.clip(first + rng.integers(-1, 2, size=len(key)), 1, 5)
    other = rng.integers(1, 6, size=len(key)).astype(float)
    other[:50] = np.nan
    everyone = {"first": first, "same": first, "near": near, "other": other}
    files = [saved(tmp_path, *each) for each in everyone.items()]
    kappa = rating_agreement(key, files, weights=weights).kappa
    assert len(kappa) == 6
    assert kappa["first", "same"] == pytest.approx(1)
    assert abs(kappa["first", "other"]) < 0.15
    # By its definition, over a table of both ratings.
    table = np.zeros((5, 5))
    np.add.at(table, (first.astype(int) - 1, near.astype(int) - 1), 1 / len(key))
    apart = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    cost = {None: apart > 0, "linear": apart, "quadratic": apart**2}[weights]
    chance = np.outer(table.sum(1), table.sum(0))
    expected = 1 - (cost * table).sum() / (cost * chance).sum()
    assert kappa["first", "near"] == pytest.approx(expected)


def test_kappa_is_quadratic_by_default_over_the_whole_scale(tmp_path):
    """From 2 to 4 it is as far if nobody gives a 3."""
    one, other = np.array([[1.0, 1, 2, 5, 5, 2], [1, 2, 2, 5, 4, 5]])
    files = [saved(tmp_path, "A", one), saved(tmp_path, "B", other)]
    kappa = rating_agreement(key_of(3), files).kappa["A", "B"]
    by_chance = np.mean(np.subtract.outer(one, other) ** 2)
    assert kappa == pytest.approx(1 - np.mean((one - other) ** 2) / by_chance)


def test_raters_who_never_differ_have_no_kappa(tmp_path):
    key = key_of(3)
    threes, nothing = np.full(6, 3.0), np.full(6, np.nan)
    files = [saved(tmp_path, n, r) for n, r in [("A", threes), ("B", threes)]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(rating_agreement(key, files).kappa["A", "B"])
        files = [files[0], saved(tmp_path, "C", nothing)]
        found = rating_agreement(key, files)
    assert np.isnan(found.kappa["A", "C"])
    assert found.models["ours"] == (3.0, 3.0, 3.0, 3, 3)


def test_the_key_that_a_page_writes_is_read(tmp_path):
    X, _ = load_digits(return_X_y=True)
    sae = MFRSparseAutoencoder(16, max_steps=5, n_saes=1, n_witnesses=0).fit(X)
    page = blinded_report({"one": sae, "other": sae}, X, n_atoms=4, random_state=0)
    _, key = page.write(tmp_path)
    ratings = np.array([5.0 if row["model"] == "one" else 1.0 for row in page.key])
    file = saved(tmp_path, "A", ratings, study=page.key[0]["study"])
    found = rating_agreement(key, [file])
    assert found.models["one"].mean == 5
    assert found.models["other"].mean == 1
    assert rating_agreement(page.key, [file]).models == found.models


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_files_that_a_spreadsheet_has_saved_again_are_read(tmp_path, delimiter):
    """With another delimiter, and floats where a cell is empty."""
    key, ratings = key_of(3), np.array([1.0, 2, np.nan, 4, 5, 3])
    file = saved(tmp_path, "A", ratings)
    expected = rating_agreement(key, [file])
    frame = pd.read_csv(file)
    assert frame["rating"].dtype == float
    frame.to_csv(file, index=False, sep=delimiter)
    found = rating_agreement(key, [file])
    assert found.models == expected.models
    file.write_text(file.read_text().replace("line", "l\xefne"), "cp1252")
    with pytest.raises(ValueError, match="answers-A.csv is not in UTF-8"):
        rating_agreement(key, [file])


def test_texts_with_line_ends_of_unicode_stay_in_their_rows(tmp_path):
    file = saved(tmp_path, "A", np.arange(1.0, 4))
    expected = rating_agreement(key_of(3)[:3], [file])
    file.write_text(file.read_text().replace("line", "l\u2028\x85ne"), "utf-8")
    assert rating_agreement(key_of(3)[:3], [file]).models == expected.models


@pytest.mark.parametrize("item", [2, "two", None])
def test_a_key_has_a_number_for_each_item(tmp_path, item):
    key = key_of(3)
    key[0]["item"] = item
    with pytest.raises(ValueError, match="a different whole number for each item"):
        rating_agreement(key, [saved(tmp_path, "A", np.full(6, 3.0))])


def change(**changes):
    return lambda rows: rows[0].update(changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(rating=6), "rates item 1 with 6, expected a number from 1 to 5"),
        (change(rating="good"), "rates item 1 with 'good'"),
        (change(rating=2.5), "rates item 1 with 2.5"),
        (change(item=7), "has item 7, which is not in the key"),
        (change(item=2), "has item 2, which appears twice"),
        (change(study="another"), "has no answers for study '0123abcd'"),
        (change(rater="B"), r"has several raters: \['A', 'B'\]"),
        (lambda rows: rows.clear(), "has no answers for study"),
    ],
)
def test_files_with_other_answers_are_named(tmp_path, spoil, message):
    file = saved(tmp_path, "A", np.full(6, 3.0), "json")
    rows = json.loads(file.read_text())
    spoil(rows)
    file.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=f"answers-A.json {message}"):
        rating_agreement(key_of(3), [file])


def test_what_cannot_be_scored_is_told(tmp_path):
    key, file = key_of(3), saved(tmp_path, "A", np.full(6, np.nan))
    damaged = tmp_path / "damaged.json"
    damaged.write_text("[{")
    for answers, message in [
        (file, "answers must be a list of files"),
        ([file], "answers contain no rating"),
        ([], "answers contain no rating"),
        ([file, file], "is by 'A', and so is another file"),
        ([damaged], "damaged.json is damaged"),
    ]:
        with pytest.raises(ValueError, match=message):
            rating_agreement(key, answers)
    with pytest.raises(ValueError, match="key must have rows"):
        rating_agreement([{"item": 1}], [file])
