"""`edgewise status`: what a running cluster does."""

import json
import os
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.markup import escape
from rich.table import Table

from edgewise.cli.serve import KEY
from edgewise.cli.sharing import StatusOptions
from edgewise.cli.terminal import console, print_json
from edgewise.errors import InputError
from edgewise.units import format_bytes

ANSWER_SECONDS, MOST_BYTES = 5.0, 2**22


def show_status(options: StatusOptions) -> None:
    state = _state(options.url.rstrip("/").removesuffix("/v1"))
    if options.as_json:
        print_json(state)
        return
    screen = console(as_json=False)
    screen.print(f"[bold]{escape(state['model'])}[/]: {escape(state['status'])}")
    table = Table("device", "threads", "layers", "holds", "of memory")
    for device in state["devices"]:
        layers = ", ".join(f"{start}-{end - 1}" for start, end in device["layers"])
        sizes = (format_bytes(device["used_bytes"]), format_bytes(device["memory_bytes"]))
        table.add_row(escape(device["name"]), str(device["threads"]), layers or "none", *sizes)
    screen.print(table)
    counts = f"{state['running']} running, {state['waiting']} waiting, {state['tokens']} tokens"
    screen.print(f"{', '.join(state['schemes']) or 'no plan'}; {counts}")
    for event in state["events"][-10:]:
        screen.print(f"[dim]{event['seconds']:7.1f} s[/]  {escape(event['text'])}")


def _state(url: str) -> dict[str, Any]:
    """Raises InputError where nothing answers there."""
    if not url.startswith(("http://", "https://")):
        raise InputError(f"--url: '{url}' is no http:// address")
    key = os.environ.get(KEY, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urlopen(
            Request(f"{url}/api/state", headers=headers), timeout=ANSWER_SECONDS
        ) as answer:
            state: dict[str, Any] = json.loads(answer.read(MOST_BYTES))
            return state
    except HTTPError as error:
        hint = f"; set {KEY} to its key" if error.code == 401 else ""
        raise InputError(f"{url}: {error.code} {error.reason}{hint}") from None
    except (URLError, TimeoutError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise InputError(f"nothing answers at {url} ({why}); is `edgewise up` running?") from None
