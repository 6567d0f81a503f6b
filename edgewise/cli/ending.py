"""How a command ends: errors and interrupts as a message and an exit code."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console

from edgewise.errors import EdgewiseError


def run_and_exit(run: Callable[[], str | int | None]) -> NoReturn:
    """Run a command and end the process; errors become a message on standard error, under --json
    also a document, and an exit code."""
    as_json = "--json" in sys.argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, end_now)
    try:
        sys.exit(run())
    except EdgewiseError as error:
        _fail(str(error), type(error).__name__, error.exit_code, as_json)
    except _command_error() as error:
        _fail(error.format_message(), "UsageError", error.exit_code, as_json)
    except (_Interrupted, KeyboardInterrupt, typer.Abort):
        _fail("interrupted", "Interrupted", 130, as_json)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", "OSError", 2, as_json)


def _command_error() -> Any:
    """What typer raises where a command line is wrong. Older ones raise click's own; Flower allows
    no newer one."""
    if hasattr(typer, "TyperException"):
        return typer.TyperException
    from click import ClickException

    return ClickException


class _Interrupted(BaseException):
    """Ctrl-C or a termination; typer would swallow a KeyboardInterrupt without a word."""


def end_now(signum: int, frame: object) -> NoReturn:
    """The first interrupt ends the command; a second one must not cut its cleaning up short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Interrupted


def _fail(message: str, kind: str, code: int, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": code}}))
    Console(stderr=True, soft_wrap=True, highlight=False).print("error:", style="bold red", end=" ")
    typer.echo(message, err=True)
    sys.exit(code)
