"""A SuperLink and SuperNodes as processes of this machine, with TLS between them, which end when
what uses them does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from edgewise.errors import DeviceLost, EdgewiseError, InputError
from edgewise.federation.flower.certificates import (
    Certificates,
    make_certificates,
    make_node_key,
)
from edgewise.federation.flower.link import LOOPBACK
from edgewise.federation.flower.project import CONNECTION, write_connection, write_project

STARTING, ENDING, ASKING = 60.0, 10.0, 60.0  # seconds at most
POLL = 0.2
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}  # nothing told to anybody
TAIL = 2000  # characters of a log


@dataclass(frozen=True, slots=True)
class FlowerDevice:
    """A SuperNode: its name, its data, on how many threads it computes, and what its processes find
    in their environment beside ours. Without data it is of another machine, and started there."""

    name: str
    data: Path | None
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SuperLink:
    """What runs, in `folder`: logs, certificates, keys. `nodes` are the SuperNodes' processes."""

    folder: Path
    address: str
    certificates: Certificates
    process: subprocess.Popen[bytes]
    nodes: Mapping[str, subprocess.Popen[bytes]]


@contextmanager
def super_link(
    folder: Path, devices: Sequence[FlowerDevice], host: str = LOOPBACK, port: int | None = None
) -> Iterator[SuperLink]:
    """A SuperLink that is reached at `host`, and a SuperNode for each device that is here; it lets
    in those whose keys were made, no other, and is controlled from this machine alone. Raises
    DeviceLost where it does not start, InputError where `flwr` is not installed, OSError."""
    if find_spec("flwr") is None:
        raise _missing()
    port = port or free_port()
    address = f"{host}:{port}"
    certificates = make_certificates(folder, list(dict.fromkeys([host, LOOPBACK, "localhost"])))
    write_connection(folder / "home", address, certificates.authority)
    command = [
        sys.executable, "-P", "-m", "edgewise.federation.flower.link", "--host", host,
        "--port", str(port), "--enable-supernode-auth", "--disable-runtime-dependency-installation",
        *_tls(certificates),
    ]  # fmt: skip
    with ExitStack() as running:
        link = running.enter_context(_process(folder, "superlink", command))
        _answers(folder, "superlink", link, host, port)
        nodes = dict[str, subprocess.Popen[bytes]]()
        for device in devices:
            secret, public = make_node_key(folder, device.name)
            flower(folder, "supernode", "register", str(public), CONNECTION)
            if device.data is not None:
                command = node_command(address, certificates, secret, device)
                process = _process(folder, device.name, command, device.environment)
                nodes[device.name] = running.enter_context(process)
        yield SuperLink(folder, address, certificates, link, nodes)


def node_command(
    address: str, certificates: Certificates, secret: Path, device: FlowerDevice
) -> list[str]:
    """How a SuperNode is started. Raises InputError where its data's path cannot be passed on."""
    path = str(device.data.resolve() if device.data else f"{device.name}.jsonl")
    if any(x in path for x in "'\"\\\n"):
        raise InputError(f"{path}: a path with quotes or backslashes cannot be given to Flower")
    config = f"name='{device.name}' data='{path}' threads={device.threads}"
    return [
        "flower-supernode", "--superlink", address,
        "--root-certificates", str(certificates.authority),
        "--auth-supernode-private-key", str(secret), "--node-config", config,
        "--host", LOOPBACK, "--port", str(free_port()), *_tls(certificates),
    ]  # fmt: skip


def line_for(link: SuperLink, device: FlowerDevice) -> str:
    """What starts a device's SuperNode on another machine, where its key and the authority's
    certificate lie in the working folder."""
    return (
        f"{' '.join(f'{name}={x}' for name, x in QUIET.items())} "
        f"flower-supernode --superlink {link.address} --root-certificates "
        f"{link.certificates.authority.name} --auth-supernode-private-key {device.name}.key "
        f"--node-config \"name='{device.name}' data='{device.name}.jsonl'\""
    )


def start_run(link: SuperLink, config: Mapping[str, bool | int | float | str]) -> int:
    """Let the SuperLink begin; returns Flower's number of the run. Raises EdgewiseError."""
    project = link.folder / "edgewise-federation"
    write_project(project, config)
    said = flower(link.folder, "run", str(project), CONNECTION, "--format", "json")
    try:
        return int(json.loads(said)["run-id"])
    except (ValueError, KeyError, TypeError):
        raise EdgewiseError(f"Flower did not begin: {said[-TAIL:]}") from None


def check_running(link: SuperLink, begun: bool) -> None:
    """Raises DeviceLost where the SuperLink ended, or a SuperNode before all had joined."""
    for name, process in {"superlink": link.process, **({} if begun else link.nodes)}.items():
        if process.poll() is not None:
            raise DeviceLost(name, f"ended: {_tail(link.folder, name)}")


def flower(folder: Path, *arguments: str) -> str:
    """What Flower's command says. Raises EdgewiseError where it fails."""
    command = ["flwr", *arguments]
    try:
        done = subprocess.run(
            command, env=flower_environment(folder), capture_output=True, text=True, timeout=ASKING,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise _missing() from None
    except subprocess.TimeoutExpired:
        raise EdgewiseError(f"{' '.join(command)} took more than {ASKING:g} s") from None
    if done.returncode:
        raise EdgewiseError(f"{' '.join(command)}: {(done.stderr or done.stdout)[-TAIL:]}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(
    folder: Path, name: str, command: Sequence[str], more: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output is in `folder`/NAME.log; it is ended, then killed."""
    with (folder / f"{name}.log").open("wb") as log:
        try:
            process = subprocess.Popen(
                command, env=flower_environment(folder) | dict(more or {}), stdout=log,
                stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise _missing() from None
    try:
        yield process
    finally:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            _signal(process, signum)
            try:
                process.wait(ENDING)
                break
            except subprocess.TimeoutExpired:
                continue
        _signal(process, signal.SIGKILL)  # what it started, and left


def _signal(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signum)  # of its own session: nothing else is in its group


def _answers(
    folder: Path, name: str, process: subprocess.Popen[bytes], host: str, port: int
) -> None:
    """Wait until a server takes connections. Raises DeviceLost."""
    end = time.monotonic() + STARTING
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(POLL)
    raise DeviceLost(name, f"did not start: {_tail(folder, name)}")


def _tail(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-TAIL:]


def flower_environment(folder: Path) -> dict[str, str]:
    """Flower's own folder, nothing told to anybody, and its commands from beside this Python."""
    beside = Path(sys.executable).parent
    return os.environ | {
        "FLWR_HOME": str(folder / "home"),
        **QUIET,
        "FORWARDED_ALLOW_IPS": LOOPBACK,  # nobody else may say whom he asks for: see `link`
        "PATH": os.pathsep.join([str(beside), os.environ.get("PATH", os.defpath)]),
    }


def _tls(certificates: Certificates) -> list[str]:
    return [
        "--ssl-ca-certfile", str(certificates.authority),
        "--ssl-certfile", str(certificates.certificate), "--ssl-keyfile", str(certificates.key),
    ]  # fmt: skip


def _missing() -> InputError:
    return InputError("Flower is not installed: pip install 'edgewise[federated]'")
