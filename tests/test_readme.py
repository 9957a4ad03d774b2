"""Every measured number of the README is the one that a benchmark wrote.

Behind a number stands its source, which does not show when the page is rendered:
``.998<!--recovery-compare-superposition; ours, default; recall-->`` names a file of
``benchmarks/results``, a row by one of its texts, and a column.
"""

import re
from pathlib import Path

import pytest

from benchmarks import _results

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
# Blocks of code show what a command prints, not what a benchmark measured.
PROSE = re.sub(r"^```.*?^```$|`[^`\n]*`", "", README, flags=re.M | re.S)
SOURCED = re.compile(r"([\d.,]*\d)<!--([^;]+); ([^;]+); ([^;]+)-->")


def as_written(value: float, like: str) -> str:
    """A measured number with as many decimals as another, written the same way."""
    decimals = len(like.partition(".")[2])
    return f"{value:,.{decimals}f}".removeprefix("0" if like.startswith(".") else "")


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [(0.9984, ".998", ".998"), (28505.0, "1,000", "28,505"), (2.219, "2.2", "2.2")],
)
def test_numbers_are_compared_as_they_are_written(value, like, text):
    assert as_written(value, like) == text


@pytest.mark.parametrize(
    ("written", "name", "row", "column"),
    SOURCED.findall(PROSE),
    ids=["; ".join(groups[1:]) for groups in SOURCED.findall(PROSE)],
)
def test_number_is_the_one_that_was_measured(written, name, row, column):
    (cell,) = (
        each[column] for each in _results.load(name)["rows"] if row in each.values()
    )
    if isinstance(cell, dict):
        cell = cell["value"] if "value" in cell else _results.mean_and_std(cell)[0]
    assert written == as_written(cell, written)


def test_no_measured_number_lacks_its_source():
    # House style: measured fractions have no zero before the point. In a row of a table
    # all numbers are measured.
    rest = SOURCED.sub("", PROSE)
    cells = "".join(line for line in rest.splitlines() if line.startswith("|"))
    assert SOURCED.search(PROSE)
    assert re.findall(r"(?<![\w.])\.\d+|\d+(?:\.\d+)? ?%", rest) == []
    assert re.findall(r"(?<![\w.-])\d[\d.,]*(?= *\|)", cells) == []


def test_bold_numbers_are_the_best_of_their_row():
    for row in PROSE.splitlines():
        if row.startswith("|") and SOURCED.search(row):
            bold, plain = set(), set()
            for cell in filter(SOURCED.search, row.split("|")):
                number = float(SOURCED.search(cell)[1].replace(",", ""))
                (bold if "**" in cell else plain).add(number)
            (best,) = bold
            assert best > max(plain) or best < min(plain), row
