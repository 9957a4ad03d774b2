"""Figures of the benchmarks, drawn from the files that the benchmarks wrote.

A file of ``benchmarks/results`` that :data:`FIGURES` names is drawn above its table,
once for light pages and once for dark ones.  Colours are those of Okabe and Ito, which
differ for colour-blind readers, and in lightness, for print.
"""

import re
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from benchmarks import _results

# Colours of the text, and of rows that are ours, the paper's or others'.
COLORS = {
    "light": {
        "text": "#222222",
        "ours": "#0072b2",
        "paper": "#e69f00",
        "other": "#999999",
    },
    "dark": {
        "text": "#dddddd",
        "ours": "#56b4e9",
        "paper": "#e69f00",
        "other": "#777777",
    },
}
CODINGS = {"encoder": ("FVU", "o"), "lstsq": ("lstsq", "s"), "omp": ("OMP", "^")}


def value_of(cell: object) -> tuple[float | None, float, float]:
    """The number of a cell, and how far its interval goes to the left and right."""
    if not isinstance(cell, dict):
        return cell, 0.0, 0.0
    if "value" in cell:
        value = cell["value"]
        return value, value - cell["low"], cell["high"] - value
    mean, std, _ = _results.mean_and_std(cell)
    return mean, std or 0.0, std or 0.0


def bars(column: str, label: str, leave_out: str = "^$") -> Callable:
    """A bar for each row, with its number and interval."""

    def draw(figure: Figure, results: dict, colors: dict) -> None:
        rows = [
            row
            for row in results["rows"]
            if row[column] is not None and not re.search(leave_out, name_of(row))
        ]
        figure.set_size_inches(WIDTH, 0.8 + 0.26 * len(rows))
        ax = figure.add_subplot()
        for place, row in enumerate(rows):
            value, low, high = value_of(row[column])
            name = name_of(row)
            kind = next((k for k in ("ours", "paper") if name.startswith(k)), "other")
            ax.barh(place, value, color=colors[kind], height=0.7)
            ax.errorbar(
                value, place, xerr=[[low], [high]], color=colors["text"], linewidth=1
            )
            digits = results["digits"].get(column, 3)
            text = f"{value:,.0f}" if digits == 0 else _results.shown(value, digits)
            ax.annotate(f" {text}", (value + high, place), va="center", fontsize=8)
        ax.set_yticks(range(len(rows)), [name_of(row) for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        # Below the names too: it is longer than the axis.
        figure.supxlabel(label, fontsize=9)
        ax.margins(x=0.12)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        if digits == 0:
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)

    return draw


def name_of(row: dict) -> str:
    """The first text in a row."""
    return next(cell for cell in row.values() if isinstance(cell, str))


def growth(figure: Figure, results: dict, colors: dict) -> None:
    """Time of a step against each size, both logarithmic."""
    sizes = list(dict.fromkeys(row["size"] for row in results["rows"]))
    figure.set_size_inches(7.5, 2.4)
    for ax, size in zip(
        figure.subplots(1, len(sizes), sharey=True), sizes, strict=True
    ):
        rows = [row for row in results["rows"] if row["size"] == size]
        values, steps = zip(*((r["value"], r["step, ms"]) for r in rows), strict=True)
        ax.loglog(values, steps, "o-", color=colors["ours"])
        # In proportion to the size, for comparison.
        ax.loglog(
            values,
            [steps[-1] * v / values[-1] for v in values],
            "--",
            color=colors["other"],
        )
        ax.set_xticks(values, values, fontsize=8, rotation=45)
        ax.minorticks_off()
        ax.set_xlabel(size)
        frame(ax)
    figure.axes[0].set_ylabel("Step (ms)")
    figure.axes[0].annotate(
        "dashed: in proportion",
        (0.98, 0.04),
        xycoords="axes fraction",
        ha="right",
        fontsize=8,
    )


def coding(figure: Figure, results: dict, colors: dict) -> None:
    """Error against time of each way of coding, with the same atoms."""
    figure.set_size_inches(WIDTH, 3)
    ax = figure.add_subplot()
    trained = _results.load("activations-compare-model.layers.2.mlp-512-8-seeds-2")
    errors = {row["method"]: row for row in trained["rows"]}
    speeds = {
        row["algorithm"]: row["rows/s"] for row in results["rows"] if row["rows"] > 1
    }
    for algorithm, (column, marker) in CODINGS.items():
        microseconds = 1e6 / speeds[algorithm]
        error = value_of(errors["ours, default"][column])[0]
        ax.plot(microseconds, error, marker, color=colors["ours"], markersize=9)
        ax.annotate(f"  {algorithm}", (microseconds, error), va="center")
    finished = value_of(errors["ours, for OMP"]["OMP"])[0]
    ax.plot(microseconds, finished, "^", color=colors["paper"], markersize=9)
    ax.annotate(
        "omp, set before fit  ", (microseconds, finished), va="center", ha="right"
    )
    ax.set(
        xlabel="Time for a sample (µs)",
        ylabel="FVU",
        xlim=(0, 1.15 * microseconds),
        ylim=(0, None),
    )
    frame(ax)


def calibration(figure: Figure, results: dict, colors: dict) -> None:
    """How many atoms returned, against how many were expected to."""
    figure.set_size_inches(5, 4.2)
    ax = figure.add_subplot()
    ax.plot([0, 1], [0, 1], "--", color=colors["other"], zorder=0)
    ax.annotate(
        "as expected", (0.42, 0.45), color=colors["text"], rotation=42, fontsize=8
    )
    rows = sorted(results["rows"], key=lambda row: row["return"])
    for row, marker in zip(rows, cycle("osD^v<>PX*ph8"), strict=False):
        ax.plot(
            row["mean"],
            row["return"],
            marker,
            color=colors["paper" if "noise alone" in row["data"] else "ours"],
            label=row["data"],
            linestyle="none",
        )
    ax.set(
        xlabel="Expected share of atoms that return (mean of reappearance_)",
        ylabel="Share that returned in new fits",
    )
    ax.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=colors["text"])
    frame(ax)


