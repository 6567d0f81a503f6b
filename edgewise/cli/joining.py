"""This machine as one that others join: what `up` and `tune --join` share."""

import contextlib
import socket

import psutil

from edgewise.cli.terminal import print_notes
from edgewise.clusters import Device
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers.agents import AgentLauncher
from edgewise.runtime.launchers.kept_keys import identity_at
from edgewise.runtime.live import start_live
from edgewise.runtime.messages import WorkerProgram

LOOPBACK = ("127.0.0.1", "::1", "localhost")
EVERYWHERE = ("0.0.0.0", "::")


def start_listening(
    device: Device,
    listen: tuple[str, int],
    new_keys: bool,
    program: WorkerProgram = WorkerProgram.SERVE,
) -> tuple[Workers, AgentLauncher, str]:
    """Start this machine's worker and let others join; the last is the line for them. Raises
    InputError, DeviceError."""
    host = reachable(listen[0])
    identity, is_kept = identity_at(f"{listen[0]}:{listen[1]}", new=new_keys)
    if is_kept:
        print_notes(["machines that joined here before join again; --new-keys keeps them out"])
    workers, agents, invitation = start_live(device, *listen, identity, program)
    port = agents.address.rpartition(":")[2]
    return workers, agents, f"edgewise join {host}:{port} --token {invitation.token}"


def reachable(host: str) -> str:
    """Where others reach this machine: of an address that means all, the one that leads out, else
    the first of its own."""
    if host not in EVERYWHERE:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing; an address for documents (RFC 5737)
        return str(probe.getsockname()[0])
    own = (x.address for all_of in psutil.net_if_addrs().values() for x in all_of
           if x.family == socket.AF_INET and x.address not in LOOPBACK)  # fmt: skip
    return next(own, LOOPBACK[0])
