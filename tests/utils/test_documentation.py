"""Docstrings of public names, and HTML of estimators: links to pages, a summary."""

import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from numpydoc.validate import validate
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmfr import MFRSparseAutoencoder
from skmfr._utils import documentation
from skmfr.activations import ActivationExtractor
from skmfr.eeg import EEGDenoiser
from skmfr.io import load, save

ROOT = Path(__file__).parents[2]
SITE = "https://example.org/en/latest"
ESTIMATORS = [
    MFRSparseAutoencoder(),
    EEGDenoiser(),
    ActivationExtractor("model", layer="layer"),
]


# What numpydoc does not have to find: a long summary, where a short one says it all;
# relatives, which not everything has; and "self : object", as scikit-learn writes it.
OPTIONAL = {"ES01", "SA01", "RT02"}


def public_names() -> list[str]:
    """Names of docs/api.rst with their modules, such as "skmfr.metrics.l0"."""
    api = (ROOT / "docs/api.rst").read_text()
    names, module = [], ""
    for line in api.splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r" {3}\w+", line):
            names.append(f"{module}.{line.strip()}")
    return names


def generated_pages() -> set[str]:
    """Pages that autosummary makes, one for each public name."""
    return {f"{SITE}/generated/{name}.html" for name in public_names()}


def public(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public_methods(name: str) -> list[str]:
    """Public methods and properties of a class, except for those of other packages."""
    own = {
        attribute
        for parent in public(name).__mro__
        if parent.__module__.startswith("skmfr.")
        for attribute, value in vars(parent).items()
        if inspect.isfunction(value) or isinstance(value, (classmethod, property))
    }
    return sorted(f"{name}.{each}" for each in own if not each.startswith("_"))


METHODS = [
    method
    for name in public_names()
    if inspect.isclass(public(name))
    for method in public_methods(name)
]


@pytest.mark.parametrize("name", public_names())
def test_public_docstrings_are_complete(name):
    errors = {code: error for code, error in validate(name)["errors"]}
    optional = set(OPTIONAL)
    if inspect.isclass(public(name)) and issubclass(public(name), tuple):
        optional.add("PR01")  # the fields of a named tuple are documented one by one
    assert {code: errors[code] for code in errors.keys() - optional} == {}


@pytest.mark.parametrize("name", METHODS)
def test_docstrings_of_public_methods_are_complete(name):
    errors = {code: error for code, error in validate(name)["errors"]}
    # The example of the class shows its methods.
    assert {code: errors[code] for code in errors.keys() - OPTIONAL - {"EX01"}} == {}


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(documentation, "DOC_URL", SITE)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_estimators_link_to_their_page(estimator, site):
    link = estimator._get_doc_link()
    assert link in generated_pages()
    assert link.endswith(f".{type(estimator).__name__}.html")
    assert f'href="{link}"' in estimator._repr_html_()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_without_a_site_estimators_link_nowhere(estimator, monkeypatch):
    monkeypatch.setattr(documentation, "DOC_URL", None)
    assert estimator._get_doc_link() == ""
    assert 'href="' not in estimator._repr_html_()


def test_subclasses_of_others_have_no_page_of_ours(site):
    class Own(MFRSparseAutoencoder):
        pass

    assert Own()._get_doc_link() == ""


def test_the_project_names_the_site_that_estimators_link_to():
    project = (ROOT / "pyproject.toml").read_text()
    urls = re.findall(r'^Documentation = "(.+)"$', project, re.MULTILINE)
    assert urls == [url for url in [documentation.DOC_URL] if url is not None]


def test_html_shows_fitted_attributes_where_scikit_learn_does(site):
    pytest.importorskip("sklearn.utils._repr_html.fitted_attributes")
    X = np.random.default_rng(0).standard_normal((50, 4))
    sae = MFRSparseAutoencoder(6, k=2, n_saes=2, max_steps=3, random_state=0)
    assert "Fitted attributes" not in sae._repr_html_()
    pipeline = make_pipeline(StandardScaler(), sae).fit(X)
    for html in (sae._repr_html_(), pipeline._repr_html_()):
        assert "Fitted attributes" in html
        for name in ("components_", "feature_agreement_", "trusted_", "n_reinits_"):
            assert f"            {name}\n" in html
            assert f"{sae._get_doc_link()}#:~:text={name}" in html
        assert "float64](6, 4)" in html


needs_html_repr = pytest.mark.skipif(
    not hasattr(BaseEstimator, "_html_repr"), reason="scikit-learn before 1.7"
)


@needs_html_repr
def test_html_begins_with_a_summary_of_the_fit():
    X = np.random.default_rng(0).standard_normal((50, 4))
    sae = MFRSparseAutoencoder(6, k=2, n_saes=2, alpha=0, max_steps=120, random_state=0)
    assert "skmfr-summary" not in sae._repr_html_()
    sae.fit(X)
    idle = np.zeros_like(sae._training["idle"])
    idle[sae.reference_sae_, :2] = [99, 100]  # steps; from 100 on an atom is dead
    idle[1 - sae.reference_sae_] = 1000
    sae._training["idle"] = idle
    sae.loss_curve_ = np.r_[np.full(20, 7.0), np.full(100, 0.25)]
    sae.trusted_ = np.arange(6) > 2
    summary = (
        "Fitted in 120 steps: FVU 0.25 in training, 1 of 6 atoms dead, "
        "3 of 6 atoms trusted."
    )
    assert sae._repr_html_().startswith(f'<p class="skmfr-summary">{summary}</p>')


@needs_html_repr
def test_summary_omits_what_is_unknown(tmp_path):
    X = np.random.default_rng(0).standard_normal((50, 4))
    sae = MFRSparseAutoencoder(
        6, k=2, n_saes=1, n_witnesses=0, max_steps=3, random_state=0
    ).fit(X)
    save(sae, tmp_path / "sae.safetensors", training_state=False)
    html = load(tmp_path / "sae.safetensors")._repr_html_()
    assert "agreement unknown without a witness." in html
    assert "atoms dead" not in html
    assert "atoms dead" in sae._repr_html_()
