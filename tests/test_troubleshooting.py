"""The page's messages are those of the code: all that is quoted is in it, but for what differs."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
ROWS = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
QUOTED = [text for row in ROWS for text in re.findall(r"`([^`]+)`", row)]


def texts() -> list[str]:
    """Every text in the code; what is put into one becomes a NUL."""
    written = [(ROOT / "Makefile").read_text()]
    for path in (ROOT / "edgewise").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (x.value if isinstance(x, ast.Constant) else "\0" for x in node.values)
                written.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                written.append(node.value)
    return written


TEXTS = texts()


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_is_one_of_the_code(message: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    assert any(pattern.search(text) for text in TEXTS)


def test_there_are_some_and_each_says_something() -> None:
    assert len(QUOTED) > 40
    assert all(len(message.replace("…", "")) >= 10 for message in QUOTED)
