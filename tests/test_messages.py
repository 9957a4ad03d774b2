"""The page of warnings and errors lists what the code says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/user_guide/messages.md").read_text(encoding="utf-8")
LISTED = re.findall(r"^`(.+)`\n: ", PAGE, re.M)


def text(node: ast.AST) -> str:
    """A string of the code, with … for all that is filled in."""
    if isinstance(node, ast.JoinedStr):
        parts = [text(value) for value in node.values]
        return re.sub("…+|  +", lambda run: run[0][0], "".join(parts))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "…"


def strings(tree: ast.AST) -> set[str]:
    """All strings below a node; the parts of an f-string count as one."""
    return {
        text(node)
        for node in ast.walk(tree)
        if isinstance(node, (ast.JoinedStr, ast.Constant))
    }


def is_warning(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"


TREES = [
    ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "skmfr").rglob("*.py"))
]
STRINGS = set().union(*map(strings, TREES))
# Those that are not made elsewhere.
WARNINGS = sorted(
    text(node.args[0])
    for tree in TREES
    for node in ast.walk(tree)
    if is_warning(node) and text(node.args[0]) != "…"
)


def begins(listed: str, said: str) -> bool:
    """Whether a listed message is the beginning of one in the code."""
    parts = listed.rstrip("…").split("…")
    if not said.startswith(parts[0]):
        return False
    place = 0
    for part in parts:
        place = said.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


@pytest.mark.parametrize("listed", LISTED)
def test_listed_messages_are_in_the_code(listed):
    assert any(begins(listed, said) for said in STRINGS)


@pytest.mark.parametrize("said", WARNINGS)
def test_each_warning_is_listed(said):
    assert any(begins(listed, said) for listed in LISTED)


def test_the_page_has_no_message_twice():
    assert len(LISTED) == len(set(LISTED)) > 70
