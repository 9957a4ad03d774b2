"""The check of the built documentation finds what is broken."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "check_site.py"


@pytest.fixture
def broken_links():
    return runpy.run_path(str(SCRIPT))["broken_links"]


def test_links_to_what_is_there_are_no_faults(broken_links, tmp_path):
    (tmp_path / "guide").mkdir()
    (tmp_path / "index.html").write_text(
        '<p id="top"></p><a href="guide/">x</a><a href="#top">x</a>'
        '<a href="https://example.org/none">x</a><a href="guide/index.html#a%20b">x</a>'
    )
    (tmp_path / "guide" / "index.html").write_text(
        '<p id="a b"></p><a href="../index.html#top">x</a>'
    )
    assert list(broken_links(tmp_path)) == []


def test_missing_files_and_anchors_are_named(broken_links, tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="none.html">x</a><img src="none.png"><a href="#none">x</a>'
    )
    assert list(broken_links(tmp_path)) == [
        "index.html: #none has no such anchor",
        "index.html: none.html is not there",
        "index.html: none.png is not there",
    ]
