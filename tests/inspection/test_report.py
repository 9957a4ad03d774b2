import csv
import json
import re
import warnings
from base64 import b64decode, b64encode
from copy import copy
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from skmfr import MFRSparseAutoencoder
from skmfr.activations import Contexts, LogitEffects
from skmfr.agreement import nearest_atoms
from skmfr.inspection import blinded_report, report
from skmfr.inspection._report import views
from skmfr.inspection._report.statistics import Histograms, atom_statistics
from skmfr.io import from_sae_lens, load, save, to_sae_lens
from skmfr.metrics import fvu

HOSTILE = "</script><script>document.title = 'run'</script><!-- \" ' &amp;"


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(40, 12))
    chosen = rng.random((300, 40)) < 0.1
    return (rng.random((300, 40)) * chosen) @ atoms


@pytest.fixture(scope="module")
def sae(X):
    parameters = {"n_components": 30, "k": 4, "max_steps": 100, "random_state": 0}
    parameters["n_witnesses"] = 1
    return MFRSparseAutoencoder(**parameters).fit(X)


@pytest.fixture
def small_blocks(monkeypatch):
    """Data are read 16 samples at a time."""
    monkeypatch.setattr("skmfr._kernels.dense.BLOCK_SIZE", 1)


def data_of(page) -> dict:
    """What the script of a page reads."""
    return json.loads(content(page, "data"))


def content(page, name: str) -> str:
    found = re.search(f'<script type="text/plain" id="{name}">(.*?)</script>', page)
    return found.group(1)


def unpacked(page, name: str) -> np.ndarray:
    """Shapes as the script sees them, (n_shapes, n_points)."""
    limits = data_of(page)[name]
    low, high = (np.array(limits[end])[:, None] for end in ("low", "high"))
    levels = np.frombuffer(b64decode(content(page, f"{name}-bytes")), np.uint8)
    return low + (high - low) / 255 * levels.reshape(len(low), -1)


@pytest.mark.parametrize("algorithm", ["encoder", "omp"])
def test_numbers_are_those_of_all_codes(X, sae, small_blocks, algorithm):
    sae = copy(sae).set_params(transform_algorithm=algorithm)
    codes = sae.transform(X)
    statistics = atom_statistics(sae, X, n_examples=5)
    active = codes != 0
    np.testing.assert_allclose(statistics.density, active.mean(0))
    mean = codes.sum(0) / np.maximum(active.sum(0), 1)
    np.testing.assert_allclose(statistics.mean, mean)
    energy = np.square(codes).sum(0)
    np.testing.assert_allclose(statistics.usage, energy / energy.sum(), rtol=1e-5)
    assert statistics.l0 == pytest.approx(active.sum(1).mean())
    assert statistics.fvu == pytest.approx(fvu(X, sae.reconstruct(X)))
    assert statistics.n_samples == len(X)


@pytest.mark.parametrize("algorithm", ["encoder", "omp"])
def test_examples_are_the_largest_codes(X, sae, small_blocks, algorithm):
    sae = copy(sae).set_params(transform_algorithm=algorithm)
    codes = sae.transform(X)
    statistics = atom_statistics(sae, X, n_examples=5)
    for atom, column in enumerate(codes.T):
        order = np.argsort(-column, kind="stable")[:5]
        order = order[column[order] > 0]
        assert statistics.examples[atom, : len(order)].tolist() == order.tolist()
        np.testing.assert_allclose(statistics.codes[atom, : len(order)], column[order])
        assert (statistics.examples[atom, len(order) :] == -1).all()


@pytest.mark.parametrize("algorithm", ["encoder", "omp"])
def test_histograms_are_those_of_numpy(X, sae, small_blocks, algorithm):
    sae = copy(sae).set_params(transform_algorithm=algorithm)
    codes = sae.transform(X)
    histograms = atom_statistics(sae, X, n_examples=1).histograms
    n_negative = 0
    for atom, column in enumerate(codes.T):
        active = column[column != 0]
        start, width, counts = histograms.of(atom)
        edges = start + width * np.arange(len(counts) + 1)
        if len(active):
            expected, _ = np.histogram(active, edges)
            assert counts.tolist() == expected.tolist()
        assert counts.sum() == len(active)
        n_negative += start < 0
    assert (n_negative > 0) == (algorithm == "omp")


