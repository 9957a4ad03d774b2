"""Tables of the benchmarks: printed, kept as data, and read again for the docs.

A benchmark builds its command with :class:`Command` and gives each table, row by row,
to the :class:`Report` that comes with the arguments.  This prints the table in Markdown
and, when all rows are there, writes ``benchmarks/results/NAME.json`` as a whole or not
at all.  The documentation draws its tables from these files with the same functions.

A file is an object with

name
    That of the file, without ``.json``.
digits
    Decimals of the numbers in a column.  Columns that are not named have three; where
    it is null, numbers are shown as they are.
runs
    What was run, and where: ``command`` (DIR and FILE stand for places), ``commit``
    ("-dirty" if the code had changed since), ``date``, ``versions``, ``processor``
    (its name and number of cores), ``threads`` of PyTorch, and ``seeds``.  Unknown
    values are null.  ``converted`` marks a table that was copied from a page: it has
    rounded numbers, and its commit is the one that wrote them there.  ``note`` says how
    a run differed from its command.
rows
    A cell for each column, and in ``run`` the place of its run among the runs.

A cell is a text, a number, null (shown as "–"), or an object:

- ``{"values": [...]}``: one number for each seed, shown as mean and standard deviation;
- ``{"mean": 0.1, "std": 0.01, "n": 5}``: where only these of n seeds are known;
- ``{"value": 1.2, "low": 1.1, "high": 1.3}``: with an interval.

A file is named after the benchmark, the table, and each option that is not at its
default.  So a run with fewer seeds or other sizes never takes the place of the full
one.  Three options are not in the name: where data are, ``--results``, and ``--only``.
With ``--only``, new rows replace those of the same name, and the others stay as they
are.  Without it, the whole file is replaced.  ``--label`` names a table that is kept
beside another of the same options, such as that of a second machine.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import skmfr

FOLDER = Path(__file__).parent / "results"
# Packages whose version is kept if they have been imported, by module.
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "numba": "numba",
    "triton": "triton",
    "transformers": "transformers",
    "mne": "mne",
    "mne_denoise": "mne-denoise",
    "pyriemann": "pyriemann",
    "pywt": "PyWavelets",
    "zarr": "zarr",
    "sae_lens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
    "sparsify": "eai-sparsify",
    "overcomplete": "overcomplete",
}

Row = dict[str, object]


class Command(argparse.ArgumentParser):
    """The command line of a benchmark.

    Parameters
    ----------
    benchmark : str
        Name of its module.
    doc : str
        Docstring of the module; the first line says what the command does.
    start : str
        Words that run a module.
    """

    def __init__(self, benchmark: str, doc: str, start: str = "python -m"):
        super().__init__(
            prog=f"{start} benchmarks.{benchmark}", description=doc.splitlines()[0]
        )
        self.benchmark = benchmark
        self.add_argument(
            "--results",
            type=Path,
            default=FOLDER,
            metavar="DIR",
            help="folder that the tables are written to",
        )
        self.add_argument("--label", help="added to the names of the tables")

    def parse(self) -> tuple[argparse.Namespace, "Report"]:
        """The arguments, and what the tables are given to."""
        arguments = self.parse_args()
        return arguments, Report(self, arguments)

    def chosen(
        self, arguments: argparse.Namespace
    ) -> Iterator[tuple[argparse.Action, list]]:
        """Positional arguments, then options not at their default, as lists."""
        for action in sorted(self._actions, key=lambda each: bool(each.option_strings)):
            value = getattr(arguments, action.dest, action.default)
            if value != action.default and action.dest != "results":
                is_flag = action.nargs == 0
                several = isinstance(value, (list, tuple))
                values = [] if is_flag else list(value) if several else [value]
                yield action, [f"{v:g}" if isinstance(v, float) else v for v in values]

    def line(self, arguments: argparse.Namespace) -> str:
        """The command as one types it, with DIR or FILE in the place of paths."""
        words = self.prog.split()
        for action, values in self.chosen(arguments):
            words += action.option_strings[:1]
            words += [
                str(action.metavar if isinstance(value, Path) else value)
                for value in values
            ]
        return shlex.join(words)


class Report:
    """Prints the tables of one call of a benchmark, and writes them."""

    def __init__(self, command: Command, arguments: argparse.Namespace):
        self.command, self.arguments = command, arguments
        self.run = {
            "command": command.line(arguments),
            "commit": commit(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "processor": processor(),
            "seeds": list(range(getattr(arguments, "seeds", None) or 1)),
        }

    def __call__(
        self,
        rows: Iterable[Row],
        table: Mapping[str, object],
        digits: Mapping[str, int | None] | None = None,
        append: bool = False,
        **more: object,
    ) -> None:
        """Print rows as they come; write them at the end.

        Parameters
        ----------
        rows : iterable of dict
            A cell for each column, the same columns in all.
        table : dict
            Words that tell this table from others of the benchmark, by the name of the
            argument that chooses it.
        digits : dict, optional
            Decimals by column.
        append : bool
            Whether each row is written when it is there, beside the rows of earlier
            calls, in the place of one of its name.
        **more : object
            Added to what is known of the run, such as the name of a GPU.
        """
        name = self.name(table)
        digits = dict(digits or {})
        print(f"\n{name}\n")
        made: list[Row] = []
        for row in rows:
            made.append({column: plain(cell) for column, cell in row.items()})
            lines = markdown([made[-1]], digits)
            print("\n".join(lines if len(made) == 1 else lines[2:]), flush=True)
            if append:
                self._write(name, digits, made[-1:], more, merge=True)
        if not made:
            self.command.error("no rows: --only leaves none")
        if not append:
            merge = bool(getattr(self.arguments, "only", ""))
            self._write(name, digits, made, more, merge)

    def _write(
        self, name: str, digits: dict, rows: list[Row], more: dict, merge: bool
    ) -> None:
        run = self.run | {
            "versions": versions(),
            "threads": torch.get_num_threads(),
            **more,
        }
        results = {
            "name": name,
            "digits": digits,
            "runs": [run],
            "rows": [{"run": 0} | row for row in rows],
        }
        if merge and self.path(name).exists():
            results = merged(load(name, self.arguments.results), results)
        save(results, self.arguments.results)

    def path(self, name: str) -> Path:
        return self.arguments.results / f"{name}.json"

    def name(self, table: Mapping[str, object]) -> str:
        """That of the file: the benchmark, the table, the options that are chosen."""
        words = [self.command.benchmark, *table.values()]
        for action, values in self.command.chosen(self.arguments):
            is_place = any(isinstance(value, Path) for value in values)
            if action.dest != "only" and action.dest not in table and not is_place:
                words += values if action.dest == "label" else [action.dest, *values]
        return "-".join(re.sub(r"[^\w.]+", "-", str(word)) for word in words)


def commit() -> str | None:
    """The commit that is checked out; None outside a checkout. Results do not count."""

    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["git", "-C", str(FOLDER.parents[1]), *words],
            capture_output=True,
            text=True,
        )

    head = git("rev-parse", "HEAD")
    if head.returncode != 0:
        return None
    results = FOLDER.relative_to(FOLDER.parents[1])
    changes = git("status", "--porcelain", "-uno", ".", f":(exclude){results}").stdout
    return head.stdout.strip() + ("-dirty" if changes else "")


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "skmfr": skmfr.__version__,
        **{
            package: version(package)
            for module, package in PACKAGES.items()
            if module in sys.modules
        },
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(
        r"model name\s*: (.*)", info.read_text() if info.exists() else ""
    )
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def plain(cell: object) -> object:
    """A cell of Python's own types, None in the place of NaN."""
    if isinstance(cell, dict):
        return {name: plain(value) for name, value in cell.items()}
    if isinstance(cell, (list, tuple, np.ndarray)):
        return [plain(value) for value in cell]
    if isinstance(cell, np.generic):
        cell = cell.item()
    return None if isinstance(cell, float) and np.isnan(cell) else cell


