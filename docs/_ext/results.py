"""Tables of the benchmarks, drawn from the files that the benchmarks wrote.

::

    ```{results} recovery-compare-superposition
    :columns: method | FVU | OMP
    :rows: ^ours
    ```

names a file of ``benchmarks/results``, which is drawn too if ``figures.py`` knows how;
the table is folded then.  Options name columns, and a regex of the texts
in a row.  Several files make one table if each has a title, for a first column that
``titles`` names::

    ```{results}
    :titles: data
    superposition <recovery-compare-superposition>
    digits <recovery-compare-digits>
    ```

The option ``table`` leaves the figure out.
"""

import re
from pathlib import Path

import figures
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks import _results

FOLD = "<details><summary>The numbers</summary>"


class ResultsTable(SphinxDirective):
    optional_arguments = 1
    has_content = True
    option_spec = {
        "columns": directives.unchanged_required,
        "rows": directives.unchanged_required,
        "titles": directives.unchanged_required,
        "table": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        rows, sources, names = [], [], []
        for line in [*self.arguments, *self.content]:
            title, name = re.fullmatch(r"(?:(.*) <)?(.*?)>?", line).groups()
            try:
                results = _results.load(name)
            except (OSError, ValueError) as error:
                raise self.error(str(error)) from error
            self.env.note_dependency(str(_results.FOLDER / f"{name}.json"))
            names.append(name)
            first = {self.options.get("titles", ""): title} if title else {}
            chosen = self.chosen(results)
            rows += [first | self.texts(row, results["digits"]) for row in chosen]
            sources.append(source(name, results, chosen))
        lines = [*_results.markdown(rows, {}), "", "Measured: " + "; ".join(sources)]
        table = self.parse_text_to_nodes("\n".join(lines))
        shown = [] if "table" in self.options else names
        drawn = [node for name in shown for node in self.figure(name)]
        if not drawn:
            return table
        fold, end = (nodes.raw("", tag, format="html") for tag in (FOLD, "</details>"))
        return [*drawn, fold, *table, end]

    def figure(self, name: str) -> list[nodes.Node]:
        """The figure of a file, if there is one, for light and for dark pages."""
        if name not in figures.FIGURES:
            return []
        folder = Path("generated/figures")
        paths = figures.draw(name, _results.load(name), Path(self.env.srcdir) / folder)
        alt = f"Figure of the numbers below, {name}"
        return [
            nodes.image(
                uri=f"/{(folder / path.name).as_posix()}",
                alt=alt,
                classes=[f"only-{path.stem.rpartition('-')[2]}"],
            )
            for path in paths
        ]

    def chosen(self, results: dict) -> list[_results.Row]:
        """Rows with a text that the option ``rows`` is found in."""
        if "rows" not in self.options:
            return results["rows"]
        wanted = re.compile(self.options["rows"])
        rows = [
            row
            for row in results["rows"]
            if any(wanted.search(c) for c in row.values() if isinstance(c, str))
        ]
        if not rows:
            raise self.error(f"{results['name']} has no rows {wanted.pattern!r}")
        return rows

    def texts(self, row: _results.Row, digits: dict) -> _results.Row:
        """Cells of the option ``columns``, or all, as they are shown."""
        columns = [column for column in row if column != "run"]
        if "columns" in self.options:
            chosen = [column.strip() for column in self.options["columns"].split("|")]
            if missing := set(chosen) - set(columns):
                raise self.error(f"no columns {missing} among {columns}")
            columns = chosen
        return {
            column: _results.shown(row[column], digits.get(column, 3))
            for column in columns
        }


def source(name: str, results: dict, rows: list[_results.Row]) -> str:
    """The file, to download, with commits and days of the runs of these rows."""
    runs = {
        f"{(run['commit'] or '?')[:7]} ({run['date'][:10]})": None
        for run in (results["runs"][row["run"]] for row in rows)
    }
    # From the folder of the documentation.
    path = f"/../{_results.FOLDER.parent.name}/{_results.FOLDER.name}/{name}.json"
    return f"{{download}}`{name} <{path}>` at {', '.join(runs)}"


def setup(app: Sphinx) -> dict[str, object]:
    app.add_directive("results", ResultsTable)
    return {"version": "1", "parallel_read_safe": True}
