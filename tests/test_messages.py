"""The page of warnings and errors lists what the code says."""

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs/_ext/messages.py"))
text, begins, raised = (SCRIPT[name] for name in ("text", "begins", "raised"))
LISTED = SCRIPT["explained"]()


def strings(tree: ast.AST) -> set[str]:
    """All strings below a node; the parts of an f-string count as one."""
    return {
        text(node)
        for node in ast.walk(tree)
        if isinstance(node, (ast.JoinedStr, ast.Constant))
    }


def is_warning(node: ast.AST) -> bool:
    # Signs of a failed fit become warnings elsewhere.
    calls = "warnings.warn", "signs.append"
    return isinstance(node, ast.Call) and ast.unparse(node.func) in calls


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


@pytest.mark.parametrize("listed", LISTED)
def test_listed_messages_are_in_the_code(listed):
    assert any(begins(listed, said) for said in STRINGS)


@pytest.mark.parametrize("said", WARNINGS)
def test_each_warning_is_listed(said):
    assert any(begins(listed, said) for listed in LISTED)


def test_the_page_has_no_message_twice():
    assert len(LISTED) == len(set(LISTED)) > 70


def test_texts_of_errors_are_read_from_the_code():
    code = """
def f(x):
    raise ValueError(f"x must be {'a' if x else 'b'} or more, "
        f"got {x}.")
    raise x from ValueError("not raised, but a long text")
    raise TypeError("too short")
"""
    assert list(raised(ast.parse(code))) == ["x must be … or more, got …."]


def test_all_errors_are_on_the_page():
    listed = SCRIPT["unexplained"]()
    assert {module.partition(".")[0] for module in listed} == {"skmfr"}
    assert sum(map(len, listed.values())) > 150
    assert "generated/errors.md" in SCRIPT["PAGE"].read_text(encoding="utf-8")
