"""`edgewise study`: reproduce a paper's tables and figures."""

from pathlib import Path

from edgewise.cli.terminal import console, print_text, progress
from edgewise.studies import write_study


def run_study(name: str, *, out: Path, model: str | None, as_json: bool) -> None:
    """Write a study into a folder; print the page, or its JSON. Raises InputError."""
    screen = console(as_json)
    with progress(f"study '{name}'", None, as_json) as advance:
        page, files = write_study(name, out, model, advance)
    if as_json:
        print_text(page.to_json() + "\n")
        return
    print_text(page.markdown())
    screen.print(f"\nwrote {', '.join(path.name for path in files)} to {out}", markup=False)
