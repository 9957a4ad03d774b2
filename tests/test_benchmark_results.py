"""Results of the benchmarks as data: written, merged, read, and drawn in the docs."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _results

DOCS = Path(__file__).parents[1] / "docs"
RUN = {"command": "", "commit": "abcdef012345", "date": "2026-01-02T03:04:05+00:00"}


@pytest.fixture
def report(monkeypatch, tmp_path):
    """What a benchmark with these words on its command line gives its tables to."""

    def parse(*words) -> _results.Report:
        command = _results.Command("example", "What it does.")
        command.add_argument("table")
        command.add_argument("--data", nargs="+", default=["digits"])
        command.add_argument("--seeds", type=int, default=2)
        command.add_argument("--model", type=Path, metavar="DIR")
        command.add_argument("--hours", type=float, default=2)
        command.add_argument("--most", action="store_true")
        command.add_argument("--only", default="")
        given = [*words, "--results", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["example", *given])
        return command.parse()[1]

    return parse


@pytest.mark.parametrize(
    ("cell", "digits", "text"),
    [
        (None, 3, "–"),
        ("PCA", 3, "PCA"),
        (12, 3, "12"),
        (0.1384, 3, ".138"),
        (-0.5, 2, "-.50"),
        (-0.0001, 3, ".000"),
        (12.34, 0, "12"),
        (0.2, 0, "0"),
        (0.03, None, "0.03"),
        ({"mean": 0.138, "std": 0.002, "n": 5}, 3, ".138 ± .002"),
        ({"values": [1.0, 3.0]}, 1, "2.0 ± 1.0"),
        ({"values": [1.0, None, 3.0]}, 1, "2.0 ± 1.0"),
        ({"values": [0.25]}, 2, ".25"),
        ({"values": [None, None]}, 3, "–"),
        ({"value": -0.2, "low": -0.5, "high": 0.1}, 1, "-.2 (-.5 to .1)"),
    ],
)
def test_cells_are_shown(cell, digits, text):
    assert _results.shown(cell, digits) == text


def test_columns_are_those_of_any_row():
    rows = [{"run": 0, "method": "a", "FVU": 0.5}, {"method": "b", "dead": 0.25}]
    assert _results.markdown(rows, {"FVU": 1}) == [
        "| method | FVU | dead |",
        "|---|---|---|",
        "| a | .5 | – |",
        "| b | – | .250 |",
    ]


def test_names_have_the_options_that_are_not_at_their_default(report):
    words = ["compare", "--seeds", "2", "--model", "/some/where", "--only", "^ours"]
    table = {"table": "compare", "data": "digits"}
    assert report(*words).name(table) == "example-compare-digits"
    words += ["--hours", "1.5", "--most", "--label", "other", "--data", "digits", "eeg"]
    made = report(*words)
    assert made.name(table) == "example-compare-digits-other-hours-1.5-most"
    assert made.run["command"] == (
        "python -m benchmarks.example compare --label other --data digits eeg"
        " --model DIR --hours 1.5 --most --only '^ours'"
    )


def test_rows_are_written_as_plain_numbers(report, tmp_path):
    values = np.array([0.5, np.nan], dtype=np.float32)
    rows = [{"method": "a", "FVU": {"values": values}, "n": np.int64(3)}]
    report("compare")(rows, {"table": "compare"}, gpu="none")
    results = _results.load("example-compare", tmp_path)
    assert results["rows"] == [
        {"run": 0, "method": "a", "FVU": {"values": [0.5, None]}, "n": 3}
    ]
    (run,) = results["runs"]
    assert run["versions"]["numpy"] == np.__version__
    assert run["seeds"] == [0, 1]
    assert run["gpu"] == "none"
    assert [path.name for path in tmp_path.iterdir()] == ["example-compare.json"]


def test_some_rows_are_measured_again(report, tmp_path):
    table = {"table": "compare"}

    def rows(**cells):
        return [{"method": name, "FVU": value} for name, value in cells.items()]

    report("compare")(rows(a=0.1, ours=0.2, b=0.3), table)
    report("compare", "--only", "^ours")(rows(ours=0.4, ours_too=0.5), table)
    results = _results.load("example-compare", tmp_path)
    assert [(row["method"], row["FVU"]) for row in results["rows"]] == [
        ("a", 0.1),
        ("ours", 0.4),
        ("b", 0.3),
        ("ours_too", 0.5),
    ]
    commands = [results["runs"][row["run"]]["command"] for row in results["rows"]]
    assert ["--only" in command for command in commands] == [False, True, False, True]
    report("compare")(rows(a=0.6), table)
    assert len(_results.load("example-compare", tmp_path)["rows"]) == 1


def test_a_table_that_is_not_finished_replaces_nothing(report, tmp_path):
    def rows(value):
        yield {"method": "a", "FVU": value}
        if value > 0.5:
            raise KeyboardInterrupt

    report("compare")(rows(0.1), {"table": "compare"})
    with pytest.raises(KeyboardInterrupt):
        report("compare")(rows(0.9), {"table": "compare"})
    (row,) = _results.load("example-compare", tmp_path)["rows"]
    assert row["FVU"] == 0.1


def test_the_commit_tells_of_changes_but_those_of_results(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    monkeypatch.setattr(_results, "FOLDER", folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert _results.commit() is None

    def git(*words):
        named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *named, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    code, results = tmp_path / "code.py", folder / "table.json"
    for path in (code, results):
        path.write_text("before")
    git("init")
    git("add", ".")
    git("commit", "-m", "All")
    commit = git("rev-parse", "HEAD").stdout.strip()
    results.write_text("after")
    assert _results.commit() == commit
    code.write_text("after")
    assert _results.commit() == f"{commit}-dirty"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"name": "damaged", "digits": {}, "runs": []}',
        '{"digits": {}, "runs": [], "rows": [{"run": 0, "FVU": 0.1}]}',
        json.dumps({"digits": {}, "runs": [RUN], "rows": [{"run": 0, "FVU": {}}]}),
    ],
)
def test_damaged_files_are_refused(text, tmp_path):
    (tmp_path / "damaged.json").write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        _results.load("damaged", tmp_path)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Builds a page of documentation; its HTML, and what Sphinx warns of."""
    pytest.importorskip("myst_parser")
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    docs, folder = tmp_path / "docs", tmp_path / "benchmarks" / "results"
    docs.mkdir()
    monkeypatch.setattr(_results, "FOLDER", folder)
    for name, digits in (("one", {"FVU": 2}), ("two", {"FVU": 4})):
        rows = [
            {"run": 0, "method": method, "FVU": 0.125, "OMP": {"values": [0.5, 0.7]}}
            for method in ("ours", "theirs")
        ]
        results = {"name": name, "digits": digits, "runs": [RUN], "rows": rows}
        _results.save(results, folder)
    (folder / "damaged.json").write_text("{")

    def build(*lines) -> tuple[str, str]:
        text = "\n".join(["# Page", "", "```{results} " + lines[0], *lines[1:], "```"])
        (docs / "index.md").write_text(text)
        warnings = io.StringIO()
        with docutils_namespace():
            Sphinx(
                docs,
                None,
                tmp_path / "html",
                tmp_path / "trees",
                buildername="html",
                confoverrides={"extensions": ["myst_parser", "results"]},
                status=None,
                warning=warnings,
                freshenv=True,
            ).build()
        return (tmp_path / "html" / "index.html").read_text(), warnings.getvalue()

    return build


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    return [re.findall(r"<t[hd].*?><p>(.*?)</p>", row) for row in rows]


