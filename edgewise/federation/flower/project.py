"""The Flower app that a federation runs: a folder whose two modules name what is in Edgewise, which
every SuperNode has installed, and whose configuration is the federation's settings."""

import json
from collections.abc import Mapping
from pathlib import Path

from edgewise import __version__
from edgewise.errors import InputError

MODULE = "edgewise_federation"
CONNECTION = "edgewise"


def write_project(folder: Path, config: Mapping[str, bool | int | float | str]) -> None:
    """Raises OSError, InputError where a value cannot be written down."""
    (folder / MODULE).mkdir(parents=True, exist_ok=True)
    values = "\n".join(f"{name} = {_written(name, value)}" for name, value in config.items())
    (folder / "pyproject.toml").write_text(
        f"""[project]
name = "edgewise-federation"
version = "{__version__}"
description = "A model adapted where the data is"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "edgewise"

[tool.flwr.app.components]
serverapp = "{MODULE}.server:app"
clientapp = "{MODULE}.client:app"

[tool.flwr.app.config]
{values}
""",
        encoding="utf-8",
    )
    sources = {
        "__init__": '"""Edgewise\'s federation."""\n',
        "server": "from edgewise.federation.flower import server_app\n\napp = server_app.app\n",
        "client": "from edgewise.federation.flower import client_app\n\napp = client_app.app\n",
    }
    for name, source in sources.items():
        (folder / MODULE / f"{name}.py").write_text(source, encoding="utf-8")


def write_connection(home: Path, address: str, authority: Path) -> None:
    """Tell Flower's command where the SuperLink is. Raises OSError."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f"""[superlink]
default = "{CONNECTION}"

[superlink.{CONNECTION}]
address = "{address}"
root-certificates = {_written("authority", str(authority))}
""",
        encoding="utf-8",
    )


def _written(name: str, value: bool | int | float | str) -> str:
    """In TOML, which has JSON's literals but neither its surrogates nor a bare DEL."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        written.encode()
    except ValueError:
        raise InputError(f"{name} is {value!r}, which cannot be handed to Flower") from None
    return written.replace("\x7f", "\\u007f")
