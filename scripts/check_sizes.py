"""Say which files and functions of the package are longer than CONTRIBUTING.md allows."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "edgewise"
MOST_FILE_LINES, MOST_FUNCTION_LINES = 299, 59


def too_long(path: Path) -> Iterator[str]:
    """A line for the file, and for each function in it, decorators and docstring included."""
    text = path.read_text(encoding="utf-8")
    if (lines := len(text.splitlines())) > MOST_FILE_LINES:
        yield f"{path}: {lines} lines, at most {MOST_FILE_LINES}; split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min((node.lineno, *(x.lineno for x in node.decorator_list)))
            lines = (node.end_lineno or first) - first + 1
            if lines > MOST_FUNCTION_LINES:
                yield (
                    f"{path}:{first}: {node.name} has {lines} lines, at most "
                    f"{MOST_FUNCTION_LINES}; split it"
                )


def main() -> None:
    complaints = [line for path in sorted(PACKAGE.rglob("*.py")) for line in too_long(path)]
    sys.exit("\n".join(complaints) or None)


if __name__ == "__main__":
    main()