def test_pages_draw_results(page):
    html, warnings = page("one")
    assert not warnings
    assert cells(html) == [
        ["method", "FVU", "OMP"],
        ["ours", ".12", ".600 ± .100"],
        ["theirs", ".12", ".600 ± .100"],
    ]
    assert "abcdef0 (2026-01-02)" in html


def test_pages_draw_parts_of_several_results(page):
    html, warnings = page(
        "",
        ":titles: data",
        ":columns: method | FVU",
        ":rows: ^ours",
        "first <one>",
        "second <two>",
    )
    assert not warnings
    assert cells(html) == [
        ["data", "method", "FVU"],
        ["first", "ours", ".12"],
        ["second", "ours", ".1250"],
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["unknown"], "unknown.json"),
        (["damaged"], "damaged.json is damaged"),
        (["one", ":columns: method | MMCS"], "no columns {'MMCS'}"),
        (["one", ":rows: ^nobody"], "one has no rows '^nobody'"),
    ],
)
def test_pages_do_not_draw_what_is_not_there(page, lines, message):
    html, warnings = page(*lines)
    assert message in warnings
    assert not cells(html)


def test_pages_and_results_name_each_other():
    text = "\n".join(path.read_text() for path in DOCS.rglob("*.md"))
    blocks = re.findall(r"^```\{results\}(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for line in "".join(blocks).splitlines() if line[:1] not in ("", ":")]
    named = {re.search(r"([^< ]+?)>?$", line)[1] for line in lines}
    there = {path.stem for path in _results.FOLDER.glob("*.json")}
    assert named == there
    for name in there:
        assert _results.load(name)["name"] == name


def test_figure_stands_above_its_folded_table(page, monkeypatch):
    import figures

    monkeypatch.setattr(figures, "FIGURES", {"one": figures.bars("FVU", "Error")})
    html, warnings = page("one")
    assert warnings == ""
    light, dark, fold, table = (
        html.index(part)
        for part in ("one-light.svg", "one-dark.svg", "<details>", "<table")
    )
    assert light < dark < fold < table < html.index("</details>")
    html, _ = page("two")
    assert "<details>" not in html
    assert "<table" in html


def test_bars_are_as_long_as_the_numbers(monkeypatch):
    figure_module = pytest.importorskip("matplotlib.figure")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import figures

    rows = [
        {"method": "ours, default", "FVU": 0.25},
        {"method": "paper", "FVU": {"values": [0.5, 0.7]}},
        {"method": "other", "FVU": None},
    ]
    figure = figure_module.Figure()
    draw = figures.bars("FVU", "Error")
    draw(figure, {"rows": rows, "digits": {}}, figures.COLORS["light"])
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.25, 0.6])
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["ours, default", "paper"]
    colors = {bar.get_facecolor() for bar in ax.patches}
    assert len(colors) == 2


def test_every_figure_has_its_results(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import figures

    pages = "\n".join(path.read_text() for path in DOCS.rglob("*.md"))
    for name in figures.FIGURES:
        assert _results.load(name)["rows"]
        assert name in pages
