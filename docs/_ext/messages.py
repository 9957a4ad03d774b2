"""Lists the errors that ``docs/user_guide/messages.md`` does not explain.

The page includes the list, which is read from the code, so that a search for the text
of any error finds the page.
``tests/test_messages.py`` compares the explained messages with the code.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/user_guide/messages.md"
# A shorter text is a part of a message, or another error that is raised again.
FEWEST_WORDS = 4
FOLD = "```{{raw}} html\n<details><summary>{}</summary>\n```\n"
END = "```{raw} html\n</details>\n```\n"


def explained() -> list[str]:
    """Beginnings of the messages that the page explains, with … for what varies."""
    return re.findall(r"^`(.+)`\n: ", PAGE.read_text(encoding="utf-8"), re.M)


def text(node: ast.AST) -> str:
    """A string of the code, with … for all that is filled in."""
    if isinstance(node, ast.JoinedStr):
        parts = [text(value) for value in node.values]
        return re.sub("…+|  +", lambda run: run[0][0], "".join(parts))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "…"


def begins(beginning: str, message: str) -> bool:
    """Whether a message begins as given, if each … may stand for anything."""
    parts = beginning.rstrip("…").split("…")
    if not message.startswith(parts[0]):
        return False
    place = 0
    for part in parts:
        place = message.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


def raised(tree: ast.AST) -> Iterator[str]:
    """Texts of the errors that a module raises."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            message = "".join(map(text, node.exc.args[:1]))
            if len(re.findall(r"\w+", message)) >= FEWEST_WORDS:
                yield message


def unexplained() -> dict[str, list[str]]:
    """Texts of errors that are not explained, by the public module that raises them."""
    beginnings = explained()
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "skmfr").rglob("*.py")):
        room = path.relative_to(ROOT).with_suffix("").parts[1]
        module = "skmfr" if room.startswith("_") else f"skmfr.{room}"
        for message in raised(ast.parse(path.read_text(encoding="utf-8"))):
            if not any(begins(each, message) for each in beginnings):
                found.setdefault(module, set()).add(message)
    return {module: sorted(messages) for module, messages in sorted(found.items())}


def write(app) -> None:
    """Write the list that the page includes."""
    lines = []
    for module, messages in unexplained().items():
        lines += [FOLD.format(module), *(f"- `{said}`" for said in messages), "", END]
    path = Path(app.srcdir) / "generated/errors.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")


def setup(app) -> dict[str, object]:
    app.connect("builder-inited", write)
    return {"version": "1", "parallel_read_safe": True}
