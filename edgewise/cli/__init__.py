"""The command line: each command is a row of a table (commands.py) and a file of its own."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

from edgewise import __version__
from edgewise.cli.commands import COMMANDS
from edgewise.cli.ending import run_and_exit

app = typer.Typer(
    name="edgewise",
    help="Run one large language model across the devices you already have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgewise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def _command(options: type, target: str) -> Callable[..., None]:
    """A function with a parameter for each field of `options`, as typer reads them. It hands them
    to `target`, "module:function", which is imported only then."""
    module, _, function = target.partition(":")

    def call(**values: object) -> None:
        getattr(import_module(module), function)(options(**values))

    # What `inspect.signature` reads, and typer through it; annotations of functions do not know it.
    call.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
    call.__doc__ = options.__doc__
    return call


for _name, (_options, _target) in COMMANDS.items():
    app.command(_name)(_command(_options, _target))


def main() -> None:
    """Run the command line and end the process."""
    run_and_exit(lambda: app(standalone_mode=False))
