"""`edgewise study`: reproduce a paper's tables and figures."""

from edgewise.cli.commands import StudyOptions
from edgewise.cli.terminal import console, print_text, progress
from edgewise.studies import write_study


def run_study(options: StudyOptions) -> None:
    """Write a study into a folder; print the page, or its JSON. Raises InputError."""
    screen, testbed = console(options.as_json), options.testbed
    with progress(f"study '{options.name}'", None, options.as_json) as advance:
        page, files = write_study(
            options.name,
            options.out,
            options.model,
            advance,
            testbed=testbed,
            text=options.text,
        )
    if options.as_json:
        print_text(page.to_json() + "\n")
        return
    print_text(page.markdown())
    screen.print(f"\nwrote {', '.join(path.name for path in files)} to {options.out}", markup=False)