def frame(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)


# Inches. On a phone, the text of a wider figure would be too small to read.
WIDTH = 5.5
FVU = "Fraction of variance unexplained by the encoder (less is better)"
RATE = "Samples x SAEs per second (more is better)"
LEFT = "Relative error of the cleaned signal (less is better)"
FIGURES: dict[str, Callable[[Figure, dict, dict], None]] = {
    **dict.fromkeys(
        [
            "recovery-compare-superposition",
            "recovery-compare-superposition-large-seeds-1",
            "recovery-compare-mfr-synthetic-seeds-2",
        ],
        bars("recall", "Share of the true features that were found (more is better)"),
    ),
    **dict.fromkeys(
        ["recovery-compare-activations", "recovery-compare-vision-seeds-3"],
        bars(
            "reproducibility",
            "Mean cosine with an atom of another run (more is better)",
        ),
    ),
    "recovery-compare-eeg-seeds-2": bars("FVU", FVU),
    "activations-compare-model.layers.2.mlp-512-8-seeds-2": bars(
        "recovered, encoder", "Loss recovered with the encoder's codes (more is better)"
    ),
    "speed-compare-2048-768-3072-32": bars("rows/s x SAEs", RATE),
    "speed-compare-2048-768-3072-32-xeon": bars("rows/s x SAEs", RATE),
    "speed-compare-1024-256-1024-16": bars("rows/s x SAEs", RATE),
    "speed-compare-4096-768-12288-32": bars("rows/s x SAEs", RATE),
    "speed-growth": growth,
    "speed-transform-size-2048-64-512-8": coding,
    "reappearance": calibration,
    "eeg-single-EOG": bars("RRMSE_t", LEFT),
    "eeg-single-EMG": bars("RRMSE_t", LEFT),
    "eeg-multi": bars("RRMSE_t", LEFT),
}


def draw(name: str, results: dict, folder: Path) -> list[Path]:
    """Write the figure of a file of results, for light and for dark pages."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for mode, colors in COLORS.items():
        text = dict.fromkeys(
            [
                "text.color",
                "axes.labelcolor",
                "axes.edgecolor",
                "xtick.color",
                "ytick.color",
            ],
            colors["text"],
        )
        # The same bytes in each build.
        style = {**text, "svg.hashsalt": name, "font.size": 9}
        with mpl.rc_context(style):
            figure = Figure(layout="constrained")
            FIGURES[name](figure, results, colors)
            paths.append(folder / f"{name}-{mode}.svg")
            figure.savefig(paths[-1], transparent=True, metadata={"Date": None})
    return paths
