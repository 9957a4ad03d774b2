"""Draws the rooms of skmfr and the imports between them, from the code.

A room is a module or a folder of ``skmfr/``.  Floors are the layers of
``[tool.importlinter]``.  Left out are arrows that others imply, and those to
the ground, on which all rooms stand.
"""

import ast
import random
from itertools import combinations
from pathlib import Path

import tomllib  # of Python 3.11, which Sphinx needs too
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[2]
PUBLIC, PRIVATE, ARROW = "#dbe8f6", "#f1f1ee", "#6b7785"
# Rooms stand at these places, at least two steps apart.
PLACES, WIDTH, HEIGHT = range(-5, 6), 1.7, 0.44


def floors() -> list[list[str]]:
    """Names of rooms, floor by floor, from the top."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    return [layer.split(" | ") for layer in contract["layers"]]


def imports(rooms: set[str]) -> dict[str, set[str]]:
    """Which rooms each room imports, anywhere in its code."""
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for path in (ROOT / "skmfr").rglob("*.py"):
        package = path.relative_to(ROOT).with_suffix("").parts
        room = package[1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if room in rooms and isinstance(node, ast.ImportFrom):
                base = package[: -node.level] if node.level else ()
                module = (*base, *(node.module or "").split("."))
                names = {alias.name for alias in node.names}
                if module[0] == "skmfr":
                    found[room] |= {*module[1:2], *names} & rooms - {room}
    return found


def without_implied(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from others."""

    def reached(room: str) -> set[str]:
        return found[room].union(*map(reached, found[room]))

    return [
        (room, other)
        for room, others in sorted(found.items())
        for other in sorted(others)
        if not any(other in reached(between) for between in others)
    ]


def badness(places: dict[str, tuple[int, int]], arrows: list[tuple[str, str]]) -> float:
    """How hard it is to follow the arrows: their slant, crossings, rooms in the way."""
    total = 100.0 * sum(
        row == other_row and abs(x - other_x) < 2
        for (x, row), (other_x, other_row) in combinations(places.values(), 2)
    )
    lines = []
    for ends in ((places[room], places[other]) for room, other in arrows):
        (x, top), (end, bottom) = ends
        slope = (end - x) / (bottom - top)
        lines.append((x - slope * top, slope, top, bottom, ends))
        total += abs(end - x) + 30 * sum(
            top <= row <= bottom
            and abs(x + slope * (row - top) - place) < 1 + HEIGHT / 2 * abs(slope)
            for place, row in places.values()
            if (place, row) not in ends
        )
    for (x, slope, top, bottom, ends), (a, tilt, upper, lower, others) in combinations(
        lines, 2
    ):
        if not set(ends) & set(others):
            gaps = [
                a - x + (tilt - slope) * row
                for row in (max(top, upper), min(bottom, lower))
            ]
            total += 8 * (
                max(top, upper) < min(bottom, lower) and gaps[0] * gaps[1] <= 0
            )
    return total


def arranged(
    rows: list[list[str]], arrows: list[tuple[str, str]]
) -> dict[str, tuple[int, int]]:
    """Place and floor of each room, each moved to where it is best, again and again."""
    draw = random.Random(0)
    found = []
    for _ in range(30):
        places = {
            room: (draw.choice(PLACES), row)
            for row, floor in enumerate(rows)
            for room in floor
        }
        for room in 3 * draw.sample(list(places), len(places)):
            tried = [places | {room: (x, places[room][1])} for x in PLACES]
            places = min(tried, key=lambda places: badness(places, arrows))
        found.append((badness(places, arrows), places))
    return min(found, key=lambda pair: pair[0])[1]


def draw_house(path: Path) -> None:
    """Draw rooms as boxes, and imports as arrows, which all point down."""
    *rows, (ground,) = floors()
    arrows = without_implied(imports({room for floor in rows for room in floor}))
    places = arranged(rows, arrows)
    figure = Figure(figsize=(7.5, 0.66 * (len(rows) + 1)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-6, 6), ylim=(len(rows) + 0.4, -0.4))
    axes.axis("off")

    def box(room: str, x: float, row: float, width: float) -> FancyBboxPatch:
        axes.text(
            x, row, room, ha="center", va="center", family="monospace", size=9, zorder=3
        )
        return axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, row - HEIGHT / 2),
                width,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.1",
                facecolor=PRIVATE if room.startswith("_") else PUBLIC,
                edgecolor=ARROW,
                zorder=2,
            )
        )

    boxes = {room: box(room, *place, WIDTH) for room, place in places.items()}
    box(ground, 0, len(rows), 11.7)
    for room, other in arrows:
        ends = {"patchA": boxes[room], "patchB": boxes[other]}
        axes.annotate(
            "",
            places[other],
            places[room],
            arrowprops={"arrowstyle": "-|>", "color": ARROW, "shrinkB": 0} | ends,
        )
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def setup(app):
    """Draw the picture before pages are read."""
    app.connect(
        "builder-inited",
        lambda app: draw_house(Path(app.srcdir, "generated", "house.svg")),
    )
    return {"parallel_read_safe": True}