def test_histograms_do_not_depend_on_how_codes_come():
    rng = np.random.default_rng(0)
    atoms = rng.integers(3, size=400)
    # Atom 2 is never active; sizes span many orders of magnitude, and powers of 2.
    atoms[atoms == 2] = 0
    values = rng.normal(size=400) * 10.0 ** rng.integers(-6, 6, size=400)
    values[:20] = 2.0 ** np.arange(-10, 10)
    at_once = Histograms(3)
    at_once.add(atoms, values)
    one_by_one = Histograms(3)
    for i in np.argsort(np.abs(values)):
        one_by_one.add(atoms[[i]], values[[i]])
    for atom in range(3):
        start, width, counts = at_once.of(atom)
        assert one_by_one.of(atom)[:2] == (start, width)
        assert one_by_one.of(atom).counts.tolist() == counts.tolist()
    largest = np.abs(values[atoms == 0]).max()
    width = at_once.of(0).width
    assert 16 * width < largest <= 32 * width
    assert len(at_once.of(2).counts) == 0
    # A power of 2 is the end of its last bin.
    at_once.add(np.array([2]), np.array([64.0]))
    assert at_once.of(2)[:2] == (0, 2)
    assert at_once.of(2).counts.tolist() == [0] * 31 + [1]


def test_the_page_has_what_was_fitted(X, sae):
    page = report(sae, X).html()
    data = data_of(page)
    table = data["table"]
    np.testing.assert_allclose(table["agreement"], sae.feature_agreement_, rtol=1e-3)
    assert np.array_equal(table["trusted"], sae.trusted_)
    others = [i for i in range(3) if i != sae.reference_sae_]
    dictionaries = [*sae.dictionaries_[others], *sae.witness_dictionaries_]
    for match, atoms in zip(data["matches"], dictionaries, strict=True):
        cosine, index = nearest_atoms(sae.components_, atoms)
        assert match["atom"] == index.tolist()
        np.testing.assert_allclose(match["cosine"], cosine, rtol=1e-3)
    assert [match["name"] for match in data["matches"]] == [
        *(f"SAE {i}" for i in others),
        "witness 0",
    ]
    assert np.mean(data["loss"]["fvu"]) == pytest.approx(sae.loss_curve_.mean(), 1e-3)
    assert data["loss"]["step"] == list(range(1, sae.n_steps_ + 1))
    assert data["null"] == pytest.approx(sae.agreement_null_)
    np.testing.assert_allclose(table["reappearance"], sae.reappearance_, rtol=1e-3)
    assert f"{fvu(X, sae.reconstruct(X)):.1%}" in page


def test_shapes_are_right_to_one_of_256_levels(X, sae):
    page = report(sae, X, image_shape=(3, 4)).html()
    data = data_of(page)
    for name, rows in (
        ("atoms", sae.components_[data["atoms"]["numbers"]]),
        ("samples", X[data["samples"]["numbers"]]),
        ("offset", sae.decoder_bias_[None]),
    ):
        level = np.ptp(rows, axis=1, keepdims=True) / 255
        error = np.abs(unpacked(page, name) - rows)
        assert (error <= 0.51 * level + 1e-6 * np.abs(rows).max()).all()
    assert set(data["samples"]["numbers"]) == {
        sample for detail in data["details"].values() for sample in detail["samples"]
    }


def test_shapes_are_right_beside_an_offset(X, sae):
    """Of 100,000 times their size, of which four digits would leave nothing."""
    shifted = clone(sae).set_params(max_steps=5).fit(X + 1e5)
    page = report(shifted, X + 1e5).html()
    rows = (X + 1e5)[data_of(page)["samples"]["numbers"]]
    level = np.ptp(rows, axis=1, keepdims=True) / 255
    assert (np.abs(unpacked(page, "samples") - rows) <= 0.51 * level + 0.01).all()


def test_full_detail_goes_to_atoms_with_the_largest_squared_codes(X, sae):
    page = report(sae, X, max_atoms=7).html()
    data = data_of(page)
    energy = np.square(sae.transform(X)).sum(0)
    assert data["atoms"]["numbers"] == np.argsort(-energy)[:7].tolist()
    assert set(map(int, data["details"])) == set(data["atoms"]["numbers"])
    assert len(data["table"]["usage"]) == 30
    assert "The 7 atoms with the largest usage are shown in full" in page


