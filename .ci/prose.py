"""Lint the prose of Markdown pages, docstrings, comments and messages.

    python .ci/prose.py FILE ...

Runs the rules below, and proselint with ``.ci/proselint.json``. Code, tables and
mathematics are skipped.
"""

import ast
import io
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

# Patterns that native writers avoid, and what they write.
RULES = {
    r"\b(go|goes|going|gone|went) on (with|from|to)\b": "continue, resume",
    r"\b(is|are|was|were) to be (had|found|seen)\b": "name the subject",
    r"\b(out of|of|for) (which|whose)\b": "two sentences",
    r"\bwhom\b": "two sentences",
    r"\bhangs? on\b": "depends on",
    r"(^|[.:;] )(?-i:What) (?!is new)(?![^.?]*\?)": "begin with the subject",
    r"\bas the user guide (tells|says)\b": "see the user guide",
    r"\bstands? (in|there|here|beside|alone)\b": "is in, is there",
    r"(?<!there )\b(is|are|was|were) no (?!longer|more|less|better|worse|different"
    r"|larger|smaller)\w": "is not a",
    r"\bof (its|their|our|his|your|one's) own\b(?! [a-z])": "its own",
    r"\bquite another\b": "a very different",
    r"\b(will|would) do\b(?! (so|this|that|it))": "is enough, works",
    r"\b(do|does|goes|go) without\b": "does not need",
    r"\bin small( on\b|[.,;:]|$)": "on a small example",
    r"\b(tells|told|says|tell|say) of\b": "describes, reports",
    r"\b(of ((?!and |or )[\w·'-]+ ){1,3}){2}of\b": "a chain of 'of'",
    r"\bneither (\S+ ){1,12}nor (\S+ ){1,12}nor\b": "a list with 'not'",
    r"\bare not to be\b": "cannot be",
    r"\b(but|save) for\b": "except for",
    r"\bhow far\b": "how much, how closely",
    r"\b(therein|thereof|wherein|whereof|thereupon|likewise)\b": "plain words",
    r"(?-i:\b([a-z]+) \1\b)": "a word twice",
    # British spelling.
    r"\b(color|behavior|favor|neighbor|labeled|modeled|gray|artifact)s?\b": "British",
    r"\bcenter(s|ed|ing)?\b": "centre",
    r"\banalyz(e|es|ed|ing)\b": "analyse",
    r"\b(?!resiz|siz|priz|seiz)[a-z]{3,}iz(e[sd]?|ing|ations?)\b": "-ise",
}
RULES = {re.compile(rule, re.I): advice for rule, advice in RULES.items()}
# Up to an empty line or the next item of a list.
PARAGRAPH = re.compile(r"^.*\S.*\n(?:(?! *[-:*] | *\d+\. ).*\S.*\n)*", re.M)
# The method's name, and titles of papers.
NAMES = re.compile(r'mutual feature regularization|"[^"]+", arXiv', re.I)


def erased(patterns: list[str], text: str, by: str = " ") -> str:
    """The text with each match replaced, character by character but for line ends."""
    for pattern in patterns:
        text = re.sub(
            pattern,
            lambda match: re.sub(r"[^\n]", by, match[0]),
            text,
            flags=re.M | re.S,
        )
    return text


INLINE = [r"``[^`]+``", r"`[^`]+`_?", r"https?://\S+", r"\b\w+_\w*\b"]


def markdown(text: str) -> str:
    """The prose of a page of Markdown."""
    fences, indented = r"^ *(```+|~~~+|:::+).*?^ *\1 *$", r"^    (?! *[-*\d]).*?$"
    tables, quotes = r"^ *\|.*?$", r"^>.*?$"
    text = erased(
        [fences, indented, tables, quotes, r"\A---\n.*?^---$", r"\$\$.*?\$\$"], text
    )
    return erased([r"\$[^$\n]*\$", *INLINE, r"\]\([^)]*\)"], text, "·")


def python(text: str) -> str:
    """Docstrings, comments, and messages of errors and warnings of a module."""
    statements = list(ast.walk(ast.parse(text)))
    messages = {
        line
        for node in statements
        if isinstance(node, ast.Raise)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn")
        for line in range(node.lineno, node.end_lineno + 1)
    }
    docstrings = {
        node.lineno
        for node in statements
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    kept = [[" "] * len(line) for line in text.splitlines()]
    middle = getattr(tokenize, "FSTRING_MIDDLE", None)  # from Python 3.12
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            keep = not re.match(r"# (noqa|type:)", token.string)
        else:
            keep = token.type in (tokenize.STRING, middle) and (
                row in messages or row in docstrings
            )
        if keep:
            quoted = erased([r"\A(#|\w*\"+|\w*'+)", r"[\"']+\Z", r"\\n"], token.string)
            quoted = erased([r"\{[^{}]*\}"], quoted, "·") if row in messages else quoted
            for i, line in enumerate(quoted.split("\n")):
                left = column if i == 0 else 0
                kept[row - 1 + i][left : left + len(line)] = line
    prose = "\n".join(map("".join, kept)) + "\n"
    code = [
        r"^ *>>>.*?(?=^ *$|\Z)",
        r"^ *=+ [= ]+$.*?(?=\n *\n|\Z)",
        r"\.\. (?:math|code-block)::.*?(?=\n *\n {0,4}\S|\Z)",
        r"::\n *\n.*?(?=\n *\n {0,4}\S|\Z)",
        r"^ *[\w*, ]+ : [^\n]*$",
    ]
    return erased(INLINE, erased([*code, r":\w+:`[^`]*`"], prose), "·")


def house_rules(prose: str) -> Iterator[tuple[int, str]]:
    """First line of a paragraph, and what is wrong in the paragraph."""
    for paragraph in PARAGRAPH.finditer(prose):
        line = prose.count("\n", 0, paragraph.start()) + 1
        text = NAMES.sub("·", " ".join(paragraph[0].split()))
        for rule, advice in RULES.items():
            for match in rule.finditer(text):
                yield line, f"{match[0].strip()!r}: {advice}"


def main(names: list[str]) -> int:
    """Print what is wrong in the files; 1 if anything is."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            text = Path(name).read_text(encoding="utf-8")
            prose = python(text) if name.endswith(".py") else markdown(text)
            found += [f"{name}:{n}: {what}" for n, what in sorted(house_rules(prose))]
            Path(folder, f"{number}.txt").write_text(prose, encoding="utf-8")
        config = Path(__file__).with_name("proselint.json")
        command = ["proselint", "check", "--config", config, folder]
        ran = subprocess.run(command, capture_output=True, text=True)
        for line in (ran.stdout + ran.stderr).splitlines():
            found.append(
                re.sub(r"^\S*/(\d+)\.txt", lambda match: names[int(match[1])], line)
            )
    print("\n".join(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
