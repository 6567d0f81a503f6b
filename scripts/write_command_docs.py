"""Write docs/commands.md from the commands' own help, or with --check say whether it is current."""

import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

from edgewise.cli import app

TARGET = Path(__file__).parent.parent / "docs" / "commands.md"


def render() -> str:
    """The page: the help of `edgewise` and of each command, as printed 80 columns wide."""
    group = typer.main.get_group(app)
    names = [[], *[[name] for name in sorted(group.commands)]]
    runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"})
    parts = ["# Commands\n\nWritten by `make docs` from the commands' own help.\n"]
    for name in names:
        text = runner.invoke(app, [*name, "--help"], prog_name="edgewise").output
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(f"## {' '.join(['edgewise', *name])}\n\n```\n{lines}\n```\n")
    return "\n".join(parts)


def main() -> None:
    if "--check" not in sys.argv:
        TARGET.write_text(render(), encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != render():
        sys.exit("docs/commands.md is out of date: run `make docs`")


if __name__ == "__main__":
    main()