@pytest.mark.parametrize(
    ("way", "shape"),
    [
        ({"image_shape": (30, 40)}, (30, 40)),
        ({"image_shape": (20, 20, 3)}, (20, 20, 3)),
        ({"ch_names": ["Fz", "Cz", "Pz"]}, (3, 400)),
        ({}, (1200,)),
    ],
)
@pytest.mark.parametrize("n_shapes", [10, 8_000, 300_000, 10**9])
def test_many_shapes_are_means_of_neighbours(way, shape, n_shapes):
    view = views.make_view(1200, sfreq=200, **way)
    assert view.shape == shape
    fewer = views.thinned(view, n_shapes)
    n_points = np.prod(fewer.shape)
    assert n_points * n_shapes <= max(views.MOST_BYTES, 3 * n_shapes)
    rows = np.random.default_rng(0).normal(size=(5, 1200))
    averaged = views.averaged(rows, view, fewer)
    assert averaged.shape == (5, n_points)
    if n_shapes == 10:
        assert fewer == view
        assert np.array_equal(averaged, rows)
    # The first point, from what it is the mean of.
    spans = [
        slice(-(-size // less)) for size, less in zip(shape, fewer.shape, strict=True)
    ]
    first = rows.reshape(5, *shape)[(slice(None), *spans)]
    np.testing.assert_allclose(averaged[:, 0], first.mean(tuple(range(1, first.ndim))))
    if view.step:
        n_times = shape[-1]
        assert fewer.step == pytest.approx(-(-n_times // fewer.shape[-1]) / 200)


@pytest.fixture(scope="module")
def large():
    """The state of a fit of 16,384 atoms, in 1,000 samples."""
    rng = np.random.default_rng(0)
    n_atoms, n_features = 16_384, 64
    X = rng.normal(size=(1000, n_features)).astype(np.float32)
    sae = MFRSparseAutoencoder(n_atoms, n_saes=1, n_witnesses=0, max_steps=1, k=16)
    sae.set_params(random_state=0).fit(X)
    sae.components_ = sae.dictionaries_[0]
    # Small witnesses are as many numbers in the page.
    sae.witness_dictionaries_ = sae.components_[:300].reshape(3, 100, n_features)
    sae.feature_agreement_ = rng.random(n_atoms)
    sae.trusted_ = sae.feature_agreement_ > 0.8
    return sae, X


def test_a_page_of_16k_atoms_stays_below_15_mb(large):
    sae, X = large
    names = [f"a name for atom {i}" for i in range(16_384)]
    page = report(sae, X, image_shape=(8, 8), feature_names=names).html()
    data = data_of(page)
    assert len(data["details"]) == 500
    assert len(data["table"]["usage"]) == len(data["names"]) == 16_384
    # What is left is more than shapes may take.
    assert len(page) < 15e6 - 4 / 3 * views.MOST_BYTES


def test_memory_maps_and_frames_give_the_same_page(X, sae, tmp_path):
    np.save(tmp_path / "X.npy", X)
    before = X.copy()
    expected = report(sae, X).html()
    assert report(sae, np.load(tmp_path / "X.npy", mmap_mode="r")).html() == expected
    assert report(sae, X.tolist()).html() == expected
    assert np.array_equal(X, before)


def test_names_of_features_label_curves(X):
    frame = pd.DataFrame(X, columns=[f"gene {i}" for i in range(12)])
    sae = MFRSparseAutoencoder(8, max_steps=20, random_state=0).fit(frame)
    assert data_of(report(sae, frame).html())["view"]["labels"] == list(frame)


def test_texts_cannot_leave_their_place(X, sae):
    page = report(
        sae, X, title=HOSTILE, feature_names={2: HOSTILE}, notes={3: HOSTILE}
    ).html()
    assert "<script>document" not in page
    # The script, and what it reads: data and three kinds of shapes.
    assert page.count("<script") == page.count("</script>") == 5
    data = data_of(page)
    assert data["names"] == {"2": HOSTILE}
    assert data["notes"] == {"3": HOSTILE}
    parsed = Parsed(page)
    assert parsed.texts["title"] == [HOSTILE]
    assert parsed.texts["h1"] == [HOSTILE]


class Parsed(HTMLParser):
    """Texts by tag, and attributes, of a document."""

    def __init__(self, page: str):
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.tag = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        self.texts.setdefault(self.tag, []).append(data)


def test_the_policy_lets_only_the_pages_own_code_run(X, sae):
    parsed = Parsed(report(sae, X).html())
    (policy,) = (
        value
        for tag, name, value in parsed.attributes
        if tag == "meta" and value.startswith("default-src")
    )
    assert policy.startswith("default-src 'none';")
    for source in (parsed.texts["script"][-1], parsed.texts["style"][0]):
        digest = b64encode(sha256(source.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not [v for _, name, v in parsed.attributes if name == "style"]
    addresses = [v for _, name, v in parsed.attributes if name in {"src", "href"}]
    assert addresses == ["data:,"]


def test_the_page_is_written_whole_and_shown(X, sae, tmp_path, monkeypatch):
    page = report(sae, X)
    path = page.write_html(str(tmp_path / "page.html"))
    assert path.read_text(encoding="utf-8") == page.html()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        page.write_html(tmp_path / "no folder" / "page.html")

    opened = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("webbrowser.open", opened.append)
    path = page.open()
    assert opened == [path.as_uri()]
    assert path.read_text(encoding="utf-8") == page.html()


def test_notebooks_show_the_page_in_a_document_of_its_own(X, sae):
    page = report(sae, X, title=HOSTILE)
    parsed = Parsed(page._repr_html_())
    attributes = {name: value for _, name, value in parsed.attributes}
    assert attributes["srcdoc"] == page.html()
    assert "allow-same-origin" not in attributes["sandbox"]
    assert not parsed.texts


class Letters:
    """A tokenizer that can go back: each id is a letter."""

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)


def contexts_of(n_atoms: int, **changes) -> Contexts:
    """One context for even atoms, none for odd ones."""
    inputs = np.where(np.arange(n_atoms) % 2, -1, 7)[:, None]
    tokens = np.full((n_atoms, 1, 4), -1)
    tokens[::2, 0] = [-1, 1, 2, 3]
    contexts = Contexts(
        codes=np.where(inputs < 0, 0.0, 2.5),
        inputs=inputs,
        positions=inputs.copy(),
        tokens=tokens,
        before=2,
        density=np.ones(n_atoms),
    )
    return contexts._replace(**changes)


def test_texts_stand_for_shapes_of_language_models(X, sae):
    ids = np.tile([0, 4], (30, 1))
    effects = LogitEffects(ids, ids + 0.5, ids + 1, ids - 0.5)
    contexts = contexts_of(30)
    words = {"contexts": contexts, "effects": effects, "tokenizer": Letters()}
    page = report(sae, X, **words).html()
    details = data_of(page)["details"]
    context = {"code": 2.5, "input": 7, "position": 7, "text": ["b", "c", "d"]}
    assert details["2"]["contexts"] == [context]
    assert details["3"]["contexts"] == []
    assert details["3"]["promoted"] == [["a", 0.5], ["e", 4.5]]
    assert details["3"]["suppressed"] == [["b", -0.5], ["f", 3.5]]
    assert "atoms-bytes" not in page
    details = data_of(report(sae, X, contexts=contexts).html())["details"]
    assert details["2"]["contexts"][0]["text"] == ["1", " 2", " 3"]


def test_one_sae_alone_has_no_agreement(X):
    sae = MFRSparseAutoencoder(8, n_saes=1, n_witnesses=0, max_steps=20, random_state=0)
    page = report(sae.fit(X), X).html()
    assert data_of(page)["table"]["agreement"] == [None] * 8
    assert data_of(page)["matches"] == []
    assert "One SAE alone agrees with nobody" in page


@pytest.mark.parametrize(
    ("parameters", "label", "evidence"),
    [
        ({"n_witnesses": 2}, "2 witnesses", "penalty never touched"),
        ({"n_witnesses": 0}, "other SAEs (under the penalty)", "it is no evidence."),
        ({"n_witnesses": 0, "alpha": 0.0}, "other SAEs", "1 is the same atom.<"),
    ],
)
def test_files_know_with_what_atoms_agree(X, tmp_path, parameters, label, evidence):
    usual = {"max_steps": 20, "random_state": 0}
    sae = MFRSparseAutoencoder(8, **usual | parameters).fit(X)
    page = report(sae, X).html()
    n_witnesses = {2: "2 witnesses", 0: "no witnesses"}[sae.n_witnesses]
    assert f"<dd>3 SAEs, {n_witnesses}, 20 steps</dd>" in page
    assert evidence in page
    save(sae, tmp_path / "alone", training_state=False)
    to_sae_lens(sae, tmp_path / "folder")
    for read in (load(tmp_path / "alone"), from_sae_lens(tmp_path / "folder")):
        page = report(read, X).html()
        assert f"<dt>Agreement with</dt><dd>{label}</dd>" in page
        assert evidence in page
        assert "Trained together" not in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_shape": (3, 5)}, r"image_shape=\(3, 5\) has 15 .* has 12 features"),
        ({"image_shape": (12,)}, r"image_shape must be .*, got \(12,\)"),
        ({"image_shape": (2, 3, 2)}, r"image_shape must be .*, got \(2, 3, 2\)"),
        ({"image_shape": (-3, -4)}, r"image_shape must be .*, got \(-3, -4\)"),
        ({"image_shape": (3.5, 4)}, r"image_shape must be .*, got \(3.5, 4.0\)"),
        ({"ch_names": ["a"] * 5}, "ch_names has 5 names, but the 12 features"),
        ({"ch_names": []}, "ch_names has 0 names"),
        ({"sfreq": 0}, "sfreq must be a positive number of hertz, got 0"),
        (
            {"image_shape": (3, 4), "ch_names": ["a"]},
            "image_shape and ch_names are given, but atoms can be shown in only",
        ),
        ({"contexts": contexts_of(30, tokens=None)}, "contexts has no tokens to show"),
        ({"contexts": contexts_of(8)}, "contexts has 8 atoms, but there are 30"),
        ({"feature_names": ["a"]}, "feature_names has 1 texts, but there are 30 atoms"),
        ({"feature_names": "abc"}, "feature_names must map atom indices to texts"),
        ({"notes": {30: "a"}}, "notes has 30, but atoms go from 0 to 29"),
        ({"max_atoms": 0}, "'max_atoms' parameter of report must be an int"),
        ({"n_examples": 0}, "'n_examples' parameter of report must be an int"),
    ],
)
def test_what_does_not_fit_is_named(X, sae, wrong, message):
    with pytest.raises(ValueError, match=message):
        report(sae, X, **wrong)


def test_samples_are_checked_as_in_transform(X, sae):
    with pytest.raises(ValueError, match="X has 11 features, but MFRSparseAutoencoder"):
        report(sae, X[:, 1:])
    with pytest.raises(ValueError, match="'estimator' parameter of report"):
        report("sae", X)


@pytest.fixture(scope="module")
def models(X, sae):
    other = MFRSparseAutoencoder(20, n_saes=1, n_witnesses=0, max_steps=100, k=2)
    return {"our secret": sae, "their's": other.set_params(random_state=1).fit(10 * X)}


def test_raters_do_not_see_whose_atoms_they_rate(X, models):
    study = blinded_report(models, X, n_atoms=8, random_state=0)
    page = study.html()
    data = data_of(page)
    assert not any(name in page for name in models)
    assert set(data) == {"view", "samples", "atoms", "details", "study"}
    rows = [(row["model"], row["atom"]) for row in study.key]
    assert len(set(rows)) == len(rows) == 16
    assert rows != sorted(rows)
    assert [row["item"] for row in study.key] == list(range(1, 17))
    shapes = unpacked(page, "atoms")
    for (model, atom), shape, item in zip(rows, shapes, data["details"], strict=True):
        estimator = models[model]
        np.testing.assert_allclose(shape, estimator.components_[atom], atol=0.01)
        codes = estimator.transform(X)[:, atom]
        best = np.argsort(-codes, kind="stable")[: len(item["samples"])]
        assert item["samples"] == best.tolist()
        # In units of the largest, and of the most frequent.
        relative = codes[best] / codes.max()
        np.testing.assert_allclose(item["codes"], relative, rtol=1e-3)
        assert max(item["histogram"]["counts"]) == 1
        assert "atom" not in item


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_of_atoms_do_not_reveal_the_model(X, sae, dtype):
    long = copy(sae)
    long.components_ = (5 * sae.components_).astype(dtype)
    study = blinded_report({"ours": sae, "long": long}, X, n_atoms=30, random_state=0)
    shapes = unpacked(study.html(), "atoms")
    limits = data_of(study.html())["atoms"]
    by_atom = {}
    for row, shape, *ends in zip(
        study.key, shapes, limits["low"], limits["high"], strict=True
    ):
        np.testing.assert_allclose(np.linalg.norm(shape), 1, atol=0.02)
        by_atom.setdefault(row["atom"], []).append(ends)
    for one, other in by_atom.values():
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_key_is_a_second_file(X, models, tmp_path):
    study = blinded_report(models, X, n_atoms=3, random_state=0)
    page, key = study.write(tmp_path / "new" / "folder")
    assert page.read_text(encoding="utf-8") == study.html()
    with key.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [row["model"] for row in study.key]
    assert {row["study"] for row in rows} == {data_of(study.html())["study"]}
    for row in rows:
        agreement = models[row["model"]].feature_agreement_[int(row["atom"])]
        assert row["agreement"] == ("" if np.isnan(agreement) else str(agreement))
    assert sorted(path.name for path in page.parent.iterdir()) == [page.name, key.name]


def test_the_seed_decides_which_atoms_are_rated(X, models):
    one, same, other = (
        blinded_report(models, X, n_atoms=4, random_state=seed) for seed in (0, 0, 1)
    )
    assert one.html() == same.html()
    assert one.key == same.key
    assert [row["atom"] for row in one.key] != [row["atom"] for row in other.key]
    # No number, which a spreadsheet would write in another way.
    assert one.key[0]["study"].startswith("s")


def test_atoms_that_are_never_active_are_not_rated(X, models):
    study = blinded_report(models, X[:5], n_atoms=30, random_state=0)
    active = {
        (name, atom)
        for name, estimator in models.items()
        for atom in np.flatnonzero((estimator.transform(X[:5]) > 0).any(0))
    }
    assert {(row["model"], row["atom"]) for row in study.key} == active


def test_atoms_with_negative_codes_only_are_rated_too(X, sae):
    pursuit = copy(sae).set_params(transform_algorithm="omp", k=1)
    factors = np.linspace(1, 2, 50)[:, None]
    rows = -factors * pursuit.components_[3] + pursuit.decoder_bias_
    codes = pursuit.transform(rows)
    assert np.flatnonzero(codes.any(0)).tolist() == [3]
    assert codes[:, 3].max() < 0
    study = blinded_report({"pursuit": pursuit}, rows, random_state=0)
    assert [row["atom"] for row in study.key] == [3]
    (item,) = data_of(study.html())["details"]
    assert item["samples"] == item["codes"] == []
    histogram = item["histogram"]
    assert histogram["start"] == -1
    end = -1 + len(histogram["counts"]) * histogram["width"]
    assert end == pytest.approx(0, abs=1e-3)


def test_contexts_are_rated_without_their_scale(X, models):
    contexts = {name: contexts_of(len(m.components_)) for name, m in models.items()}
    study = blinded_report(models, X, contexts=contexts, random_state=0)
    for row, item in zip(study.key, data_of(study.html())["details"], strict=True):
        codes = [context["code"] for context in item["contexts"]]
        assert codes == ([] if row["atom"] % 2 else [1.0])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_names_of_features_label_atoms_in_any_order_of_models(X, models, order):
    frame = pd.DataFrame(X, columns=[f"gene {i}" for i in range(12)])
    named = MFRSparseAutoencoder(8, max_steps=20, random_state=0).fit(frame)
    both = [("named", named), ("unnamed", models["their's"])]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names", UserWarning)
        study = blinded_report(dict(both[i] for i in order), frame, random_state=0)
    assert data_of(study.html())["view"]["labels"] == list(frame)


def test_blinded_reports_name_what_does_not_fit(X, models):
    with pytest.raises(ValueError, match="estimators must be a non-empty mapping"):
        blinded_report({}, X)
    with pytest.raises(ValueError, match="estimators must be a non-empty mapping"):
        blinded_report({"a": "model"}, X)
    with pytest.raises(ValueError, match=r"the names \[.a.\], but estimators has"):
        blinded_report(models, X, contexts={"a": contexts_of(30)})
    contexts = {name: contexts_of(len(m.components_)) for name, m in models.items()}
    for name in models:
        without = {name: contexts_of(len(models[name].components_), tokens=None)}
        with pytest.raises(ValueError, match="contexts has no tokens to show"):
            blinded_report(models, X, contexts=contexts | without)


def test_usage_of_atoms_of_any_norm_is_what_they_add(X, sae):
    long = copy(sae)
    factors = np.linspace(0.5, 2, len(sae.components_))[:, None]
    long.components_ = sae.components_ * factors
    codes = long.transform(X)
    added = np.einsum("ij,jf->ijf", codes, long.components_)
    added = np.square(added).sum(axis=(0, 2))
    usage = atom_statistics(long, X, 2).usage
    np.testing.assert_allclose(usage, added / added.sum(), rtol=1e-5)


def test_samples_with_huge_norms_are_left_out_by_their_numbers(sae, X):
    huge = np.arange(len(X)) % 7 == 3
    spoilt = np.where(huge[:, None], 100.0, X)
    found = atom_statistics(sae, spoilt, 2, 10 * sae.median_norm_)
    expected = atom_statistics(sae, X[~huge], 2)
    assert found.n_samples == expected.n_samples
    assert found.fvu == pytest.approx(expected.fvu)
    for name in ("n_active", "total", "energy", "codes"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))
    numbers = np.append(np.flatnonzero(~huge), -1)
    np.testing.assert_array_equal(found.examples, numbers[expected.examples])
    page = report(sae, spoilt, max_norm_ratio=10.0).html()
    assert f"{expected.n_samples:,} of 12 features" in page
    with pytest.raises(ValueError, match="max_norm_ratio leaves out all samples"):
        report(sae, spoilt, max_norm_ratio=1e-9)
    sae = copy(sae)
    sae.median_norm_ = np.nan
    with pytest.raises(ValueError, match="max_norm_ratio=2.0 needs sae.median_norm_"):
        report(sae, X, max_norm_ratio=2.0)


def test_parts_of_characters_are_shown_by_their_bytes(X, sae):
    """The tokenizer is one of GPT-2 without merges: each token is a byte."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(dict(zip(letters, range(256), strict=True)), [])
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=fast)
    text = "a💙 é"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    contexts = contexts_of(30, tokens=np.full((30, 1, 4), -1), before=1)
    contexts.inputs[8:] = -1
    effects = np.resize(ids, (30, len(ids)))
    # The last window begins inside the character.
    windows = {0: [-1, 0, 1, 2], 2: [0, 1, 2, 3], 4: [1, 2, 3, 4], 6: [2, 3, 4, 5]}
    for atom, places in windows.items():
        contexts.tokens[atom, 0] = [
            ids[place] if place >= 0 else -1 for place in places
        ]
    words = {"contexts": contexts, "tokenizer": tokenizer}
    words["effects"] = LogitEffects(effects, effects + 0.5, effects, effects - 0.5)
    details = data_of(report(sae, X, **words).html())["details"]
    at = {atom: details[atom]["contexts"][0]["text"][1] for atom in "0246"}
    assert at == {"0": "a", "2": "<0xF0>", "4": "<0x9F>", "6": "<0x92>"}
    frame = contexts.to_frame(tokenizer).set_index("atom")
    assert frame["text"][2] == "a«<0xF0>»"
    promoted = [token for token, _ in details["0"]["promoted"]]
    names = [f"<0x{byte:02X}>" for byte in text.encode()]
    assert promoted == ["a", *names[1:5], " ", *names[6:]]


def test_halves_of_surrogate_pairs_are_replaced(X, sae, tmp_path):
    page = report(sae, X, title="one \ud83d")
    path = page.write_html(tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == page.html()
    assert "<title>one ?</title>" in page.html()
    page._repr_html_().encode()
    rating = blinded_report({"\ud83d": sae}, X, n_atoms=2, random_state=0)
    _, key = rating.write(tmp_path / "rating")
    assert ",?," in key.read_text(encoding="utf-8")
