"""`edgewise up`: a model on this machine and on those that join it."""

import contextlib
import socket

import psutil

from edgewise.cli.serve import LOOPBACK, Started, on_ray, serve
from edgewise.cli.sharing import UpOptions
from edgewise.cli.terminal import print_notes
from edgewise.cli.this_device import parse_address
from edgewise.clusters import Device
from edgewise.runtime.launchers.kept_keys import identity_at
from edgewise.runtime.live import start_live

EVERYWHERE = ("0.0.0.0", "::")


def run_up(options: UpOptions) -> None:
    """Devices join and leave."""
    listen = parse_address(options.listen, "--listen")
    serve(options, lambda device: _start(device, listen, options))


def _start(device: Device, listen: tuple[str, int], options: UpOptions) -> Started:
    host = _reachable(listen[0])
    if options.ray:
        return on_ray(device, host)
    identity, is_kept = identity_at(f"{listen[0]}:{listen[1]}", new=options.new_keys)
    if is_kept:
        print_notes(["machines that joined here before join again; --new-keys keeps them out"])
    workers, agents, invitation = start_live(device, *listen, identity)
    port = agents.address.rpartition(":")[2]
    line = f"edgewise join {host}:{port} --token {invitation.token}"
    return Started(workers, agents, (line,))


def _reachable(host: str) -> str:
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