def merged(old: dict, new: dict) -> dict:
    """New rows in the place of old ones of the same name, or at the end."""

    def name(row: Row) -> tuple:
        return tuple(cell for cell in row.values() if isinstance(cell, str))

    def with_runs(results: dict) -> list[Row]:
        return [row | {"run": results["runs"][row["run"]]} for row in results["rows"]]

    measured: dict[tuple, list[Row]] = {}
    for row in with_runs(new):
        measured.setdefault(name(row), []).append(row)
    names, rows = set(measured), []
    for row in with_runs(old):
        rows += measured.pop(name(row), []) if name(row) in names else [row]
    rows += [row for same in measured.values() for row in same]
    runs: list[object] = []
    for row in rows:
        if row["run"] not in runs:
            runs.append(row["run"])
    return {
        "name": new["name"],
        "digits": new["digits"] | old["digits"],
        "runs": runs,
        "rows": [row | {"run": runs.index(row["run"])} for row in rows],
    }


def save(results: dict, folder: Path) -> None:
    """Write a file of results, a row to a line."""

    def lines(objects: list[dict]) -> str:
        return ",\n".join(f"  {dumped(each)}" for each in objects)

    def dumped(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    text = (
        f'{{\n "name": {dumped(results["name"])},\n'
        f' "digits": {dumped(results["digits"])},\n'
        f' "runs": [\n{lines(results["runs"])}\n ],\n'
        f' "rows": [\n{lines(results["rows"])}\n ]\n}}\n'
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results['name']}.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def load(name: str, folder: Path | None = None) -> dict:
    """A file of results, as the docstring of this module tells.

    Raises
    ------
    FileNotFoundError
        If there is no file of that name.
    ValueError
        If it is damaged.
    """
    path = (folder or FOLDER) / f"{name}.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        for row in results["rows"]:
            results["runs"][row["run"]]["commit"]
            markdown([row], results["digits"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return results


def markdown(rows: list[Row], digits: Mapping[str, int | None]) -> list[str]:
    """Lines of the table: a header, a rule, and the rows."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns = [column for column in columns if column != "run"]
    cells = [
        [shown(row.get(column), digits.get(column, 3)) for column in columns]
        for row in rows
    ]
    lines = [f"| {' | '.join(line)} |" for line in [columns, *cells]]
    return [lines[0], "|---" * len(columns) + "|", *lines[1:]]


def shown(cell: object, digits: int | None) -> str:
    """A cell as text."""

    def number(value: float) -> str:
        if digits is None:
            return f"{value:g}"
        # Without the zero before the point, and without the sign of -0.
        return re.sub(r"^(-?)0\.", r"\1.", f"{round(value, digits) + 0.0:.{digits}f}")

    if cell is None:
        return "–"
    if isinstance(cell, float):
        return number(cell)
    if not isinstance(cell, dict):
        return str(cell)
    if "value" in cell:
        value, low, high = (number(cell[part]) for part in ("value", "low", "high"))
        return f"{value} ({low} to {high})"
    mean, std, n = mean_and_std(cell)
    if mean is None:
        return "–"
    return number(mean) if n == 1 else f"{number(mean)} ± {number(std)}"


def mean_and_std(cell: dict) -> tuple[float | None, float | None, int]:
    """Of a cell that has one number for each seed, and of how many."""
    if "mean" in cell:
        return cell["mean"], cell["std"], cell["n"]
    values = [value for value in cell["values"] if value is not None]
    if not values:
        return None, None, 0
    return float(np.mean(values)), float(np.std(values)), len(values)
